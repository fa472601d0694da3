import concurrent.futures
import functools
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from cxr.engines.engine import default_workers
from cxr.engines.local import run_local

ROOT = Path(__file__).resolve().parents[2]


def square(number):
    return number * number


def square_slowly(number):
    time.sleep(0.02 * (number % 3))
    return number * number


def reject_seven(number):
    if number == 7:
        raise ValueError("seven is rejected")
    return number


def die(number):
    if number == 3:
        os._exit(9)  # like a process that the system kills: no exception, no clean-up
    return number


def process_of(_):
    time.sleep(0.05)
    return os.getpid()


@pytest.mark.parametrize(
    ("jobs", "workers"),
    [(1, 2), (2, 2), (37, 2), (8, 1)],
    ids=["fewer jobs than workers", "equal numbers", "many jobs", "one worker"],
)
def test_every_job_has_its_result(jobs, workers):
    results = list(run_local(square_slowly, list(range(jobs)), workers=workers))
    assert sorted(results) == [number * number for number in range(jobs)]


def test_no_jobs_give_no_results():
    assert list(run_local(square, [], workers=2)) == []


def test_jobs_run_in_other_processes():
    found = set(run_local(process_of, list(range(6)), workers=2))
    assert len(found) == 2
    assert os.getpid() not in found


def test_jobs_are_submitted_only_as_results_are_read():
    taken = []

    class Jobs(list):
        def __iter__(self):
            for job in super().__iter__():
                taken.append(job)
                yield job

    results = run_local(square, Jobs(range(100)), workers=2)
    next(results)
    assert len(taken) <= 4  # two per worker
    results.close()


def managers() -> list[threading.Thread]:
    """The threads of pools that are still running."""
    return [thread for thread in concurrent.futures.process._threads_wakeups if thread.is_alive()]


def test_no_thread_of_a_pool_outlives_it():  # at exit Python writes into the pipe such a thread is closing
    for _ in range(5):
        results = run_local(square, list(range(20)), workers=2)
        next(results)
        assert len(managers()) == 1
        results.close()
        assert managers() == []


def test_an_exception_in_a_job_reaches_the_caller():
    with pytest.raises(ValueError, match="seven is rejected"):
        list(run_local(reject_seven, list(range(20)), workers=2))


def test_a_killed_worker_is_a_clear_error():
    message = r"a worker process was killed, most often for lack of memory\..* run the same command again, with fewer"
    with pytest.raises(RuntimeError, match=message):
        list(run_local(die, list(range(20)), workers=2))


def test_the_default_is_at_least_one_worker_and_at_most_one_per_core():
    assert 1 <= default_workers() <= os.cpu_count()


def shards_of(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.tfrecord")}


def start_build(release, output):
    flags = ["--data_dir", release, "--output_dir", output, "--image_size", "32", "--shard_size", "1", "--workers", "2"]
    command = [sys.executable, "build_dataset.py", *map(str, flags)]
    # A background job of a shell ignores Ctrl-C, and so do its child processes.
    accept_ctrl_c = functools.partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    return subprocess.Popen(
        command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=accept_ctrl_c
    )


def wait_for_shards(output, count, process):
    while len(list((output / "manifest").glob("*-of-*.json"))) < count or not (output / "manifest/plan.json").exists():
        assert process.poll() is None, f"ended before {count} shards: {process.stderr.read()}"
        time.sleep(0.001)


def alive(process):
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:  # it ended between the two calls
        return False


@pytest.fixture(scope="module")
def large(tmp_path_factory, write_release, build):
    """A release of 240 images and its dataset in shards of one image: a build can be stopped between any two."""
    folder = tmp_path_factory.mktemp("large")
    build(write_release(folder / "release", patients=80), folder / "records", "--shard_size", 1)
    return folder


def kill(process):
    """kill -9 of the build alone; returns the workers that are alive 15 seconds later, after killing them."""
    workers = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    process.stderr.close()
    deadline = time.monotonic() + 15
    while (orphans := [worker for worker in workers if alive(worker)]) and time.monotonic() < deadline:
        time.sleep(0.01)
    for orphan in orphans:
        orphan.kill()
    return orphans


def test_a_repeatedly_killed_build_ends_with_the_same_bytes_and_no_orphan(large, tmp_path, build):
    output = tmp_path / "records"
    for shards_before in (0, 20, 110):
        process = start_build(large / "release", output)
        wait_for_shards(output, shards_before, process)
        assert kill(process) == []
        assert not (output / "dataset.json").exists()
    build(large / "release", output, "--shard_size", 1)
    assert shards_of(output) == shards_of(large / "records")
    assert (output / "dataset.json").read_bytes() == (large / "records" / "dataset.json").read_bytes()
    assert not list(output.rglob("*.partial"))


def test_a_killed_worker_ends_the_build_in_one_line_that_can_be_resumed(large, tmp_path, build):
    process = start_build(large / "release", tmp_path / "records")
    wait_for_shards(tmp_path / "records", 10, process)
    for child in psutil.Process(process.pid).children():
        if "spawn_main" in " ".join(child.cmdline()):
            child.kill()
            break
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert stderr.splitlines()[-1].startswith("error: a worker process was killed, most often for lack of memory.")
    assert "Traceback" not in stderr
    build(large / "release", tmp_path / "records", "--shard_size", 1)
    assert shards_of(tmp_path / "records") == shards_of(large / "records")


def test_control_c_ends_the_build_in_one_line(large, tmp_path):
    process = start_build(large / "release", tmp_path / "records")
    wait_for_shards(tmp_path / "records", 10, process)
    os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to the workers too
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert stderr.splitlines()[-1].startswith("interrupted; nothing is lost but the work since")
    assert "Traceback" not in stderr
