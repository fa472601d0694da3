import numpy as np
import pytest
from etils import epath

from cxr.release.expert_labels import read_expert_labels

FOUR = "Image Index,Finding Labels,Patient ID,Fracture,Pneumothorax,Airspace opacity,Nodule or mass,Set Id\n"
FOUR_READERS = "Patient ID,Image ID,Reader ID,Fracture,Pneumothorax,Airspace opacity,Nodule/mass,Set ID\n"
ALL = "Image ID,Patient ID,Abnormal,Atelectasis,Pleural Thickening,Other\n"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "below").mkdir()
    (tmp_path / "below/four_test_labels.csv").write_text(
        FOUR + "1.png,Mass,1,NO,YES,NO,NO,test\n2.png,Mass,1,NO,NO,YES,YES,test\n"
    )
    (tmp_path / "four_individual_readers.csv").write_text(
        FOUR_READERS
        + "1,1.png,7,NO,YES,NO,HEDGE,test\n1,1.png,8,NO,NO,NO,NO,test\n1,2.png,7,NO,NO,YES,YES,test\n"
        + "1,2.png,7,NO,NO,YES,NO,test\n1,9.png,7,NO,NO,YES,NO,test\n"  # a reader twice; an image without final labels
    )
    return epath.Path(tmp_path)


def test_a_study_is_read_with_both_names_of_its_columns_and_hedged_readings(folder):
    [study] = read_expert_labels(folder)
    assert (study.name, study.findings) == (
        "four_findings",
        ["Fracture", "Pneumothorax", "Airspace opacity", "Nodule or mass"],
    )
    assert study.image_ids.tolist() == ["1.png", "2.png"]
    assert study.labels.tolist() == [[0, 1, 0, 0], [0, 0, 1, 1]]
    assert study.readers == ["7", "8"]
    nan = np.nan
    expected = [
        [[0, 1, 0, nan], [0, 0, 0, 0]],
        [[0, 0, 1, 1], [nan, nan, nan, nan]],
    ]
    np.testing.assert_array_equal(study.readings, expected)


def test_zero_and_one_are_read_like_no_and_yes(folder):
    (folder / "all_test_labels.csv").write_text(ALL + "1.png,1,1,YES,no,0\n")
    study = read_expert_labels(folder)[0]
    assert (study.name, study.findings) == ("all_findings", ["Abnormal", "Atelectasis", "Pleural_Thickening", "Other"])
    assert study.labels.tolist() == [[1, 1, 0, 0]]
    assert study.readings.shape == (1, 0, 4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ALL + "1.png,1,1,MAYBE,NO,NO\n", r"image 1\.png: Atelectasis is 'MAYBE'; expected YES, NO or HEDGE"),
        (ALL + "1.png,1,1,YES,NO,NO\n1.png,1,0,YES,NO,NO\n", r"image 1\.png is listed twice with different labels"),
        ("Image ID,Abnormal\n1.png,1\n", "has the columns Image Index, Abnormal; expected Image Index and those of"),
        (ALL + "1.png,1,YES,HEDGE,NO,NO\n", r"image 1\.png: final Atelectasis is HEDGE; expected YES or NO"),
        (ALL, "has no rows"),
    ],
)
def test_bad_files_are_named(tmp_path, text, message):
    (tmp_path / "x_labels.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_expert_labels(epath.Path(tmp_path))


def test_readers_without_a_column_of_readers(folder):
    path = folder / "four_individual_readers.csv"
    path.write_text(path.read_text().replace("Reader ID", "Reader"))
    with pytest.raises(ValueError, match=r"four_individual_readers\.csv has no column Reader ID; expected one row"):
        read_expert_labels(folder)


def test_a_folder_without_labels(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no radiologists' labels \(\*_labels\.csv\) below"):
        read_expert_labels(epath.Path(tmp_path))


def test_the_published_files(shared_dir):
    studies = {study.name: study for study in read_expert_labels(epath.Path(shared_dir / "expert"))}
    assert [len(study.image_ids) for study in studies.values()] == [810, 4376]
    assert [len(study.readers) for study in studies.values()] == [5, 22]
    assert studies["all_findings"].findings[:2] == ["Abnormal", "Atelectasis"]
    assert np.isnan(studies["all_findings"].readings).sum() == 0
