"""The trials of a study, without processes that train."""

import json
from pathlib import Path

import optuna
import pytest

from searching import search as searching
from searching.search import Search, open_search

BASE = {"model": "feature_extractor", "extractors": [{"source": "keras", "name": "MobileNet"}]}  # has hidden_units
GRID = {"batch_size": [8, 16], "hidden_units": [[64], [64, 32]]}
COMBINATIONS = [{"batch_size": b, "hidden_units": h} for b in (8, 16) for h in ([64], [64, 32])]
RANGES = {
    "learning_rate": {"low": 1e-5, "high": 1e-2, "log": True},
    "batch_size": {"low": 8, "high": 64},
    "optimizer": ["adamw", "sgd"],
}


@pytest.fixture
def search_of(tmp_path, built_dataset):
    """search_of(search.json, ...): the search of a folder, as on the machine `machine`."""

    def open_one(space: dict = GRID, *, name: str = "search", trials: int | None = None, machine=None, **params):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        (folder / "params.json").write_text(json.dumps(BASE | params))
        (folder / "search.json").write_text(json.dumps(space))
        search = open_search(folder, built_dataset, trials)
        search.locks.machine = machine or search.locks.machine
        return search

    return open_one


def claim_all(search: Search) -> list[tuple[int, dict]]:
    """Claim all trials, finish each with the value number / 10, and release it; returns numbers and values."""
    claimed = []
    while found := search.claim():
        trial, values, lock = found
        claimed.append((trial.number, values))
        search.finish(trial, "COMPLETE", trial.number / 10)
        lock.release()
    return claimed


def test_a_grid_tries_every_combination_once(search_of):
    found = claim_all(search_of())
    assert [number for number, _ in found] == [0, 1, 2, 3]
    assert sorted((values for _, values in found), key=COMBINATIONS.index) == COMBINATIONS
    assert claim_all(search_of()) == []  # nothing is repeated
    assert [trial.value for trial in search_of().trials()] == [0, 0.1, 0.2, 0.3]


def test_processes_that_run_at_once_try_different_combinations(search_of):
    claimed = [search.claim() for search in [search_of() for _ in range(4)]]
    assert sorted((values for _, values, _ in claimed), key=COMBINATIONS.index) == COMBINATIONS
    assert search_of().claim() is None
    for _, _, lock in claimed:
        lock.release()


def test_processes_that_run_at_once_draw_different_values(search_of):
    claimed = [search.claim() for search in [search_of(RANGES) for _ in range(4)]]
    assert len({values["learning_rate"] for _, values, _ in claimed}) == 4
    for _, _, lock in claimed:
        lock.release()


@pytest.mark.parametrize(
    ("space", "trials", "limit"), [(GRID, None, 4), (GRID, 3, 3), (GRID, 9, 4), (RANGES, None, 20), (RANGES, 30, 30)]
)
def test_the_number_of_trials(search_of, space, trials, limit):
    assert search_of(space, trials=trials).limit == limit


def test_the_limit_counts_earlier_trials(search_of):
    assert len(claim_all(search_of(RANGES, trials=2))) == 2
    assert [number for number, _ in claim_all(search_of(RANGES, trials=5))] == [2, 3, 4]


def test_ranges_are_kept_and_seeded(search_of):
    found = claim_all(search_of(RANGES, trials=3))
    for _, values in found:
        assert 1e-5 <= values["learning_rate"] <= 1e-2
        assert values["batch_size"] in range(8, 65)
        assert values["optimizer"] in ("adamw", "sgd")
    assert claim_all(search_of(RANGES, trials=3, name="other", seed=231)) != found


def test_a_stopped_search_resumes_with_the_same_values(search_of):
    whole = claim_all(search_of(RANGES, trials=12, name="whole"))  # ten at random, then two by TPE
    first = claim_all(search_of(RANGES, trials=11, name="parts"))
    assert first + claim_all(search_of(RANGES, trials=12, name="parts")) == whole


def test_an_abandoned_trial_is_claimed_first(search_of):
    _, values, lock = search_of().claim()
    other = search_of()
    second, _, its_lock = other.claim()
    assert second.number == 1  # the first is still locked
    lock.release()  # as the system does when a process dies
    third, again, taken = other.claim()
    assert (third.number, again) == (0, values)
    fourth, _, last = other.claim()
    assert fourth.number == 2
    for held in (its_lock, taken, last):
        held.release()


@pytest.mark.parametrize("space", [GRID, RANGES])
def test_a_trial_that_was_killed_before_it_had_values_gets_the_same_values(search_of, space):
    expected = claim_all(search_of(space, trials=1, name="whole"))
    search = search_of(space)
    search.study._storage.create_new_trial(search.study._study_id)  # the first step of Study.ask
    trial, values, lock = search_of(space).claim()
    lock.release()
    assert [(trial.number, values)] == expected


def test_a_trial_of_a_dead_machine_is_claimed_by_another(search_of, monkeypatch):
    _, values, lock = search_of(machine="there").claim()
    here = search_of(machine="here")
    lock.release()
    assert [number for number, _ in claim_all(here)] == [1, 2, 3]
    assert [trial.number for trial in here.running()] == [0]  # still waiting for it
    monkeypatch.setattr("searching.locks.STALE", 0)
    assert claim_all(here) == [(0, values)]
    assert here.running() == []


def past_trials(search: Search, curves: list[list[float]]) -> None:
    for curve in curves:
        steps = dict(enumerate(curve, start=1))
        search.study.add_trial(optuna.create_trial(value=curve[-1], intermediate_values=steps))


def test_a_trial_below_the_median_is_pruned_from_the_second_epoch_on(search_of):
    search = search_of(RANGES)
    past_trials(search, [[0.5, value] for value in (0.6, 0.65, 0.7, 0.75, 0.8)])  # the median is 0.7
    (bad, _, first), (good, _, second) = search.claim(), search.claim()
    assert not search.report(bad, {1: 0.1})
    assert search.report(bad, {1: 0.1, 2: 0.69})
    assert not search.report(good, {1: 0.1, 2: 0.71})
    search.finish(bad, "PRUNED")
    pruned = search.trials()[bad.number]
    assert (pruned.state.name, pruned.value, pruned.intermediate_values) == ("PRUNED", 0.69, {1: 0.1, 2: 0.69})
    first.release()
    second.release()


def test_four_trials_are_too_few_to_prune_another(search_of):
    search = search_of(RANGES)
    past_trials(search, [[0.5, 0.9]] * 4)
    trial, _, lock = search.claim()
    assert not search.report(trial, {1: 0.1, 2: 0.1})
    lock.release()


def test_a_pruned_combination_of_a_grid_is_not_repeated(search_of):
    search = search_of({"batch_size": [1, 2, 3, 4, 5, 6, 7]})
    found = claim_all(search_of({"batch_size": [1, 2, 3, 4, 5, 6, 7]}, trials=6))
    trial, last, lock = search.claim()
    search.finish(trial, "PRUNED")
    lock.release()
    assert sorted(values["batch_size"] for values in [*(values for _, values in found), last]) == [1, 2, 3, 4, 5, 6, 7]
    assert search.claim() is None


def test_epochs_that_were_reported_before_a_kill_are_not_reported_again(search_of):
    search = search_of(RANGES)
    trial, _, lock = search.claim()
    search.report(trial, {1: 0.5})
    lock.release()
    again, _, lock = search_of(RANGES).claim()
    search.report(again, {1: 0.5, 2: 0.625})  # Optuna would warn, and warnings are errors here
    assert search.trials()[0].intermediate_values == {1: 0.5, 2: 0.625}
    lock.release()


def test_the_order_of_keys_does_not_change_a_search():
    first, other = {"batch_size": [8, 16], "dropout": [0, 0.5]}, {"dropout": [0, 0.5], "batch_size": [8, 16]}
    assert searching.digest(first) == searching.digest(other)
    assert searching.digest({"batch_size": [8, 16]}) != searching.digest({"batch_size": [16, 8]})


def test_the_search_of_experiments_has_four_trials(built_dataset, tmp_path):
    folder = Path(__file__).resolve().parents[2] / "experiments/learning_rate"
    for name in ("params.json", "search.json"):
        (tmp_path / name).write_text((folder / name).read_text())
    found = claim_all(open_search(tmp_path, built_dataset))
    assert sorted(values["learning_rate"] for _, values in found) == [1e-4, 5e-4, 2e-3, 1e-2]
