"""Real builds with real faults: each fails with one clear line, and the next run gives the bytes of a normal build."""

import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import psutil
import pytest
from support.rounds import rounds

ROOT = Path(__file__).resolve().parents[2]
SHARD_SIZE = 16


def files_of(folder):
    """Bytes of every file in the folder of a dataset, except the lock."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def start(release, output, *flags):
    """Start build_dataset.py in its own process group."""
    fixed = ["--data_dir", release, "--output_dir", output, "--image_size", 32, "--workers", 2]
    command = [sys.executable, "build_dataset.py", *map(str, [*fixed, "--shard_size", SHARD_SIZE, *flags])]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )


def end(process):
    """Wait for the end of a build without traceback; returns (exit code, last line of stderr)."""
    stderr = process.communicate(timeout=120)[1].decode()
    assert "Traceback" not in stderr
    return process.returncode, stderr.replace("\r", "\n").splitlines()[-1]


def finish(release, output, *flags):
    """Run a build, which must succeed."""
    code, line = end(start(release, output, *flags))
    assert code == 0, line


def pack_tgz(release):
    """Move the images of a release into a .tar.gz."""
    with tarfile.open(release / "images_001.tar.gz", "w:gz", compresslevel=1) as archive:
        archive.add(release / "images", "images")
    shutil.rmtree(release / "images")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, write_release):
    """(folder, seconds): releases of 300 images as `folder` and `tgz`, their datasets, and the build times."""
    place, seconds = tmp_path_factory.mktemp("undisturbed"), {}
    for name in ("folder", "tgz"):
        write_release(place / name, patients=100)
        if name == "tgz":
            pack_tgz(place / name)
        begin = time.monotonic()
        finish(place / name, place / f"{name}_records")
        seconds[name] = time.monotonic() - begin
    return place, seconds


@pytest.fixture(scope="module")
def release(undisturbed):
    """The release with images in a folder. Tests must not change it."""
    return undisturbed[0] / "folder"


@pytest.fixture(scope="module")
def expected(undisturbed):
    """Every file of the dataset built from `release`."""
    return files_of(undisturbed[0] / "folder_records")


def kill_after(process, seconds):
    """kill -9 of a build and all its workers after a time; returns whether it was still running."""
    try:
        process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return True
    assert process.returncode == 0
    return False


@pytest.mark.parametrize("container", ["folder", "tgz"])
def test_a_build_killed_at_any_moment_resumes_to_the_same_bytes(undisturbed, tmp_path, container):
    place, seconds = undisturbed
    expected, output, kills = files_of(place / f"{container}_records"), tmp_path / "records", 0
    moments = random.Random(f"moments {container}")
    while kills < rounds(2, 25):
        if kill_after(start(place / container, output), moments.uniform(0, seconds[container])):
            kills += 1
            for name, data in files_of(output).items():  # every file with a final name is complete
                assert name.endswith(".partial") or "spool" in name or expected.get(name) == data, name
        else:
            assert files_of(output) == expected
            shutil.rmtree(output)
    finish(place / container, output)
    assert files_of(output) == expected


class Disk:
    """A private in-memory file system whose size and mode can be changed while it is used."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        script = (
            'mount -t tmpfs -o size=64k none "$0" && while echo ready; read how; do mount -o "remount,$how" "$0"; done'
        )
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        self.process = subprocess.Popen(["unshare", "-rm", "sh", "-c", script, str(folder)], **pipes, text=True)
        self.answer = self.process.stdout.readline().strip()
        self.folder = Path(f"/proc/{self.process.pid}/root{folder}")

    def remount(self, how: str) -> None:
        """Change the disk with `mount -o remount,HOW`."""
        self.process.stdin.write(how + "\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "ready\n"

    def close(self) -> None:
        """Free the memory."""
        self.process.communicate("")


@pytest.fixture
def disk(tmp_path):
    """A real disk of 64 KB."""
    if not shutil.which("unshare"):
        pytest.skip("no unshare here to mount a small disk with")
    made = Disk(tmp_path / "disk")
    if made.answer != "ready":
        made.close()
        pytest.skip(f"no small disk can be mounted here: {made.answer}")
    yield made
    made.close()


def test_a_full_disk_is_one_line_and_the_build_can_resume(disk, release, expected):
    output = disk.folder / "records"
    for size in ("64k", "100k", "200k"):  # full at different moments
        disk.remount(f"size={size}")
        code, line = end(start(release, output))
        assert code == 1
        assert line.startswith("error: [Errno 28] No space left on device; make room and run the same command again, ")
        assert f"kept: '{output}/" in line
        assert not list(output.rglob("*.partial"))
        assert not (output / "dataset.json").exists()
    assert list(output.glob("*.tfrecord"))  # the larger disks keep some shards
    disk.remount("size=64m")
    finish(release, output)
    assert files_of(output) == expected


def test_a_read_only_disk_is_one_line_and_the_build_can_resume(disk, release, expected):
    disk.remount("size=64m,ro")
    assert end(start(release, disk.folder / "records"))[0] == 1
    disk.remount("rw")
    (disk.folder / "records").mkdir()
    disk.remount("ro")
    code, line = end(start(release, disk.folder / "records"))
    assert (code, line) == (1, f"error: [Errno 30] Read-only file system: '{disk.folder}/records/.lock'")
    disk.remount("rw")
    finish(release, disk.folder / "records")
    assert files_of(disk.folder / "records") == expected


def test_a_file_in_place_of_the_folder_is_one_line(release, tmp_path):
    (tmp_path / "records").write_text("mine")
    code, line = end(start(release, tmp_path / "records"))
    assert (code, line) == (1, f"error: [Errno 17] File exists: '{tmp_path}/records'")
    assert (tmp_path / "records").read_text() == "mine"


def wait_for_a_shard(output, process):
    while not list((output / "manifest").glob("*-of-*.json")):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.001)


def test_a_file_removed_during_a_build_is_one_line_and_the_build_can_resume(release, expected, tmp_path):
    mine, output = shutil.copytree(release, tmp_path / "release"), tmp_path / "records"
    process = start(mine, output, "--workers", 1)  # the test split, patients 81 to 100, is written last
    wait_for_a_shard(output, process)
    (mine / "images").rename(tmp_path / "away")
    code, line = end(process)
    assert code == 1
    assert line.startswith(f"error: {mine}/images/")
    assert " was removed while it was needed. Put it back and run the same command again" in line
    (tmp_path / "away").rename(mine / "images")
    finish(mine, output)
    assert files_of(output) == expected


def test_a_killed_worker_is_one_line_and_the_build_can_resume(release, expected, tmp_path):
    output = tmp_path / "records"
    process = start(release, output)
    wait_for_a_shard(output, process)
    workers = [child for child in psutil.Process(process.pid).children() if "spawn_main" in " ".join(child.cmdline())]
    workers[0].kill()  # as the system does when memory runs out
    code, line = end(process)
    assert (code, line.split(". ")[0]) == (1, "error: a worker process was killed, most often for lack of memory")
    assert not (output / "dataset.json").exists()
    finish(release, output)
    assert files_of(output) == expected


def test_a_second_build_of_one_folder_is_rejected_and_the_first_continues(release, expected, tmp_path):
    first = start(release, tmp_path / "records")
    wait_for_a_shard(tmp_path / "records", first)
    os.killpg(first.pid, signal.SIGSTOP)  # so that it cannot end first
    code, line = end(start(release, tmp_path / "records"))
    os.killpg(first.pid, signal.SIGCONT)
    assert (code, line.split(";")[0]) == (1, f"error: another process is building {tmp_path / 'records'}")
    assert end(first)[0] == 0
    assert files_of(tmp_path / "records") == expected
