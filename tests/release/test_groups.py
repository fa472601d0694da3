import pytest
from etils import epath

from cxr.release.groups import read_groups

IMAGES = ("1.png", "2.png", "3.png")


def read(tmp_path, text: str) -> dict[str, str]:
    (tmp_path / "groups.csv").write_text(text)
    return read_groups(epath.Path(tmp_path / "groups.csv"), IMAGES)


def test_groups_by_image(tmp_path):
    text = "\ufeffgroup,image_id,note\nA,1.png,x\nB, 2.png ,\nA,1.png,again\n"  # with a byte order mark
    assert read(tmp_path, text) == {"1.png": "A", "2.png": "B"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,group\n1.png,A\n", r"has the columns image, group; expected image_id, group$"),
        ("", r"has the columns none; expected image_id, group$"),
        ("image_id,group\n", r"has a header and no rows$"),
        ('image_id,group\n"1.png,A\n', r"is not a readable CSV: unexpected end of data$"),
        ("image_id,group\n\n1.png,A\n1.png,B\n", r"row 4: image 1\.png is in group A and in group B$"),
        ("image_id,group\n1.png,\n", r"row 2: image 1\.png has an empty group; leave the row out instead$"),
        ("image_id,group\n1.png,A\n1.png,B\n", r"row 3: image 1\.png is in group A and in group B$"),
        ("image_id,group\n9.png,A\n8.png,A\n", r"names 2 images that no table of the release has, such as 8\.png; "),
    ],
)
def test_bad_groups_files_are_named(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, text)


def test_a_groups_file_that_is_not_text(tmp_path):
    (tmp_path / "groups.csv").write_bytes(b"\xff\xfeimage_id,group")
    with pytest.raises(ValueError, match=r"groups\.csv is not a readable CSV: .*can't decode byte 0xff"):
        read_groups(epath.Path(tmp_path / "groups.csv"), IMAGES)


def test_a_groups_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no groups file .*; expected a CSV with the columns image_id,group$"):
        read_groups(epath.Path(tmp_path / "groups.csv"), IMAGES)
