import io
import tarfile

import pytest
from etils import epath

from cxr.data.sources import Location, find_images, read_bytes

IDS = {"a.png", "b.png", "c.png"}


def tar_of(members, **kinds):
    """The bytes of a plain tar: {name: content}; `kinds` gives some members another type."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.type = kinds.get(name, tarfile.REGTYPE)
            member.size, member.linkname = len(content), "/etc/passwd"
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def release(tmp_path):
    def write(**files):
        for name, content in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return epath.Path(tmp_path)

    return lambda files: write(**files)


ABC = {"a.png": b"AAA", "b.png": b"BB", "c.png": b"C"}


@pytest.mark.parametrize(
    ("files", "containers"),
    [
        pytest.param({f"images/{name}": data for name, data in ABC.items()}, ["images"], id="one folder"),
        pytest.param(ABC, ["."], id="beside the CSV"),
        pytest.param(
            {"images_001/images/a.png": b"AAA", "images_002/images/b.png": b"BB", "images_002/images/c.png": b"C"},
            ["images_001/images", "images_002/images"],
            id="nested folders",
        ),
        pytest.param({"x.tar": tar_of(ABC)}, ["x.tar"], id="tar"),
        pytest.param(
            {"1.tar": tar_of({"images/a.png": b"AAA"}), "deep/2.tar": tar_of({"./b.png": b"BB", "c.png": b"C"})},
            ["1.tar", "deep/2.tar"],
            id="two tars",
        ),
        pytest.param(
            {"images/a.png": b"AAA", "x.tar": tar_of({"b.png": b"BB", "c.png": b"C"})},
            ["images", "x.tar"],
            id="mixed",
        ),
        pytest.param({"a.jpg": b"AAA", "b.jpeg": b"BB", "c.JPG": b"C"}, ["."], id="re-uploaded as JPEG"),
    ],
)
def test_images_are_found_in_any_container(release, files, containers):
    found = find_images(release(files), IDS)
    assert {image_id: read_bytes(location) for image_id, location in found.locations.items()} == ABC
    assert (found.containers, found.unlisted) == (containers, 0)


def test_files_that_no_row_names_are_counted_and_left_out(release):
    found = find_images(
        release({"a.png": b"A", "logo.png": b"L", "deep/d.png": b"D", "x.tar": tar_of({"e.png": b"E"})}), IDS
    )
    assert (set(found.locations), found.unlisted, found.containers) == ({"a.png"}, 3, ["."])


def test_what_is_no_image_file_is_passed_over(release):
    files = {"a.png": b"A", "._b.png": b"macOS", "b.txt": b"text", "c.png.partial": b"half", "x.tar.gz": b"packed"}
    found = find_images(release(files), IDS)
    assert (set(found.locations), found.unlisted) == ({"a.png"}, 0)


def test_links_devices_and_folders_in_a_tar_are_passed_over(release):
    kinds = {"b.png": tarfile.SYMTYPE, "c.png": tarfile.CHRTYPE, "dir.png": tarfile.DIRTYPE}
    tar = tar_of({"b.png": b"", "c.png": b"", "dir.png": b"", "../../a.png": b"A"}, **kinds)
    found = find_images(release({"x.tar": tar}), IDS)
    assert {image_id: read_bytes(location) for image_id, location in found.locations.items()} == {"a.png": b"A"}


def test_one_image_twice_is_fine_while_the_bytes_agree(release):
    found = find_images(release({"images/a.png": b"A", "x.tar": tar_of({"a.png": b"A"})}), IDS)
    assert read_bytes(found.locations["a.png"]) == b"A"
    with pytest.raises(
        ValueError, match=r"image a\.png is there twice with different bytes: in .*images/a\.png and in .*x"
    ):
        find_images(release({"images/a.png": b"B"}), IDS)


def test_a_release_without_an_image_file_is_refused(release):
    message = r"no image below .*; expected \.png, \.jpg, \.jpeg files in folders, or \.tar files of them"
    with pytest.raises(ValueError, match=message):
        find_images(release({"Data_Entry_2017.csv": b"x"}), IDS)


TWO = tar_of(
    {"a.png": b"A" * 700, "b.png": b"B" * 700}
)  # header 0 to 511, data to 1,211; header 1,536 to 2,047, data to 2,747


@pytest.mark.parametrize(
    "size",
    [0, 100, 511, 512, 513, 1211, 1537, 1800, 2047, 2048, 2500, 2747],
    ids=lambda size: f"after {size} bytes",
)
def test_a_tar_that_is_cut_off_is_named(release, size):
    with pytest.raises(ValueError, match=r"x\.tar is (cut off inside|not a readable tar file).*ownload it again"):
        find_images(release({"x.tar": TWO[:size]}), IDS)


def test_a_tar_with_a_damaged_header_in_the_middle_is_named(release):
    damaged = TWO[:1536] + b"?" * 512 + TWO[2048:]
    with pytest.raises(ValueError, match=r"x\.tar is not a readable tar file.*Download it again"):
        find_images(release({"x.tar": damaged}), IDS)


@pytest.mark.parametrize("content", [b"<!DOCTYPE html><html>404</html>" * 40, b"\x1f\x8b" + b"gzip" * 200])
def test_a_file_that_only_claims_to_be_a_tar_is_named(release, content):
    with pytest.raises(ValueError, match=r"x\.tar is not a readable tar file: .*\. Download it again"):
        find_images(release({"x.tar": content}), IDS)


def test_a_container_cut_while_reading_is_named(release):
    path = release({"x.tar": b"0123456789"}) / "x.tar"
    assert read_bytes(Location(str(path), 4, 6)) == b"456789"
    with pytest.raises(ValueError, match=r"x\.tar ends inside an image"):
        read_bytes(Location(str(path), 4, 7))


def test_the_locations_do_not_depend_on_the_order_in_which_files_were_written(tmp_path):
    for name, order in {"one": "abc", "two": "cba"}.items():
        (tmp_path / name).mkdir()
        for stem in order:
            (tmp_path / name / f"{stem}.png").write_bytes(stem.encode())
    first, second = (list(find_images(epath.Path(tmp_path / name), IDS).locations) for name in ("one", "two"))
    assert first == second == ["a.png", "b.png", "c.png"]
