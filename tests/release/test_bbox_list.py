import io
import tarfile

import numpy as np
import pytest
from etils import epath

from cxr.release import bbox_list, sources
from cxr.release.bbox_list import HEADER, read_boxed, read_boxes, read_images

NAME = "00000009_000.png"


def write_list(folder, *rows: str, header: str = HEADER) -> epath.Path:
    folder.mkdir(exist_ok=True)
    (folder / bbox_list.FILE).write_text("\n".join([header, *rows]) + "\n")
    return epath.Path(folder)


def test_boxes_become_corners_and_infiltrate_becomes_infiltration(tmp_path):
    folder = write_list(tmp_path, f"{NAME},Infiltrate,10.5,20,30,40.25,,,", f"{NAME},Mass,0,0,1024,1024")
    assert read_boxes(folder) == [
        (NAME, "Infiltration", (10.5, 20, 40.5, 60.25)),
        (NAME, "Mass", (0, 0, 1024, 1024)),
    ]


@pytest.mark.parametrize("header", [HEADER, "Image Index,Finding Label,Bbox [x,y,w,h]", "\ufeff" + HEADER])
def test_headers_of_re_uploads(tmp_path, header):
    assert len(read_boxes(write_list(tmp_path, f"{NAME},Mass,1,2,3,4", "", header=header))) == 1


def test_the_list_of_the_release(shared_dir):
    rows = read_boxes(epath.Path(shared_dir / "nih-1024"))
    assert (len(rows), len({row.image_id for row in rows})) == (984, 880)
    counts = {finding: sum(row.finding == finding for row in rows) for finding in ("Infiltration", "Nodule", "Hernia")}
    assert counts == {"Infiltration": 123, "Nodule": 79, "Hernia": 0}


def test_a_box_less_than_a_pixel_outside_is_clipped(tmp_path):
    folder = write_list(tmp_path, f"{NAME},Mass,-0.5,1000,24.001,24.9")
    assert read_boxes(folder)[0].box_nih == (0, 1000, pytest.approx(23.501), 1024)


@pytest.mark.parametrize(
    ("row", "text"),
    [
        (
            f"{NAME},Mass,1000,0,30,10",
            "x 1000, y 0, w 30, h 10 is outside the image; expected pixels of 1024 x 1024",
        ),
        (f"{NAME},Mass,-2,0,30,10", "x -2, y 0, w 30, h 10 is outside the image; expected pixels of 1024 x 1024"),
        (f"{NAME},Mass,1,2,0,10", "x 1, y 2, w 0, h 10 is not a box; expected w and h above 0"),
        (f"{NAME},Mass,1,2,5,-1", "x 1, y 2, w 5, h -1 is not a box; expected w and h above 0"),
        (f"{NAME},Mass,nan,2,5,1", "x nan, y 2, w 5, h 1 is not a box; expected w and h above 0"),
        (f"{NAME},Mass,1,2,inf,1", "x 1, y 2, w inf, h 1 is not a box; expected w and h above 0"),
        (f"{NAME},Mass,1,two,3,4", "x, y, w, h are 1, two, 3, 4; expected four numbers"),
        (f"{NAME},Mass,1,2,3", "5 cells, expected an image, a finding and x, y, w, h"),
        (f"{NAME},Mas,1,2,3,4", "unknown finding 'Mas'; expected one of Atelectasis, Cardiomegaly, "),
        (f"{NAME},Nodule,1,2,3,4", "the same box as in row 2"),
    ],
)
def test_a_row_that_is_not_a_box_is_named(tmp_path, row, text):
    folder = write_list(tmp_path, f"{NAME},Nodule,1,2,3,4", row)
    with pytest.raises(ValueError) as caught:  # noqa: PT011, the whole text is compared
        read_boxes(folder)
    assert str(caught.value).startswith(f"{folder / bbox_list.FILE} row 3: {text}")


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"Image,Label,x\n", f"begins with 'Image,Label,x', expected '{HEADER}'"),
        (b"", f"begins with '', expected '{HEADER}'"),
        (b"\x89PNG\r\n\xff\xfe", "is not a readable CSV: 'utf-8' codec can't decode"),
        (HEADER.encode() + b"\n\n", "has a header and no rows"),
    ],
)
def test_a_file_that_is_not_a_list_of_boxes_is_rejected(tmp_path, data, text):
    (tmp_path / bbox_list.FILE).write_bytes(data)
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        read_boxes(epath.Path(tmp_path))
    assert str(caught.value).startswith(f"{tmp_path / bbox_list.FILE} {text}")


def test_a_release_without_boxes(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        read_boxes(epath.Path(tmp_path))
    assert str(caught.value) == (
        f"no {tmp_path / bbox_list.FILE}; download it from the same place as the images, or correct --data_dir"
    )


def test_boxes_by_image_with_the_patient_of_the_csv(tiny_release):
    folder = tiny_release(patients=3)
    write_list(
        folder,
        "00000003_000.png,Mass,1,2,3,4",
        "00000002_001.png,Mass,1,2,3,4",
        "00000002_001.png,Nodule,5,6,7,8",
        "00000002_001.png,Mass,10,20,30,40",
    )
    boxed = read_boxed(epath.Path(folder))
    assert {image_id: one.patient_id for image_id, one in boxed.items()} == {
        "00000002_001.png": 2,
        "00000003_000.png": 3,
    }
    of_two = boxed["00000002_001.png"].boxes_nih
    assert {finding: boxes.tolist() for finding, boxes in of_two.items()} == {
        "Mass": [[1, 2, 4, 6], [10, 20, 40, 60]],
        "Nodule": [[5, 6, 12, 14]],
    }


def test_boxes_of_unknown_images_are_rejected(tiny_release):
    folder = tiny_release(patients=2)
    write_list(folder, f"{NAME},Mass,1,2,3,4", f"{NAME},Nodule,1,2,3,4", "00000001_000.png,Mass,1,2,3,4")
    with pytest.raises(ValueError, match=r"BBox_List_2017.csv has 1 images that are not in Data_Entry_2017.csv, "):
        read_boxed(epath.Path(folder))


def test_without_a_csv_the_patient_is_taken_from_the_image_id(tmp_path):
    assert read_boxed(write_list(tmp_path / "a", f"{NAME},Mass,1,2,3,4"))[NAME].patient_id == 9
    with pytest.raises(ValueError, match=r"has image 'chest\.png'; expected a name such as 00000001_000\.png"):
        read_boxed(write_list(tmp_path / "b", "chest.png,Mass,1,2,3,4"))


def read_all(folder, image_ids) -> tuple[dict, dict]:
    broken = {}
    found = sources.find_images(epath.Path(folder), image_ids)
    return dict(read_images(epath.Path(folder), found, image_ids, broken)), broken


def test_images_are_read_from_folders_and_from_archives_without_random_access(tiny_release, tmp_path):
    folder = tiny_release(patients=2)
    image_ids = ["00000001_001.png", "00000002_000.png", "00000002_002.png"]
    plain, _ = read_all(folder, image_ids)
    assert list(plain) == image_ids
    assert plain[image_ids[0]].shape == (48, 48)
    packed = tmp_path / "packed"
    packed.mkdir()
    with tarfile.open(packed / "images_001.tar.gz", "w:gz") as archive:
        archive.add(folder / "images", "images")
        archive.add(folder / "images" / image_ids[0], "again/" + image_ids[0])
    streamed, _ = read_all(packed, image_ids)
    assert sorted(streamed) == image_ids
    assert all(np.array_equal(streamed[image_id], plain[image_id]) for image_id in image_ids)


def test_unreadable_images_are_recorded_with_the_reason(tiny_release):
    folder = tiny_release(patients=1)
    (folder / "images" / "00000001_001.png").write_bytes(b"not found")
    with tarfile.open(folder / "more.tar.gz", "w:gz") as archive:
        member = tarfile.TarInfo("00000001_007.png")
        member.size = 5
        archive.addfile(member, io.BytesIO(b"<html"))
    pixels, broken = read_all(folder, ["00000001_000.png", "00000001_001.png", "00000001_007.png", "absent.png"])
    assert list(pixels) == ["00000001_000.png"]
    assert list(broken) == ["00000001_001.png", "00000001_007.png"]
    assert broken["00000001_001.png"].endswith("image (9 bytes, starting 'not found')")
    assert broken["00000001_007.png"].endswith("image (5 bytes, starting '<html')")


def test_an_image_over_the_size_limit_in_a_stream_is_not_read(tiny_release, monkeypatch):
    folder = tiny_release(patients=1)
    with tarfile.open(folder / "more.tar.gz", "w:gz") as archive:
        archive.add(folder / "images" / "00000001_000.png", "00000001_007.png")
    monkeypatch.setattr(bbox_list.locations, "MAX_BYTES", 10)
    pixels, broken = read_all(folder, ["00000001_007.png"])
    assert (pixels, list(broken)) == ({}, ["00000001_007.png"])
