import json
import re
import shutil
import tarfile

import pytest

import build_dataset
from cxr import storage
from cxr.findings import FINDINGS
from cxr.records import dataset, example
from cxr.records.splits import SPLITS


def shards_of(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.tfrecord")}


def records_of(folder):
    return sorted(record for path in folder.glob("*.tfrecord") for record in example.read_records(path))


def index_of(folder, split):
    return example.read_split_index(dataset.open_dataset(folder).paths(split))


def pack_tar(path, files):
    with tarfile.open(path, "w") as archive:
        for file in files:
            archive.add(file, f"images/{file.name}")
    for file in files:
        file.unlink()


def nest(release):
    for number, file in enumerate(sorted((release / "images").iterdir())):
        target = release / f"images_{1 + number % 3:03d}" / "images" / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        file.rename(target)


def tar_all(release):
    pack_tar(release / "images.tar", sorted((release / "images").iterdir()))


def tar_in_two(release):
    files = sorted((release / "images").iterdir())
    pack_tar(release / "second.tar", files[::2][::-1])
    pack_tar(release / "images" / "first.tar", files[1::2])


def tar_half(release):
    pack_tar(release / "half.tar", sorted((release / "images").iterdir())[::2])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, write_release, build):
    """A release of 60 images and the dataset built from its folder of images."""
    folder = tmp_path_factory.mktemp("undisturbed")
    build(write_release(folder / "release"), folder / "records", "--shard_size", 7)
    return folder


@pytest.mark.parametrize("pack", [nest, tar_all, tar_in_two, tar_half])
def test_the_bytes_do_not_depend_on_the_container(undisturbed, tmp_path, build, pack):
    release = shutil.copytree(undisturbed / "release", tmp_path / "release")
    pack(release)
    info = build(release, tmp_path / "records", "--shard_size", 7)
    assert shards_of(tmp_path / "records") == shards_of(undisturbed / "records")
    expected = json.loads((undisturbed / "records" / "dataset.json").read_text())
    assert info.pop("source")["containers"] != expected.pop("source")["containers"]
    assert info == expected


@pytest.mark.parametrize("workers", [1, 2])
def test_the_bytes_do_not_depend_on_the_number_of_workers(undisturbed, tmp_path, workers):
    flags = ["--image_size", "32", "--shard_size", "7", "--workers", str(workers)]
    build_dataset.main(["--data_dir", str(undisturbed / "release"), "--output_dir", str(tmp_path / "records"), *flags])
    assert shards_of(tmp_path / "records") == shards_of(undisturbed / "records")


def test_another_shard_size_gives_other_files_with_the_same_records(undisturbed, tmp_path, build):
    build(undisturbed / "release", tmp_path / "records", "--shard_size", 20)
    assert len(shards_of(tmp_path / "records")) < len(shards_of(undisturbed / "records"))
    assert records_of(tmp_path / "records") == records_of(undisturbed / "records")


def test_both_versions_of_the_csv_give_the_same_records(undisturbed, tmp_path, tiny_release, build):
    build(tiny_release(form="2020"), tmp_path / "records", "--shard_size", 7)
    assert shards_of(tmp_path / "records") == shards_of(undisturbed / "records")


def test_building_again_writes_no_shard_and_repairs_a_damaged_one(undisturbed, tmp_path, build):
    output = shutil.copytree(undisturbed / "records", tmp_path / "records")
    names, before = sorted(shards_of(output)), shards_of(output)
    times = {name: (output / name).stat().st_mtime_ns for name in names}
    build(undisturbed / "release", output, "--shard_size", 7)
    assert {name: (output / name).stat().st_mtime_ns for name in names} == times
    (output / names[1]).write_bytes(before[names[1]][:-1] + b"?")
    (output / names[2]).unlink()
    (output / f"{names[2]}.partial").write_bytes(b"half")
    build(undisturbed / "release", output, "--shard_size", 7)
    assert shards_of(output) == before
    assert (output / names[0]).stat().st_mtime_ns == times[names[0]]
    assert not list(output.rglob("*.partial"))


def fail(capsys, data_dir, output_dir, *flags):
    """Run a build that must fail with exit code 1 and one line; returns the line."""
    with pytest.raises(SystemExit) as exit_:
        build_dataset.main(["--data_dir", str(data_dir), "--output_dir", str(output_dir), *map(str, flags)])
    assert isinstance(exit_.value.code, str)  # printed to stderr with exit code 1
    assert "\n" not in exit_.value.code
    assert capsys.readouterr().out == ""
    return exit_.value.code


def test_two_builds_at_once_are_rejected(undisturbed, tmp_path, capsys):
    with storage.exclusive(tmp_path, "building"):
        line = fail(capsys, undisturbed / "release", tmp_path)
    assert line == f"error: another process is building {tmp_path}; wait for it or choose another folder"


@pytest.mark.parametrize(
    ("flags", "difference"),
    [
        (["--image_size", 64, "--shard_size", 7], "image_size 32, now 64"),
        (["--image_size", 32], "shard_size 7, now 1024"),
        (["--image_size", 32, "--shard_size", 7, "--encoding", "raw"], "encoding png, now raw"),
        (["--image_size", 32, "--shard_size", 7, "--seed", 1], "split seed 230, now 1"),
        (["--image_size", 32, "--shard_size", 7, "--patients", 19], "patients_sampled None, now 19"),
    ],
)
def test_a_folder_with_other_options_is_rejected_and_unchanged(undisturbed, capsys, flags, difference):
    before = shards_of(undisturbed / "records")
    line = fail(capsys, undisturbed / "release", undisturbed / "records", *flags)
    assert f"contains another dataset ({difference}" in line
    assert "Choose another --output_dir, or delete it." in line
    assert shards_of(undisturbed / "records") == before
    assert (undisturbed / "records" / "dataset.json").exists()


def test_a_folder_with_another_release_is_rejected(undisturbed, tiny_release, capsys):
    line = fail(capsys, tiny_release(patients=5), undisturbed / "records", "--image_size", 32, "--shard_size", 7)
    assert "contains another dataset (source csv_sha256" in line


def test_a_missing_image_ends_the_build_unless_allowed(tiny_release, tmp_path, build, capsys):
    release = tiny_release(patients=5)
    (release / "images" / "00000002_001.png").unlink()
    line = fail(capsys, release, tmp_path / "records")
    assert line.startswith("error: 1 of the 15 images in Data_Entry_2017.csv are not below ")
    assert line.endswith(
        "such as 00000002_001.png. Complete the download, or add --allow_missing to build without them."
    )
    assert [path.name for path in (tmp_path / "records").iterdir()] == [".lock"]
    info = build(release, tmp_path / "records", "--allow_missing")
    assert info["missing"] == 1
    assert sum(split["images"] for split in info["splits"].values()) == 14
    assert "missing 1 (in the CSV, not found)" in capsys.readouterr().out


def test_a_release_without_any_listed_image_is_rejected(tiny_release, tmp_path, capsys):
    release = tiny_release(patients=5)
    for number, path in enumerate(sorted((release / "images").iterdir())):
        path.rename(path.with_name(f"chest{number}.png"))
    assert "none of the 15 images" in fail(capsys, release, tmp_path / "records", "--allow_missing")


def write_label_csvs(release, assigned):
    for split in ("train", "val", "test"):
        lines = [image_id + ",1" + ",0" * 13 for image_id, home in assigned.items() if home == split]
        if lines:
            lines.insert(0, ",".join(["Image Index", *FINDINGS]))
            (release / f"{split}_labels.csv").write_text("\n".join(lines) + "\n")


def test_a_csv_split_follows_the_files(tiny_release, tmp_path, build):
    release = tiny_release(patients=6, images_each=1)
    write_label_csvs(release, {f"{number:08d}_000.png": ("train", "val", "test")[number % 3] for number in range(1, 7)})
    info = build(release, tmp_path / "records", "--split", "csv")
    assert (info["split"]["name"], info["splits"]["test"]["positives"]["Atelectasis"]) == ("csv", 2)
    index = index_of(tmp_path / "records", "val")
    assert sorted(index.image_ids) == ["00000001_000.png", "00000004_000.png"]
    assert sorted(index.ages) == [21, 24]  # from Data_Entry_2017.csv


@pytest.mark.parametrize("flags", [["--split", "official"], ["--split", "csv"]], ids=["official lists", "label csvs"])
def test_a_patient_on_two_lists_is_rejected(tiny_release, tmp_path, capsys, flags):
    release = tiny_release(patients=5, images_each=2)
    move = "00000005_001.png\n"
    (release / "test_list.txt").write_text((release / "test_list.txt").read_text().replace(move, ""))
    (release / "train_val_list.txt").write_text((release / "train_val_list.txt").read_text() + move)
    write_label_csvs(release, {"00000005_000.png": "test", "00000005_001.png": "train"})
    line = fail(capsys, release, tmp_path / "records", *flags)
    assert re.match(
        "error: patient 5 is in (train|val) and in test, so scores would be too good. Correct the lists", line
    )


def test_official_lists_decide_the_test_split_and_a_random_split_does_not_need_them(undisturbed, tmp_path, build):
    assert set(index_of(undisturbed / "records", "test").patient_ids) == {17, 18, 19, 20}
    info = build(undisturbed / "release", tmp_path, "--split", "random", "--ratios", 0.5, 0.2, 0.3)
    assert (info["split"]["name"], info["split"]["ratios"]) == ("random", [0.5, 0.2, 0.3])
    patients = [set(index_of(tmp_path, split).patient_ids) for split in SPLITS]
    assert set.union(*patients) == set(range(1, 21))
    assert sum(map(len, patients)) == 20  # so no patient is in two splits
    assert patients[2] != {17, 18, 19, 20}


def test_the_patients_flag_samples_patients_with_all_their_images(undisturbed, tmp_path, build):
    info = build(undisturbed / "release", tmp_path, "--patients", 6, "--split", "random")
    assert sum(split["patients"] for split in info["splits"].values()) == 6
    assert sum(split["images"] for split in info["splits"].values()) == 18
    assert info["patients_sampled"] == 6


def test_too_many_bad_images_are_an_error_and_a_fixed_image_is_used(tiny_release, tmp_path, build, capsys):
    release = tiny_release(patients=5)
    image = release / "images" / "00000002_001.png"
    good = image.read_bytes()
    image.write_bytes(b"<html>")
    line = fail(capsys, release, tmp_path / "records", "--image_size", 32)
    assert "1 of 15 images could not be read, over --max_rejected 0.01; first: 00000002_001.png: not a PNG" in line
    assert not (tmp_path / "records" / "dataset.json").exists()
    assert build(release, tmp_path / "records", "--max_rejected", 0.1)["rejected"] == 1
    assert "rejected 1, all in rejected.csv:\n  00000002_001.png: not a PNG" in capsys.readouterr().out
    image.write_bytes(good)
    assert build(release, tmp_path / "records")["rejected"] == 0
    build(release, tmp_path / "fresh")
    assert shards_of(tmp_path / "records") == shards_of(tmp_path / "fresh")


def test_the_summary_counts_images_patients_and_positives(undisturbed, tmp_path, build, capsys):
    info = build(undisturbed / "release", tmp_path)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == list(SPLITS)
    assert ["images", *(str(info["splits"][split]["images"]) for split in SPLITS)] in lines
    assert ["Hernia", *(str(info["splits"][split]["positives"]["Hernia"]) for split in SPLITS)] in lines
    assert sum(split["positives"]["Hernia"] for split in info["splits"].values()) == 4  # images 17, 27, 45 and 55


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "the following arguments are required: --data_dir"),
        (["--image_size", 31], "--image_size 31: expected 32 to 4096 pixels"),
        (["--ratios", 0.7, 0.1, 0.1], "--ratios 0.7 0.1 0.1: expected shares that sum to 1, the first above 0"),
        (["--ratios", 0, 0.5, 0.5], "--ratios 0.0 0.5 0.5: expected shares"),
        (["--ratios", 1.2, -0.2, 0], "--ratios 1.2 -0.2 0.0: expected shares"),
        (["--ratios", "nan", 0, 1], "--ratios nan 0.0 1.0: expected shares"),
        (["--patients", 0], "--patients 0: expected at least 1"),
        (["--workers", 0], "--workers 0: expected at least 1"),
        (["--shard_size", -1], "--shard_size -1: expected at least 1"),
        (["--max_rejected", 1.5], "--max_rejected 1.5: expected a share from 0 to 1"),
        (["--encoding", "gif"], "argument --encoding: invalid choice: 'gif'"),
        (["--split", "none"], "argument --split: invalid choice: 'none'"),
    ],
)
def test_a_bad_flag_ends_with_exit_code_2(capsys, flags, message):
    with pytest.raises(SystemExit) as exit_:
        build_dataset.main([*(["--data_dir", "x"] if flags else []), *map(str, flags)])
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


def test_the_command_exits_with_0_or_with_1_and_one_line(cli, tiny_release, tmp_path):
    release = tiny_release(patients=5)
    flags = ["--output_dir", tmp_path / "records", "--image_size", 32]
    done = cli("build_dataset.py", "--data_dir", release, *flags)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False)
    assert done.stdout.splitlines()[-1].startswith("next: python train.py --model_dir")
    csv_path = release / "Data_Entry_2017.csv"
    csv_path.write_text(csv_path.read_text().replace("Atelectasis", "Atelectase", 1))
    failed = cli("build_dataset.py", "--data_dir", release, *flags)
    assert (failed.returncode, failed.stdout, failed.stderr.count("\n")) == (1, "", 1)
    assert re.match(r"error: .*Data_Entry_2017\.csv row 3: unknown finding 'Atelectase'", failed.stderr)


def test_verify_prints_the_faults_of_a_dataset(tiny_release, tmp_path, capsys, build):
    release = tiny_release(patients=4)
    build(release, tmp_path / "records")
    capsys.readouterr()
    flags = ["--data_dir", str(release), "--output_dir", str(tmp_path / "records"), "--workers", "1", "--verify"]
    build_dataset.main(flags)
    size = sum(path.stat().st_size for path in (tmp_path / "records").glob("*.tfrecord"))
    assert capsys.readouterr().out == f"{tmp_path / 'records'}: 12 images in {size:,} bytes, no faults\n"
    csv = release / "Data_Entry_2017.csv"
    csv.write_text(csv.read_text().replace(",PA,", ",AP,", 1))
    with pytest.raises(SystemExit, match=r"^error: .*: 2 faults, first: the dataset was built from Data_Entry_2017"):
        build_dataset.main(flags)
    assert ", image 00000001_000.png: view_position 0, but 1 in Data_Entry_2017.csv" in capsys.readouterr().out
