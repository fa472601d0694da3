import pytest
from etils import epath

from cxr.findings import FINDINGS
from cxr.release.release import read_release

LABEL_HEADER = ",".join(["Image Index", *FINDINGS])


@pytest.fixture
def release(tiny_release):
    """Five patients of two images; patient 5 is on the test list."""
    return epath.Path(tiny_release(patients=5, images_each=2))


def write_label_csvs(folder, **splits):
    for split, image_ids in splits.items():
        lines = [LABEL_HEADER, *(image_id + ",1" + ",0" * 13 for image_id in image_ids)]
        (folder / f"{split}_labels.csv").write_text("\n".join(lines) + "\n")


def edit_list(folder, name, *, add=(), drop=()):
    members = [line for line in (folder / name).read_text().split() if line not in drop]
    (folder / name).write_text("\n".join([*members, *add]) + "\n")


def test_the_official_lists_assign_every_image(release):
    found = read_release(release, "official")
    assert (found.split, found.csv, len(found.rows)) == ("official", "Data_Entry_2017.csv", 10)
    assert found.assigned["00000005_001.png"] == "test"
    assert list(found.assigned.values()).count("train_val") == 8


def test_lists_with_the_names_of_re_uploads_are_found(release):
    for name in ("train_val_list", "test_list"):
        (release / f"{name}.txt").rename(release / f"{name}_NIH.txt")
    assert read_release(release, "auto").split == "official"


def test_auto_prefers_lists_to_label_csvs_and_those_to_a_random_split(release):
    write_label_csvs(release, train=["00000001_000.png"])
    assert read_release(release, "auto").split == "official"
    (release / "test_list.txt").unlink()
    (release / "train_val_list.txt").unlink()
    assert read_release(release, "auto").split == "random"  # a Data_Entry CSV has more columns than label CSVs
    (release / "Data_Entry_2017.csv").unlink()
    assert read_release(release, "auto").split == "csv"


@pytest.mark.parametrize("kept", ["train_val_list.txt", "test_list.txt"])
def test_auto_rejects_a_release_with_only_one_official_list(release, kept):
    for name in {"train_val_list.txt", "test_list.txt"} - {kept}:
        (release / name).unlink()
    with pytest.raises(ValueError, match=f"has {kept} but not the other official list.*use --split random"):
        read_release(release, "auto")
    assert read_release(release, "random").split == "random"


def test_a_byte_order_mark_in_a_list_is_ignored(release):
    path = release / "train_val_list.txt"
    before = read_release(release, "official").assigned
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_release(release, "official").assigned == before


def test_a_random_split_has_no_assigned_images(release):
    assert read_release(release, "random").assigned == {}


def test_label_csvs_assign_splits_and_the_entries_give_the_rest(release):
    write_label_csvs(release, train=["00000001_000.png"], val=["00000002_000.png"], test=["00000003_000.png"])
    found = read_release(release, "csv")
    assert found.csv == "train_labels.csv+val_labels.csv+test_labels.csv"
    assert found.assigned == {"00000001_000.png": "train", "00000002_000.png": "val", "00000003_000.png": "test"}
    assert [row.age for row in found.rows] == [21, 22, 23]
    assert found.csv_sha256.count("+") == 2


def remove(name):
    return lambda release: (release / name).unlink()


def add_to_test_list(*image_ids):
    return lambda release: edit_list(release, "test_list.txt", add=image_ids)


def drop_from_test_list(release):
    edit_list(release, "test_list.txt", drop=["00000005_000.png"])


def make_test_list_binary(release):
    (release / "test_list.txt").write_bytes(b"\x89PNG\xff\xfe\x00")


def add_the_csv_of_2020(release):
    (release / "Data_Entry_2017_v2020.csv").write_bytes((release / "Data_Entry_2017.csv").read_bytes())


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        pytest.param(remove("Data_Entry_2017.csv"), r"no Data_Entry_2017\*\.csv in .*; download it", id="no csv"),
        pytest.param(
            add_the_csv_of_2020, r"has .*2017\.csv and .*_v2020\.csv, whose labels differ\. Keep", id="two csvs"
        ),
        pytest.param(remove("test_list.txt"), r"no test_list\.txt in .*; .* or use --split random", id="no test list"),
        pytest.param(remove("train_val_list.txt"), r"no train_val_list\.txt in .*; download it", id="no train list"),
        pytest.param(
            add_to_test_list("b.png", "a.png"), r"test_list\.txt has 2 images .* such as a\.png", id="unknown"
        ),
        pytest.param(
            add_to_test_list("00000001_000.png"), r"image 00000001_000\.png is on both official lists", id="both"
        ),
        pytest.param(
            drop_from_test_list, r"1 images of .* neither official list, such as 00000005_000\.png", id="neither"
        ),
        pytest.param(make_test_list_binary, r"test_list\.txt", id="not text"),
    ],
)
def test_invalid_official_lists_are_rejected(release, spoil, message):
    spoil(release)
    with pytest.raises((FileNotFoundError, ValueError), match=message):
        read_release(release, "official")


def test_label_csvs_must_exist_and_name_an_image_once(release):
    message = r"no train_labels\.csv or val_labels\.csv or test_labels\.csv in .*; --split csv needs them"
    with pytest.raises(FileNotFoundError, match=message):
        read_release(release, "csv")
    write_label_csvs(release, train=["00000001_000.png"], val=["00000001_000.png"])
    with pytest.raises(ValueError, match=r"image 00000001_000\.png is in train_labels\.csv and in val_labels\.csv"):
        read_release(release, "csv")


def test_an_absent_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder .*absent; expected an NIH release"):
        read_release(epath.Path(tmp_path / "absent"), "auto")


def test_blank_lines_and_windows_line_ends_in_a_list_are_fine(release):
    (release / "test_list.txt").write_bytes(b"00000005_000.png\r\n\r\n  00000005_001.png \r\n")
    assert read_release(release, "auto").assigned["00000005_001.png"] == "test"
