"""Builds from compressed tars: repeated, repaired, killed, and with damaged archives."""

import gzip
import json
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
from support.packing import targz_of

import build_dataset
from cxr.release import spools

ROOT = Path(__file__).resolve().parents[2]


SHARD_FLAGS = ["--shard_size", 5]


@pytest.fixture(scope="module")
def packed(tmp_path_factory, write_release, build):
    """A release of 30 images of 400 px in two compressed tars, one of the images broken, and its dataset."""
    folder = tmp_path_factory.mktemp("packed")
    release = write_release(folder / "release", patients=10, size=400)
    paths = sorted((release / "images").iterdir())
    paths[3].write_bytes(b"<html>")
    for number, part in enumerate((paths[::2], paths[1::2])):
        members = [(f"images/{path.name}", path.read_bytes()) for path in part]
        (release / f"images_{number}.tar.gz").write_bytes(targz_of(members))
    shutil.rmtree(release / "images")
    build(release, folder / "records", *SHARD_FLAGS, "--max_rejected", 0.1)
    return folder


def result_of(folder):
    """Every file of a dataset except its manifest."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name != ".lock"}


def manifest_of(folder):
    return {path.name: path.stat().st_mtime_ns for path in (folder / "manifest" / "archives").iterdir()}


def again(build, packed, output):
    return build(packed / "release", output, *SHARD_FLAGS, "--max_rejected", 0.1)


def test_building_a_finished_dataset_again_writes_nothing(packed, tmp_path, build, monkeypatch):
    output = shutil.copytree(packed / "records", tmp_path / "records")
    before = manifest_of(output)
    assert len(before) == 2
    monkeypatch.setattr(spools, "write_spool", None)
    monkeypatch.setattr(build_dataset.shards, "write_shard", None)
    again(build, packed, output)  # a shard has a rejected image, which has not changed
    assert result_of(output) == result_of(packed / "records")
    assert manifest_of(output) == before


def test_a_deleted_shard_is_rewritten_from_its_archive(packed, tmp_path, build):
    output = shutil.copytree(packed / "records", tmp_path / "records")
    (output / "train-00001-of-00005.tfrecord").unlink()
    again(build, packed, output)
    assert result_of(output) == result_of(packed / "records")
    assert {name.rsplit(".", 1)[1] for name in manifest_of(output)} == {"json"}


def test_a_fixed_image_in_a_new_archive_is_used(packed, tmp_path, build):
    release = shutil.copytree(packed / "release", tmp_path / "release")
    output = shutil.copytree(packed / "records", tmp_path / "records")
    path = release / "images_1.tar.gz"
    with tarfile.open(path) as archive:
        members = [(member.name, archive.extractfile(member).read()) for member in archive]
    good = next(data for _, data in members if data != b"<html>")
    path.write_bytes(targz_of([(name, good if data == b"<html>" else data) for name, data in members]))
    assert build(release, output, *SHARD_FLAGS)["rejected"] == 0
    build(release, tmp_path / "fresh", *SHARD_FLAGS)
    assert result_of(output) == result_of(tmp_path / "fresh")


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param(lambda archives: any(archives.glob("*.partial")), id="while an archive is read"),
        pytest.param(lambda archives: any(archives.glob("*.json")), id="when one has been read"),
        pytest.param(lambda archives: len(list(archives.glob("*.json"))) == 2, id="before the shards"),
    ],
)
def test_a_build_killed_while_reading_archives_resumes_to_the_same_bytes(packed, tmp_path, build, moment):
    output = tmp_path / "records"
    flags = ["--data_dir", packed / "release", "--output_dir", output, "--image_size", 32, *SHARD_FLAGS]
    flags += ["--max_rejected", 0.1, "--workers", 1]
    command = [sys.executable, "build_dataset.py", *map(str, flags)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < until and not moment(output / "manifest" / "archives"):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    time.sleep(0.2)  # until its worker has noticed and exited
    assert not (output / "dataset.json").exists()
    again(build, packed, output)
    assert result_of(output) == result_of(packed / "records")
    assert not list(output.rglob("*.partial"))
    assert not list(output.rglob("*.spool"))


def line_of(data_dir, output_dir, *flags):
    """The single error line of a failing build."""
    with pytest.raises(SystemExit) as exit_:
        build_dataset.main(["--data_dir", str(data_dir), "--output_dir", str(output_dir), *map(str, flags)])
    assert "\n" not in exit_.value.code
    return exit_.value.code


def test_a_damaged_archive_is_one_line_and_the_other_spools_are_kept(packed, tmp_path, build, in_process):
    release = shutil.copytree(packed / "release", tmp_path / "release")
    path = release / "images_1.tar.gz"
    whole, flags = path.read_bytes(), ["--image_size", 32, *SHARD_FLAGS]
    for bad in (b"", b"<html>", whole[:-9], whole[:5000], whole[:5000] + b"?" + whole[5001:], whole + b"rubbish"):
        path.write_bytes(bad)
        line = line_of(release, tmp_path / "records", *flags)
        assert line.startswith(f"error: {path} is ")
        assert line.endswith("Download it again.")
    kept = manifest_of(tmp_path / "records")
    assert [name.split("-")[1] for name in sorted(kept)] == ["images_0.tar.gz.spool", "images_0.tar.gz.spool.json"]
    path.write_bytes(whole)
    build(release, tmp_path / "records", *flags, "--max_rejected", 0.1)
    assert result_of(tmp_path / "records") == result_of(packed / "records")


def test_a_folder_with_other_options_is_rejected_before_archives_are_read(packed, tmp_path, monkeypatch):
    output = shutil.copytree(packed / "records", tmp_path / "records")
    before, times = result_of(output), manifest_of(output)
    monkeypatch.setattr(spools, "write_spool", None)
    line = line_of(packed / "release", output, "--image_size", 64, *SHARD_FLAGS)
    error = f"error: {output} contains another dataset (image_size 32, now 64)."
    assert line == f"{error} Choose another --output_dir, or delete it."
    assert (result_of(output), manifest_of(output)) == (before, times)


def test_reading_and_writing_each_have_a_progress_bar(packed, tmp_path, build, capfd):
    again(build, packed, tmp_path)
    lines = capfd.readouterr().err.removesuffix("\n").split("\n")
    assert [line.split("\r")[-1].split("|")[0] for line in lines] == ["reading archives: 100%", "writing shards: 100%"]
    assert "30/30" in lines[1]


def test_indexes_of_removed_archives_are_deleted(packed, tmp_path, build):
    release, output = tmp_path / "release", shutil.copytree(packed / "records", tmp_path / "records")
    shutil.copytree(packed / "release", release, ignore=shutil.ignore_patterns("*.gz"))
    for path in (packed / "release").glob("*.gz"):
        (release / path.name.replace(".tar.gz", ".tar")).write_bytes(gzip.decompress(path.read_bytes()))
    build(release, output, *SHARD_FLAGS, "--max_rejected", 0.1)
    assert manifest_of(output) == {}
    files, expected = result_of(output), result_of(packed / "records")
    infos = [json.loads(result.pop("dataset.json")) for result in (files, expected)]
    assert [info["source"].pop("containers") for info in infos] == [
        ["images_0.tar", "images_1.tar"],
        ["images_0.tar.gz", "images_1.tar.gz"],
    ]
    assert (files, infos[0]) == (expected, infos[1])
