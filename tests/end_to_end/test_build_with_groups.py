"""build_dataset.py --groups: from the CSV to the records, dataset.json, the summary and --verify."""

import json
import re

import pytest

import build_dataset
from cxr import storage
from cxr.records import dataset, example
from cxr.records.splits import SPLITS
from cxr.records.verify import verify

pytestmark = pytest.mark.usefixtures("in_process")


@pytest.fixture(scope="module")
def release(tmp_path_factory, write_release):
    """60 images of patients 1 to 20."""
    return write_release(tmp_path_factory.mktemp("groups") / "release")


def index_of(folder, split):
    return example.read_split_index(dataset.open_dataset(folder).paths(split))


def fail(capsys, data_dir, output_dir, *flags):
    """Run a build that must end with exit code 1 and one line; returns the line."""
    fixed = ["--data_dir", data_dir, "--output_dir", output_dir, "--image_size", 32]
    with pytest.raises(SystemExit) as exit_:
        build_dataset.main([str(flag) for flag in [*fixed, *flags]])
    assert isinstance(exit_.value.code, str)  # printed to stderr with exit code 1
    assert "\n" not in exit_.value.code
    assert capsys.readouterr().out == ""
    return exit_.value.code


def write_groups(path, groups):
    path.write_text("image_id,group\n" + "".join(f"{image_id},{group}\n" for image_id, group in groups.items()))
    return path


def test_groups_are_in_the_records_dataset_json_and_the_summary(release, tmp_path, build, capsys):
    expected = {f"{patient:08d}_{image:03d}.png": "AB"[patient > 5] for patient in range(1, 11) for image in range(3)}
    expected["00000010_002.png"] = "St. Märy"
    groups = write_groups(tmp_path / "groups.csv", expected)
    info = build(release, tmp_path / "records", "--groups", groups)
    assert info["groups"] == {"A": 15, "B": 14, "St. Märy": 1}
    assert info["source"]["groups_sha256"] == storage.sha256_of(groups)
    assert "images by group:   A 15   B 14   St. Märy 1   no group 30" in capsys.readouterr().out
    for split in SPLITS:
        index = index_of(tmp_path / "records", split)
        assert index.groups.tolist() == [expected.get(image_id, "") for image_id in index.image_ids]


def test_without_groups_dataset_json_has_none_and_the_summary_does_not_mention_them(release, tmp_path, build, capsys):
    info = build(release, tmp_path / "records")
    assert (info["groups"], info["source"]["groups_sha256"]) == ({}, None)
    assert "images by group" not in capsys.readouterr().out
    assert set(index_of(tmp_path / "records", "train").groups) == {""}


def test_one_group_is_allowed_and_said(release, tmp_path, build, capsys):
    groups = write_groups(tmp_path / "groups.csv", {"00000001_000.png": "A", "00000002_000.png": "A"})
    build(release, tmp_path / "records", "--groups", groups)
    lines = capsys.readouterr().out.splitlines()
    assert "images by group:   A 2   no group 58" in lines
    assert "one group only, A: AUROC within groups equals the pooled AUROC of its images" in lines


def test_another_groups_file_is_another_dataset(release, tmp_path, build, capsys):
    output = tmp_path / "records"
    groups = write_groups(tmp_path / "groups.csv", {"00000001_000.png": "A"})
    other = write_groups(tmp_path / "other.csv", {"00000001_000.png": "B"})
    before = build(release, output, "--groups", groups)
    capsys.readouterr()
    for flags in (["--groups", other], []):
        line = fail(capsys, release, output, *flags)
        assert f"contains another dataset (source groups_sha256 {before['source']['groups_sha256']}, now " in line
    assert build(release, output, "--groups", groups) == before
    plain = build(release, tmp_path / "plain")
    assert plain["fingerprint"] != before["fingerprint"]
    capsys.readouterr()
    line = fail(capsys, release, tmp_path / "plain", "--groups", groups)
    assert "contains another dataset (source groups_sha256 None, now " in line


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"image_id,group\n99.png,A\n", "names 1 image that no table of the release has, such as 99.png; "),
        (b"image_id;group\n", "has the columns image_id;group; expected image_id, group"),
        (b"image_id,group\n", "has a header and no rows"),
        (
            b"image_id,group\n00000001_000.png,A\n00000001_000.png,B\n",
            "row 3: image 00000001_000.png is in group A and",
        ),
        (b"\xff\xfe", "is not a readable CSV: "),
    ],
)
def test_a_bad_groups_file_ends_the_build_in_one_line(release, tmp_path, capsys, data, expected):
    groups = tmp_path / "groups.csv"
    groups.write_bytes(data)
    line = fail(capsys, release, tmp_path / "records", "--groups", groups)
    assert line.startswith(f"error: {groups} {expected}")
    assert not (tmp_path / "records").exists()


def test_an_absent_groups_file_ends_the_build_in_one_line(release, tmp_path, capsys):
    line = fail(capsys, release, tmp_path / "records", "--groups", tmp_path / "groups.csv")
    assert line.startswith(f"error: no groups file {tmp_path / 'groups.csv'}; expected a CSV")


@pytest.fixture
def grouped(release, tmp_path, build):
    """A dataset with images of patients 1 to 9 in group A, the others in none; beside it groups.csv."""
    of = {f"{patient:08d}_{image:03d}.png": "A" for patient in range(1, 10) for image in range(3)}
    groups = write_groups(tmp_path / "groups.csv", of)
    build(release, tmp_path / "records", "--groups", groups)
    return tmp_path / "records"


def test_verify_compares_records_with_the_groups_file(grouped, release):
    groups = grouped.parent / "groups.csv"
    assert verify(grouped, release).faults == verify(grouped, release, groups=groups).faults == []
    groups.write_text(groups.read_text().replace("00000001_000.png,A", "00000001_000.png,B"))
    (fault,) = verify(grouped, release, groups=groups).faults
    assert re.fullmatch(r"\S+, image 00000001_000\.png: group A, but B in the groups file", fault)
    groups.write_text(groups.read_text().replace("00000001_000.png,B\n", ""))
    (fault,) = verify(grouped, release, groups=groups).faults
    assert fault.endswith(", image 00000001_000.png: group A, but none in the groups file")
    flags = ["--data_dir", str(release), "--output_dir", str(grouped), "--groups", str(groups), "--verify"]
    with pytest.raises(SystemExit, match=r"1 fault, first: .* group A, but none in the groups file\. Run"):
        build_dataset.main(flags)


def test_verify_compares_records_with_the_counts_in_dataset_json(grouped):
    info = json.loads((grouped / "dataset.json").read_text())
    assert info["groups"] == {"A": 27}
    (grouped / "dataset.json").write_text(json.dumps(info | {"groups": {"A": 26, "B": 1}}))
    assert verify(grouped).faults == [
        "dataset.json says group A has images 26, the records have 27",
        "dataset.json says group B has images 1, the records have 0",
    ]
