"""Ctrl-C and SIGTERM in real commands: no process writes after the folder is unlocked, and the next build resumes."""

import fcntl
import functools
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from support.packing import targz_of

from cxr import interrupts

ROOT = Path(__file__).resolve().parents[2]
INTERRUPTED = "interrupted; nothing is lost but the work since the last file was written"
SLEEPERS = """
import os, pathlib, sys, time
from cxr import storage
from cxr.engines import mapping
from cxr.engines.engine import Engine
from cxr.errors import one_line_errors

def sleep(folder):
    (pathlib.Path(folder) / f"{os.getpid()}.worker").touch()
    time.sleep(60)

if __name__ == "__main__":
    engine, folder = sys.argv[1:]
    with one_line_errors(), storage.exclusive(folder, "sleeping in"):
        list(mapping.run(sleep, [folder] * 8, Engine(engine, workers=2)))
"""


@pytest.fixture
def start():
    """start("build_dataset.py", ...): a command in its own process group, which receives Ctrl-C as in a terminal."""
    # A background job of a shell ignores Ctrl-C, and so do its child processes.
    accept_ctrl_c = functools.partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}
    options = {"cwd": ROOT, "env": environment, "start_new_session": True, "preexec_fn": accept_ctrl_c}
    options |= {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    started = []

    def run(*command: object) -> subprocess.Popen:
        started.append(subprocess.Popen([sys.executable, *map(str, command)], **options))
        return started[-1]

    yield run
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def wait_until(condition, process: subprocess.Popen) -> None:
    """Wait until a running command has made the condition true."""
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.001)


def is_free(folder: Path) -> bool:
    """Whether a folder is not locked."""
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def require_interrupted(process: subprocess.Popen) -> None:
    """Wait for the end of a command, which must have exit code 1 and one clear line."""
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == 1, stderr
    lines = [line for line in stderr.replace("\r", "\n").splitlines() if line.strip()]  # a progress bar may end below
    assert lines[-1] == INTERRUPTED, stderr
    assert "Traceback" not in stderr


@pytest.mark.parametrize(
    ("engine", "number", "send"),
    [
        pytest.param("local", signal.SIGINT, os.kill, id="local, SIGINT to the command alone"),
        pytest.param("local", signal.SIGINT, os.killpg, id="local, SIGINT to all, as a terminal does"),
        pytest.param("local", signal.SIGTERM, os.kill, id="local, SIGTERM to the command alone"),
        pytest.param("local", signal.SIGTERM, os.killpg, id="local, SIGTERM to all, as systemd does"),
        pytest.param("ray", signal.SIGTERM, os.kill, id="ray, SIGTERM to the command alone"),
    ],
)
def test_long_jobs_end_within_seconds_and_before_the_lock_is_free(start, tmp_path, engine, number, send):
    (tmp_path / "sleepers.py").write_text(SLEEPERS)
    process = start(tmp_path / "sleepers.py", engine, tmp_path)
    wait_until(lambda: len(list(tmp_path.glob("*.worker"))) == 2, process)
    workers = [int(path.stem) for path in tmp_path.glob("*.worker")]
    assert all(map(alive, workers))
    begin = time.monotonic()
    send(process.pid, number)
    while not is_free(tmp_path):
        time.sleep(0.001)
    assert not any(map(alive, workers))
    require_interrupted(process)
    assert time.monotonic() - begin < (5 if engine == "local" else 15)  # Ray takes 3 to 5 seconds to shut down
    assert len(list(tmp_path.glob("*.worker"))) == 2  # no queued job has begun


@pytest.fixture(scope="module")
def packed(tmp_path_factory, write_release, build):
    """A release of 120 images of 512 px in one .tar.gz, which takes almost a second to read, and its dataset."""
    folder = tmp_path_factory.mktemp("packed")
    release = write_release(folder / "release", patients=40, size=512)
    members = [(f"images/{path.name}", path.read_bytes()) for path in sorted((release / "images").iterdir())]
    (release / "images_001.tar.gz").write_bytes(targz_of(members))
    shutil.rmtree(release / "images")
    build(release, folder / "records", "--shard_size", 1)
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def in_the_archive(output: Path) -> bool:
    """Whether a part of the spool has been written."""
    found = list((output / "manifest/archives").glob("*.partial"))
    return bool(found) and found[0].stat().st_size > 0


def in_the_shards(output: Path) -> bool:
    return len(list((output / "manifest").glob("*-of-*.json"))) >= 10


@pytest.mark.parametrize(
    ("engine", "number", "send"),
    [
        pytest.param("local", signal.SIGINT, os.killpg, id="local, SIGINT"),
        pytest.param("local", signal.SIGTERM, os.kill, id="local, SIGTERM"),
        pytest.param("ray", signal.SIGINT, os.killpg, id="ray, SIGINT"),
    ],
)
def test_an_interrupted_build_leaves_no_writer_and_resumes_to_the_same_bytes(
    start, packed, tmp_path, build, engine, number, send
):
    output = tmp_path / "records"
    flags = ["--data_dir", packed / "release", "--output_dir", output, "--image_size", 32, "--shard_size", 1]
    # Ray checks signals once a second; by then the archive may be read.
    for is_at in (in_the_archive, in_the_shards) if engine == "local" else (in_the_shards,):
        process = start("build_dataset.py", *flags, "--workers", 2, "--engine", engine)
        wait_until(functools.partial(is_at, output), process)
        send(process.pid, number)
        while not is_free(output):
            time.sleep(0.001)
        before = files_of(output)
        require_interrupted(process)
        assert files_of(output) == before
        assert not (output / "dataset.json").exists()
        assert bool(list(output.glob("manifest/archives/*.json"))) == (is_at is in_the_shards)
    build(packed / "release", output, "--shard_size", 1)
    assert not list(output.rglob("*.partial"))
    assert files_of(output) == files_of(packed / "records")


def signal_itself_in_held_block(number: int, done: list[str]) -> None:
    """Send a signal to this process inside a block that holds it; `done` records what still runs."""
    with interrupts.sigterm_as_interrupt():
        with interrupts.held():
            os.kill(os.getpid(), number)
            time.sleep(0.3)  # the thread that receives it may have to wait for a processor
            done.append("the block")
        done.append("what follows")


@pytest.fixture
def sigint_raises():
    """Ctrl-C raises, also where the tests run in a shell's background, whose jobs ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("sigint_raises")
@pytest.mark.parametrize("number", interrupts.SIGNALS)
@pytest.mark.parametrize("threads", [0, 1])  # another thread does not block the signal and receives it
def test_signals_are_delayed_until_the_block_ends(number, threads):
    handlers = [signal.getsignal(number) for number in interrupts.SIGNALS]
    end, done = threading.Event(), []
    others = [threading.Thread(target=end.wait) for _ in range(threads)]
    for thread in others:
        thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            signal_itself_in_held_block(number, done)
    finally:
        end.set()
        for thread in others:
            thread.join()
    assert done == ["the block"]
    assert [signal.getsignal(number) for number in interrupts.SIGNALS] == handlers


def test_processes_started_while_signals_are_held_never_receive_them():
    code = "import signal; print(sorted(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, []))))"
    with interrupts.held():
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"[{int(signal.SIGINT)}, {int(signal.SIGTERM)}]\n"
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, []) & set(interrupts.SIGNALS)


def test_other_threads_keep_their_handlers():
    def enter() -> None:
        with interrupts.held(), interrupts.sigterm_as_interrupt():
            found.append(signal.getsignal(signal.SIGTERM))

    found, before = [], signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == [before]
