import concurrent.futures
import multiprocessing
import subprocess
import sys
import time
from pathlib import Path

import pytest

from searching import journal

SAME = {"params.json": "a", "search.json": "b", "--data_dir": "c"}


def test_without_optuna_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ImportError, match=r"^searching needs Optuna\. Run: pip install -r requirements/search\.txt$"):
        journal.import_optuna()


def test_only_one_process_claims_at_a_time(tmp_path):
    code = "import pathlib, sys; from searching import journal\n"
    code += "with journal.one_at_a_time(pathlib.Path(sys.argv[1])): print(1)"
    root = Path(__file__).resolve().parents[2]
    with journal.one_at_a_time(tmp_path):
        other = subprocess.Popen([sys.executable, "-c", code, tmp_path], cwd=root, stdout=subprocess.PIPE)
        with pytest.raises(subprocess.TimeoutExpired):
            other.wait(2)
    assert other.communicate(timeout=60) == (b"1\n", None)
    assert not list(tmp_path.iterdir())


def test_a_claim_whose_process_was_killed_expires(tmp_path, monkeypatch):
    (tmp_path / "search.claim.lock").touch()
    monkeypatch.setattr(journal, "GRACE", 1)
    start = time.monotonic()
    with journal.one_at_a_time(tmp_path):
        assert 3 < time.monotonic() - start < 20


def test_a_process_that_waits_for_the_journal_of_a_killed_one_keeps_its_claim(tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "GRACE", 3)
    journal.open_study(tmp_path, SAME)
    (tmp_path / "search.journal.lock").touch()  # as if killed while it wrote
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        opened = [pool.submit(journal.open_study, tmp_path, SAME) for _ in range(2)]
    assert [study.result().user_attrs for study in opened] == [SAME, SAME]


def open_together(folder: Path, number: int, start) -> None:
    journal.import_optuna()
    start.wait()
    study = journal.open_study(folder, SAME)
    assert study.ask().number in range(4)


def test_processes_that_start_at_the_same_time_create_one_study(tmp_path):
    spawn = multiprocessing.get_context("spawn")
    start = spawn.Barrier(4)
    processes = [spawn.Process(target=open_together, args=(tmp_path, number, start)) for number in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0, 0, 0]
    study = journal.open_study(tmp_path, SAME)
    assert [trial.number for trial in study.get_trials()] == [0, 1, 2, 3]
    assert study.user_attrs == SAME


@pytest.mark.parametrize("name", SAME)
def test_a_study_of_a_changed_search_is_rejected(tmp_path, name):
    journal.open_study(tmp_path, SAME)
    text = f"^{name} has changed since the search in {tmp_path} began, so its trials cannot be compared. Undo that"
    with pytest.raises(ValueError, match=text):
        journal.open_study(tmp_path, SAME | {name: "other"})
    journal.open_study(tmp_path, SAME)  # nothing was overwritten


def test_trials_without_their_journal_are_not_mixed_with_new_ones(tmp_path):
    (tmp_path / "trial_0000").mkdir()
    with pytest.raises(ValueError, match=r"holds trials of a search but no search\.journal\. Restore it, or"):
        journal.open_study(tmp_path, SAME)


def test_an_incomplete_last_line_is_removed(tmp_path):
    journal.open_study(tmp_path, SAME).ask()
    path = tmp_path / "search.journal"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"op_code": 4, "wor')  # the part that a full disk could hold
    study = journal.open_study(tmp_path, SAME)
    assert path.read_bytes().startswith(whole + b'{"op_code":0,')  # opening adds a line
    assert study.ask().number == 1


def test_a_damaged_journal_gives_a_one_line_error(tmp_path):
    journal.open_study(tmp_path, SAME)
    path = tmp_path / "search.journal"
    path.write_bytes(b"not JSON\n" + path.read_bytes())
    text = r"search\.journal is damaged \(Expecting value: .*\)\. Restore it from a backup, or move it and the"
    with pytest.raises(ValueError, match=text):
        journal.open_study(tmp_path, SAME)
