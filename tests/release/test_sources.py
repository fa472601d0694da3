import io
import tarfile
import zipfile

import pytest
from etils import epath

from cxr.release.locations import read_bytes
from cxr.release.sources import find_images, identify, stems

IDS = {"a.png", "b.png", "c.png"}
ABC = {"a.png": b"AAA", "b.png": b"BB", "c.png": b"C"}


def tar_of(members, **kinds):
    """The bytes of a plain tar of {name: content}; `kinds` gives some members another type."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.type = kinds.get(name, tarfile.REGTYPE)
            member.size, member.linkname = len(content), "/etc/passwd"
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def zip_of(members, method=zipfile.ZIP_DEFLATED):
    """The bytes of a zip of {name: content}."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


@pytest.fixture
def release(tmp_path):
    def write(files):
        for name, content in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return epath.Path(tmp_path)

    return write


@pytest.mark.parametrize(
    ("files", "containers"),
    [
        pytest.param({f"images/{name}": data for name, data in ABC.items()}, {"images"}, id="one folder"),
        pytest.param(ABC, {"."}, id="next to the CSV"),
        pytest.param(
            {"images_001/images/a.png": b"AAA", "images_002/images/b.png": b"BB", "images_002/images/c.png": b"C"},
            {"images_001/images", "images_002/images"},
            id="nested folders",
        ),
        pytest.param({"x.tar": tar_of(ABC)}, {"x.tar"}, id="tar"),
        pytest.param(
            {"1.tar": tar_of({"images/a.png": b"AAA"}), "deep/2.tar": tar_of({"./b.png": b"BB", "c.png": b"C"})},
            {"1.tar", "deep/2.tar"},
            id="two tars",
        ),
        pytest.param({"x.zip": zip_of(ABC)}, {"x.zip"}, id="zip"),
        pytest.param({"X.ZIP": zip_of(ABC, zipfile.ZIP_STORED)}, {"X.ZIP"}, id="zip without compression"),
        pytest.param({"x.tar.gz": tar_of(ABC)}, {"x.tar.gz"}, id="tar.gz that a browser unpacked"),
        pytest.param({"x.tar": zip_of(ABC)}, {"x.tar"}, id="zip by another name"),
        pytest.param(
            {"images/a.png": b"AAA", "x.tar": tar_of({"b.png": b"BB"}), "x.zip": zip_of({"images\\c.png": b"C"})},
            {"images", "x.tar", "x.zip"},
            id="mixed",
        ),
        pytest.param({"a.jpg": b"AAA", "b.jpeg": b"BB", "c.JPG": b"C"}, {"."}, id="re-uploaded as JPEG"),
        pytest.param({"a.dcm": b"AAA", "x.zip": zip_of({"b": b"BB", "c.DICOM": b"C"})}, {".", "x.zip"}, id="DICOM"),
    ],
)
def test_images_are_found_in_any_container(release, files, containers):
    found = find_images(release(files), IDS)
    assert {image_id: read_bytes(location) for image_id, location in found.locations.items()} == ABC
    assert (found.containers, found.unlisted, found.streams) == (containers, 0, [])


def test_compressed_tars_are_recognised_by_their_content_and_not_read(release):
    found = find_images(release({"a.tar.gz": b"\x1f\x8b?", "deep/b.tgz": b"\x1f\x8b", "c.tar": b"\x1f\x8b"}), IDS)
    assert (found.streams, found.locations) == (["a.tar.gz", "c.tar", "deep/b.tgz"], {})


@pytest.mark.parametrize(
    ("name", "image_id"),
    [
        ("images/a.png", "a.png"),
        ("../../a.PNG", "a.png"),
        ("/abs/a.dcm", "a.png"),
        ("a.dicom", "a.png"),
        ("a.webp", "a.png"),
        ("DICOM\\a", "a.png"),  # no ending, zipped on Windows
        ("1.2.840.10008", "1.2.840.10008"),  # a UID, whose last part is not an ending
        ("1.2.840.10008.dcm", "1.2.840.10008"),
        ("1.2.840.png", ""),
        ("d.png", ""),
        ("d", None),
        ("a.pyd", None),  # the pickled label in a WebDataset
        ("a.png.partial", None),
        ("._a.png", None),
        ("a.txt", None),
    ],
)
def test_a_file_is_identified_by_its_name_without_the_ending(name, image_id):
    assert identify(name, stems({"a.png", "1.2.840.10008"})) == image_id


def test_files_without_a_row_are_counted_and_left_out(release):
    found = find_images(
        release({"a.png": b"A", "logo.png": b"L", "deep/d.png": b"D", "x.tar": tar_of({"e.png": b"E"})}), IDS
    )
    assert (set(found.locations), found.unlisted, found.containers) == ({"a.png"}, 3, {"."})


def test_files_that_are_not_images_are_skipped(release):
    files = {"a.png": b"A", "._b.png": b"macOS", "b.txt": b"text", "c.png.partial": b"half", "._x.tar": b"macOS"}
    found = find_images(release(files), IDS)
    assert (set(found.locations), found.unlisted) == ({"a.png"}, 0)


def test_one_image_in_several_places_must_have_equal_bytes(release):
    folder = release({"images/a.png": b"A", "x.tar": tar_of({"a.png": b"A"}), "y.zip": zip_of({"1/a.png": b"A"})})
    found = find_images(folder, IDS)
    assert (read_bytes(found.locations["a.png"]), found.containers) == (b"A", {"images", "x.tar", "y.zip"})
    release({"z.zip": zip_of({"2/a.png": b"B"})})
    with pytest.raises(
        ValueError,
        match=r"image a\.png appears twice with different bytes: in .*/images/a\.png and in .*/z\.zip "
        r"\('2/a\.png'\)\. Move one of them away\.$",
    ):
        find_images(folder, IDS)


def test_one_image_twice_in_one_archive_is_an_error_that_names_both(release):
    tar = tar_of({"1/a.png": b"A", "2/a.png": b"B"})
    with pytest.raises(ValueError, match=r"in .*/x\.tar \('1/a\.png'\) and in .*/x\.tar \('2/a\.png'\)"):
        find_images(release({"x.tar": tar}), IDS)


def test_two_unreadable_images_with_the_same_error_count_as_equal(release):
    two = zip_of({"1/a.png": b"A", "2/a.png": b"A"}).replace(b"PK\x03\x04", b"????")
    assert set(find_images(release({"x.zip": two}), IDS).locations) == {"a.png"}
    with pytest.raises(ValueError, match="twice with different bytes"):
        find_images(release({"y.png": b"", "a.png": b"A"}), IDS)


def test_a_release_without_an_image_file_is_rejected(release):
    message = (
        r"no image below .*; expected \.png, \.jpg, \.jpeg, \.webp, \.dcm, \.dicom files in folders, or in archives "
        r"\(\.tar, \.tar\.gz, \.tgz, \.zip\)"
    )
    with pytest.raises(ValueError, match=message):
        find_images(release({"Data_Entry_2017.csv": b"x", "x.tar": tar_of({}), "x.zip": zip_of({})}), IDS)


def test_the_locations_do_not_depend_on_the_order_in_which_files_were_written(tmp_path):
    for name, order in {"one": "abc", "two": "cba"}.items():
        (tmp_path / name).mkdir()
        for stem in order:
            (tmp_path / name / f"{stem}.png").write_bytes(stem.encode())
    first, second = (list(find_images(epath.Path(tmp_path / name), IDS).locations) for name in ("one", "two"))
    assert first == second == ["a.png", "b.png", "c.png"]


def test_an_unfinished_download_is_skipped(tmp_path):
    (tmp_path / "00000001_000.png").write_bytes(b"an image")
    (tmp_path / "images_002.tar.gz.partial").write_bytes(b"half")
    (tmp_path / "kaggle.partial").mkdir()
    (tmp_path / "kaggle.partial" / "data.zip").write_bytes(b"half a zip")
    found = find_images(epath.Path(tmp_path), ["00000001_000.png"])
    assert (set(found.locations), found.unlisted) == ({"00000001_000.png"}, 0)


def test_a_link_to_a_parent_folder_is_not_followed(release, tmp_path):
    folder = release({"images/a.png": b"A", "images/more/b.png": b"B"})
    before = find_images(folder, IDS)
    (tmp_path / "images/more/above").symlink_to("..")
    (tmp_path / "self").symlink_to(".")
    assert find_images(folder, IDS) == before
