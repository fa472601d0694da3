import os
import subprocess
import sys

import pytest

from searching import locks
from searching.locks import Locks


@pytest.fixture
def clock(monkeypatch):
    """clock(seconds): advance the clock of searching.locks."""
    now = [1000.0]
    monkeypatch.setattr(locks.time, "monotonic", lambda: now[0])

    def tick(seconds: float) -> None:
        now[0] += seconds

    return tick


@pytest.fixture
def without_flock(monkeypatch):
    """A file system whose locks do not reach other machines: every lock is free."""
    import fcntl

    monkeypatch.setattr(fcntl, "flock", lambda descriptor, operation: None)


def test_a_trial_is_locked_until_the_search_and_its_child_have_ended(tmp_path):
    lock = Locks().take(tmp_path / "trial_0000")
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(lock.descriptor,))
    assert Locks().take(tmp_path / "trial_0000") is None
    lock.release()  # as the system does when a search is killed
    assert Locks().take(tmp_path / "trial_0000") is None
    child.communicate(b"\n", timeout=60)
    Locks().take(tmp_path / "trial_0000").release()


def test_an_abandoned_trial_of_this_machine_is_taken_immediately(tmp_path):
    Locks("here").take(tmp_path).release()
    assert (tmp_path / locks.FILE).read_text() == "here"
    Locks("here").take(tmp_path).release()


def test_a_trial_of_another_machine_is_taken_after_three_minutes_without_a_touch(tmp_path, clock):
    Locks("a longer name").take(tmp_path).release()
    here = Locks("here")
    assert here.take(tmp_path) is None
    clock(179)
    assert here.take(tmp_path) is None
    clock(2)
    here.take(tmp_path).release()
    assert (tmp_path / locks.FILE).read_text() == "here"


def test_a_touched_trial_of_another_machine_is_not_taken_even_without_shared_locks(tmp_path, clock, without_flock):
    there, here = Locks("there").take(tmp_path), Locks("here")
    os.utime(there.descriptor, (1, 1))  # its clock is decades off
    for _ in range(10):
        assert here.take(tmp_path) is None
        clock(100)
        there.beat()


def test_a_lock_is_touched_every_ten_seconds(tmp_path, clock):
    lock = Locks().take(tmp_path)
    os.utime(lock.descriptor, (1, 1))
    clock(9)
    lock.beat()
    assert (tmp_path / locks.FILE).stat().st_mtime == 1
    clock(1)
    lock.beat()
    assert (tmp_path / locks.FILE).stat().st_mtime > 1
