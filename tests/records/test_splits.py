import pytest

from cxr.records.splits import SPLITS, require_disjoint, sample_patients, split_rows, unit_hash
from cxr.release.entries import ImageRow

RATIOS = (0.7, 0.1, 0.2)


def rows_of(patients, images_each=1):
    return [ImageRow(f"{p:08d}_{k:03d}.png", p, (0,) * 14) for p in patients for k in range(images_each)]


def patients_of(splits):
    return {split: {row.patient_id for row in members} for split, members in splits.items()}


def test_the_hash_is_the_start_of_sha256():
    assert unit_hash(230, 1) == 0xCE1441B3F88BD896 / 2**64  # printf 230:1 | sha256sum
    assert unit_hash(230, "sample", 7) == 0x09459BB5AB5332FA / 2**64  # printf 230:sample:7 | sha256sum


def test_the_hash_is_uniform():
    hashes = sorted(unit_hash("x", number) for number in range(10_000))
    assert hashes[0] >= 0
    assert hashes[-1] < 1
    assert max(abs(value - place / 10_000) for place, value in enumerate(hashes)) < 0.02  # Kolmogorov-Smirnov


@pytest.mark.parametrize(
    ("ratios", "shares"),
    [
        ((0.7, 0.1, 0.2), (0.7, 0.1, 0.2)),
        ((0.5, 0.5, 0.0), (0.5, 0.5, 0.0)),
        ((1.0, 0.0, 0.0), (1.0, 0.0, 0.0)),
    ],
)
def test_a_random_split_has_the_given_ratios(ratios, shares):
    splits = split_rows(rows_of(range(1, 5001)), {}, ratios=ratios, seed=230)
    assert [len(splits[split]) / 5000 for split in SPLITS] == pytest.approx(shares, abs=0.02)  # 3 standard deviations


def test_all_images_of_a_patient_are_in_one_split_and_every_image_is_in_one():
    rows = rows_of(range(1, 201), images_each=5)
    splits = split_rows(rows, {}, ratios=RATIOS, seed=230)
    assert sorted(row for members in splits.values() for row in members) == sorted(rows)
    train, val, test = (patients_of(splits)[split] for split in SPLITS)
    assert not train & val | train & test | val & test


def test_a_patient_keeps_its_split_when_patients_or_images_are_added():
    few = patients_of(split_rows(rows_of(range(100, 200)), {}, ratios=RATIOS, seed=230))
    many = patients_of(split_rows(rows_of(range(1, 1000), images_each=2)[::-1], {}, ratios=RATIOS, seed=230))
    for split in SPLITS:
        assert few[split] == many[split] & set(range(100, 200))


def test_another_seed_is_another_split():
    one, other = (patients_of(split_rows(rows_of(range(300)), {}, ratios=RATIOS, seed=seed)) for seed in (230, 231))
    assert one["train"] != other["train"]


def test_val_is_taken_from_train_val_and_the_test_list_is_kept():
    rows = rows_of(range(1, 4001))
    assigned = {row.image_id: "test" if row.patient_id % 4 == 0 else "train_val" for row in rows}
    splits = split_rows(rows, assigned, ratios=RATIOS, seed=230)
    assert patients_of(splits)["test"] == set(range(4, 4001, 4))
    # 3,000 patients, val / (train + val) = 0.1 / 0.8: 375 with a standard deviation of 18
    assert len(splits["val"]) == pytest.approx(375, abs=55)
    assert len(splits["train"]) + len(splits["val"]) == 3000


def test_val_does_not_depend_on_who_is_on_the_test_list():
    rows = rows_of(range(1, 501))
    first = split_rows(rows, {row.image_id: "train_val" for row in rows}, ratios=RATIOS, seed=230)
    assigned = {row.image_id: "test" if row.patient_id > 250 else "train_val" for row in rows}
    second = split_rows(rows, assigned, ratios=RATIOS, seed=230)
    assert patients_of(second)["val"] == patients_of(first)["val"] & set(range(1, 251))


def test_assigned_splits_are_kept():
    rows = rows_of(range(1, 7))
    assigned = {row.image_id: SPLITS[row.patient_id % 3] for row in rows}
    assert patients_of(split_rows(rows, assigned, ratios=RATIOS, seed=230)) == {
        "train": {3, 6},
        "val": {1, 4},
        "test": {2, 5},
    }


@pytest.mark.parametrize("home", ["train", "val", "train_val"])
def test_a_patient_on_two_lists_is_named(home):
    rows = rows_of([1, 2, 7], images_each=2)
    assigned = {row.image_id: home for row in rows} | {"00000007_001.png": "test"}
    with pytest.raises(ValueError, match=r"patient 7 is in (train|val) and in test, so scores .* --split random"):
        split_rows(rows, assigned, ratios=RATIOS, seed=230)


def test_disjoint_patients_pass_and_a_shared_one_is_named():
    require_disjoint({"train": [1, 1, 2], "val": [3], "test": []})
    with pytest.raises(ValueError, match="patient 2 is in train and in test"):
        require_disjoint({"train": [1, 2], "val": [3], "test": [2, 4]})


def test_sampling_draws_patients_with_all_their_rows():
    rows = rows_of(range(1, 101), images_each=3)
    present = {row.image_id for row in rows}
    drawn = sample_patients(rows, present, 20, seed=230)
    assert len(drawn) == 60
    assert len({row.patient_id for row in drawn}) == 20
    assert drawn == sample_patients(rows[::-1], present, 20, seed=230)[::-1]
    assert drawn != sample_patients(rows, present, 20, seed=231)
    assert set(drawn) < set(sample_patients(rows, present, 30, seed=230))  # more patients keep the first


def test_sampling_draws_only_patients_with_an_image():
    rows = rows_of(range(1, 101), images_each=2)
    present = {"00000005_000.png", "00000050_001.png"}
    assert {row.patient_id for row in sample_patients(rows, present, 2, seed=230)} == {5, 50}
    with pytest.raises(ValueError, match="--patients 3: only 2 patients have images here"):
        sample_patients(rows, present, 3, seed=230)
