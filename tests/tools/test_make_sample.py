import csv
import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cxr.findings import FINDINGS, NO_FINDING, parse_findings
from tools.make_sample import main, write_whole
from tools.sample.anatomy import RadiographSpec
from tools.sample.patients import plan_records
from tools.sample.radiograph import draw_radiograph

ROOT = Path(__file__).resolve().parents[2]
HEADER = (
    b"Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    b"OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],\r\n"
)
BOXED = {"Atelectasis", "Effusion", "Cardiomegaly", "Infiltrate", "Pneumonia", "Pneumothorax", "Mass", "Nodule"}


def write_sample(output_dir, *, images=100, size=64, seed=230, workers=1):
    options = {"output_dir": output_dir, "images": images, "size": size, "seed": seed, "workers": workers}
    main([text for flag, value in options.items() for text in (f"--{flag}", str(value))])
    return output_dir


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    return write_sample(tmp_path_factory.mktemp("release") / "sample")


@pytest.fixture(scope="module")
def rows(sample):
    with (sample / "Data_Entry_2017.csv").open(newline="") as file:
        return list(csv.reader(file))[1:]


def digests(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def read_list(sample, name):
    return (sample / name).read_text().split()


def test_two_workers_write_the_same_bytes_as_one(sample, tmp_path):
    assert digests(write_sample(tmp_path / "again", workers=2)) == digests(sample)


def test_another_seed_writes_other_images(sample, tmp_path):
    other = digests(write_sample(tmp_path / "other", images=3, seed=231))
    assert not set(other.values()) & set(digests(sample).values())


def test_the_csv_has_the_2017_format(sample, rows):
    data = (sample / "Data_Entry_2017.csv").read_bytes()
    assert data.startswith(HEADER)
    assert data.count(b"\n") == data.count(b"\r\n") == 101
    assert {len(row) for row in rows} == {11}  # one fewer than the header's 12, as in the original
    assert rows[0][0] == "00000001_000.png"
    assert all(row[0] == f"{row[3]}_{row[2]}.png" and len(row[3]) == 8 and len(row[2]) == 3 for row in rows)
    assert {row[5] for row in rows} == {"F", "M"}
    assert {row[6] for row in rows} == {"PA", "AP"}


def test_ages_have_the_same_quirks_as_in_the_real_csv(rows):
    ages = [row[4] for row in rows]
    assert all(len(age) == 4 and age[:3].isdigit() for age in ages)
    assert sum(age.endswith("M") for age in ages) == 3
    assert ages.count("001D") == ages.count("414Y") == 1
    assert sum(age.endswith("Y") and int(age[:3]) <= 95 for age in ages) == 95  # all but the five odd ones


def test_images_are_grey_and_a_few_are_opaque_rgba(sample, rows):
    modes = {"L": 0, "RGBA": 0}
    for row in rows:
        with Image.open(sample / "images" / row[0]) as image:
            assert image.size == (64, 64)
            modes[image.mode] += 1
            if image.mode == "RGBA":
                red, green, blue, alpha = np.moveaxis(np.asarray(image), -1, 0)
                assert (red == green).all()
                assert (red == blue).all()
                assert (alpha == 255).all()
    assert modes == {"L": 97, "RGBA": 3}
    assert len(list((sample / "images").iterdir())) == 100


def test_every_image_is_on_one_list_and_no_patient_on_both(sample, rows):
    train_val, test = read_list(sample, "train_val_list.txt"), read_list(sample, "test_list.txt")
    assert sorted(train_val + test) == [row[0] for row in rows]
    assert not {name[:8] for name in train_val} & {name[:8] for name in test}
    assert test


def test_boxes_are_in_the_1024_frame_of_test_images_with_that_finding(sample, rows):
    test, labels = set(read_list(sample, "test_list.txt")), {row[0]: row[1] for row in rows}
    header, *lines = (sample / "BBox_List_2017.csv").read_text().splitlines()
    assert header == "Image Index,Finding Label,Bbox [x,y,w,h],,,"
    expected = [n for n in test for f in labels[n].split("|") if f in BOXED or f == "Infiltration"]
    assert sorted(line.split(",")[0] for line in lines) == sorted(expected)
    for image_id, name, *numbers in (line.split(",") for line in lines):
        x, y, width, height = map(float, numbers)
        assert image_id in test
        assert name in BOXED
        assert parse_findings(name) <= parse_findings(labels[image_id])
        assert min(x, y) >= 0
        assert min(width, height) >= 16  # one pixel of 64
        assert max(x + width, y + height) <= 1024


@pytest.mark.parametrize("seed", [1, 230])
def test_1200_images_have_every_finding_and_half_have_none(seed):
    records = plan_records(1200, seed)
    assert len({record.image_id for record in records}) == 1200
    assert 2.5 < 1200 / records[-1].patient_id < 3.5
    assert max(record.follow_up for record in records) == 7
    assert sum(record.csv_row().split(",")[1] == NO_FINDING for record in records) / 1200 == pytest.approx(
        0.5, abs=0.07
    )
    assert sum(record.is_test for record in records) / 1200 == pytest.approx(0.2, abs=0.04)
    for finding in FINDINGS:
        assert 0.05 < sum(finding in record.findings for record in records) / 1200 < 0.09
        assert sum(finding in record.findings for record in records if record.is_test) >= 10


@pytest.mark.parametrize("finding", FINDINGS)
def test_a_finding_changes_the_pixels_in_its_box(finding):
    for patient_id in range(1, 9):
        view_position = ("PA", "AP")[patient_id % 2]
        without, boxes = draw_radiograph(RadiographSpec(230, patient_id, 0, "M", view_position, ()), 128)
        assert boxes == {}
        pixels, boxes = draw_radiograph(RadiographSpec(230, patient_id, 0, "M", view_position, (finding,)), 128)
        x0, y0, x1, y1 = boxes[finding]
        assert 0 <= x0 < x1 <= 128
        assert 0 <= y0 < y1 <= 128
        change = np.abs(pixels.astype(float) - without)
        outside = change.copy()
        outside[y0:y1, x0:x1] = np.nan
        assert change[y0:y1, x0:x1].mean() > 5  # grey levels
        assert change[y0:y1, x0:x1].mean() > 2 * np.nanmean(outside)


def test_follow_ups_show_the_same_patient_in_another_pose():
    first, second = (draw_radiograph(RadiographSpec(230, 1, follow_up, "F", "PA", ()), 128)[0] for follow_up in (0, 1))
    stranger = draw_radiograph(RadiographSpec(230, 2, 0, "F", "PA", ()), 128)[0]
    assert (first != second).mean() > 0.5
    assert (first != stranger).mean() > 0.5


def test_a_wide_heart_takes_more_than_half_of_the_chest():
    """Heart and lungs are measured by their boxes: a ratio of 0.42 to 0.49 is healthy, from 0.55 on enlarged."""
    lungs = draw_radiograph(RadiographSpec(230, 1, 0, "M", "PA", ("Emphysema",)), 256)[1]["Emphysema"]
    heart = draw_radiograph(RadiographSpec(230, 1, 0, "M", "PA", ("Cardiomegaly",)), 256)[1]["Cardiomegaly"]
    assert 0.55 < (heart[2] - heart[0]) / (lungs[2] - lungs[0]) < 0.70


def test_an_interrupted_run_is_completed(sample, tmp_path):
    half = write_sample(tmp_path / "half")
    (half / "Data_Entry_2017.csv").unlink()
    (half / "BBox_List_2017.csv").unlink()
    lost = sorted((half / "images").iterdir())[50:]
    for path in lost:
        path.unlink()
    lost[0].with_name(lost[0].name + ".partial").write_bytes(b"cut off")
    assert digests(write_sample(half)) == digests(sample)


def test_other_files_are_not_overwritten(tmp_path):
    path = tmp_path / "images" / "00000001_000.png"
    path.parent.mkdir()
    path.write_bytes(b"a real image")
    with pytest.raises(
        FileExistsError, match="is not what these options write; delete it or give another --output_dir"
    ):
        write_whole(path, b"a drawing")
    with pytest.raises(SystemExit, match="is not what these options write"):
        write_sample(tmp_path)
    assert path.read_bytes() == b"a real image"
    assert not (tmp_path / "Data_Entry_2017.csv").exists()


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("images", 0, "--images 0 is impossible; give a number from 1 to 200000"),
        ("size", 10, "--size 10 is impossible; give a number from 64 to 1024"),
        ("workers", 0, "--workers 0 is impossible; give a number from 1 to 512"),
        ("seed", -1, "--seed -1 is impossible; give a number from 0 to 4294967295"),
    ],
)
def test_impossible_values_are_rejected(tmp_path, option, value, message):
    with pytest.raises(SystemExit, match=message):
        write_sample(tmp_path / "new", **{option: value})
    assert not (tmp_path / "new").exists()


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "tools.make_sample", *arguments], cwd=ROOT, capture_output=True, text=True
    )


def test_a_finished_sample_is_not_overwritten(sample):
    result = run("--output_dir", str(sample))
    assert result.returncode == 1
    assert result.stderr == (
        f"error: {sample} already holds a release (Data_Entry_2017.csv); "
        "use it as it is, delete the folder, or give another --output_dir\n"
    )


def test_help_starts_with_what_it_does_and_a_line_to_paste():
    result = run("--help")
    assert result.returncode == 0
    assert "Write a made-up NIH ChestX-ray14 release" in result.stdout
    assert "python -m tools.make_sample --output_dir data/sample" in result.stdout


def test_wrong_flags_exit_with_2():
    assert run("--output", "x", "--imagse", "3").returncode == 2


def test_a_sample_of_one_image(tmp_path):
    one = write_sample(tmp_path / "one", images=1)
    assert len(list((one / "images").iterdir())) == 1
    assert (one / "Data_Entry_2017.csv").read_bytes().count(b"\r\n") == 2
