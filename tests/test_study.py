import multiprocessing
import os
from pathlib import Path

import optuna
import pytest

from cxr.database import import_optuna
from cxr.search_space import Choices, Range
from cxr.study import ERROR, Study

GRID = {"batch_size": Choices((8, 16)), "hidden_units": Choices(([64], [64, 32]))}
RANGES = {
    "learning_rate": Range(1e-5, 1e-2, log=True, integer=False),
    "batch_size": Range(8, 64, log=False, integer=True),
    "optimizer": Choices(("adamw", "sgd")),
}
SAME = {"params.json": "a", "search.json": "b", "--data_dir": "c"}


def open_study(folder: Path, space: dict = GRID, *, identity: dict | None = None, **changes) -> Study:
    folder.mkdir(exist_ok=True)
    options = {"url": None, "seed": 230, "limit": 100} | changes
    return Study(folder, space, identity=identity or SAME, **options)


def claim_all(study: Study) -> list[tuple[int, dict]]:
    """Claim what there is, give each trial the value number / 10 and let go; numbers and values."""
    claimed = []
    while found := study.claim():
        asked, lock = found
        claimed.append((asked.number, study.values(asked)))
        study.finish(asked, asked.number / 10)
        os.close(lock)
    return claimed


def test_a_grid_tries_every_combination_once_in_order(tmp_path):
    study = open_study(tmp_path)
    assert claim_all(study) == [
        (0, {"batch_size": 8, "hidden_units": [64]}),
        (1, {"batch_size": 8, "hidden_units": [64, 32]}),
        (2, {"batch_size": 16, "hidden_units": [64]}),
        (3, {"batch_size": 16, "hidden_units": [64, 32]}),
    ]
    assert claim_all(open_study(tmp_path)) == []  # nothing is repeated
    assert [found.value for found in study.trials()] == [0, 0.1, 0.2, 0.3]


def test_the_limit_is_of_the_whole_study(tmp_path):
    assert len(claim_all(open_study(tmp_path, RANGES, limit=2))) == 2
    assert [number for number, _ in claim_all(open_study(tmp_path, RANGES, limit=5))] == [2, 3, 4]


def test_ranges_are_kept_and_seeded(tmp_path):
    found = claim_all(open_study(tmp_path / "a", RANGES, limit=3))
    assert len({values["learning_rate"] for _, values in found}) == 3
    for _, values in found:
        assert 1e-5 <= values["learning_rate"] <= 1e-2
        assert values["batch_size"] in range(8, 65)
        assert values["optimizer"] in ("adamw", "sgd")
    assert claim_all(open_study(tmp_path / "b", RANGES, limit=3, seed=231)) != found


def test_a_search_that_is_stopped_goes_on_as_it_would_have(tmp_path):
    whole = claim_all(open_study(tmp_path / "whole", RANGES, limit=12))  # the last two by TPE, after ten at random
    first = claim_all(open_study(tmp_path / "parts", RANGES, limit=11))
    assert first + claim_all(open_study(tmp_path / "parts", RANGES, limit=12)) == whole


def open_together(folder: Path, url: str, start) -> None:
    """What a machine does of a study: in a process of its own, at the same moment as the others."""
    import_optuna().storages.RDBStorage("sqlite://")  # all it imports
    start.wait()
    assert open_study(folder, url=url).trials() == []


def test_machines_that_begin_at_the_same_moment_make_one_study(tmp_path):
    spawn, url = multiprocessing.get_context("spawn"), f"sqlite:///{tmp_path}/shared.db"
    start = spawn.Barrier(4)
    machines = []
    for number in range(4):
        (tmp_path / str(number)).mkdir()
        machines.append(spawn.Process(target=open_together, args=(tmp_path / str(number) / "search", url, start)))
        machines[-1].start()
    for machine in machines:
        machine.join()
    assert [machine.exitcode for machine in machines] == [0, 0, 0, 0]
    assert optuna.get_all_study_names(url) == ["search"]


def test_a_trial_that_a_killed_search_left_is_taken_up_first(tmp_path):
    killed = open_study(tmp_path)
    asked, lock = killed.claim()
    values = killed.values(asked)
    other = open_study(tmp_path)
    second, its_lock = other.claim()
    assert second.number == 1  # the first is still held
    os.close(lock)  # as the system does for a process that dies
    third, taken = other.claim()
    assert (third.number, other.values(third)) == (0, values)
    assert other.claim()[0].number == 2
    os.close(its_lock)
    os.close(taken)


def test_a_trial_that_was_killed_before_it_had_values_gets_those_it_would_have_had(tmp_path):
    os.close(open_study(tmp_path, RANGES).claim()[1])
    study = open_study(tmp_path, RANGES)
    asked, lock = study.claim()
    found = study.values(asked)
    os.close(lock)
    assert asked.number == 0
    assert found == claim_all(open_study(tmp_path / "b", RANGES, limit=1))[0][1]


def test_a_trial_of_another_machine_is_left_to_it(tmp_path):
    url = f"sqlite:///{tmp_path}/shared.db"
    here, there = tmp_path / "here/search", tmp_path / "there/search"  # one study: it is named for the folder
    here.parent.mkdir()
    there.parent.mkdir()
    os.close(open_study(there, url=url).claim()[1])
    study = open_study(here, url=url)
    assert [number for number, _ in claim_all(study)] == [1, 2, 3]
    assert study.running_here() == []
    assert [number for number, _ in claim_all(open_study(there, url=url))] == [0]


def test_one_more_than_the_limit_is_given_back(tmp_path, monkeypatch):
    study = open_study(tmp_path, limit=1)
    claim_all(study)
    monkeypatch.setattr(Study, "trials", lambda study: [])  # what another machine saw a moment before
    assert study._new() is None
    monkeypatch.undo()
    extra = study.trials()[1]
    assert (extra.state.name, extra.user_attrs[ERROR]) == ("FAIL", "one more than were to be tried")


@pytest.mark.parametrize("name", SAME)
def test_a_study_whose_search_changed_is_refused(tmp_path, name):
    open_study(tmp_path)
    text = f"^{name} is not what the study in {tmp_path} began with, so its trials would not compare. Undo that, or sea"
    with pytest.raises(ValueError, match=text):
        open_study(tmp_path, identity=SAME | {name: "other"})
    open_study(tmp_path)  # and nothing was overwritten


def test_trials_without_their_database_are_not_mixed_with_new_ones(tmp_path):
    claim_all(open_study(tmp_path))
    (tmp_path / "study.db").unlink()
    with pytest.raises(ValueError, match=r"holds trials of a study whose database is gone\. Bring study\.db back, or"):
        open_study(tmp_path)


def past_trials(study: Study, curves: list[list[float]]) -> None:
    for curve in curves:
        steps = dict(enumerate(curve, start=1))
        study._study.add_trial(optuna.create_trial(value=curve[-1], intermediate_values=steps))


def test_a_trial_below_the_median_is_ended_from_the_second_epoch_on(tmp_path):
    study = open_study(tmp_path, RANGES)
    past_trials(study, [[0.5, value] for value in (0.6, 0.65, 0.7, 0.75, 0.8)])  # the median is 0.7
    (bad, first), (good, second) = study.claim(), study.claim()
    assert not study.report(bad, {1: 0.1})
    assert study.report(bad, {1: 0.1, 2: 0.69})
    assert not study.report(good, {1: 0.1, 2: 0.71})
    study.prune(bad)
    pruned = study.trials()[bad.number]
    assert (pruned.state.name, pruned.value, pruned.intermediate_values) == ("PRUNED", 0.69, {1: 0.1, 2: 0.69})
    os.close(first)
    os.close(second)


def test_four_trials_are_too_few_to_end_another_by(tmp_path):
    study = open_study(tmp_path, RANGES)
    past_trials(study, [[0.5, 0.9]] * 4)
    asked, lock = study.claim()
    assert not study.report(asked, {1: 0.1, 2: 0.1})
    os.close(lock)


def test_a_combination_of_a_grid_is_ended_likewise_and_stays_tried(tmp_path):
    study = open_study(tmp_path, {"batch_size": Choices(tuple(range(1, 8)))})
    past_trials(study, [[0.5, 0.9]] * 5)
    asked, lock = study.claim()
    assert (study.values(asked), study.report(asked, {1: 0.1, 2: 0.1})) == ({"batch_size": 6}, True)
    study.prune(asked)
    os.close(lock)
    last, lock = study.claim()
    assert study.values(last) == {"batch_size": 7}
    os.close(lock)


def test_epochs_that_were_reported_before_a_kill_are_not_reported_again(tmp_path):
    study = open_study(tmp_path, RANGES)
    asked, lock = study.claim()
    study.report(asked, {1: 0.5})
    os.close(lock)
    again, lock = open_study(tmp_path, RANGES).claim()
    study.report(again, {1: 0.5, 2: 0.625})  # Optuna would warn, and warnings are errors here
    assert study.trials()[0].intermediate_values == {1: 0.5, 2: 0.625}
    os.close(lock)
