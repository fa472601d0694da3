"""Benchmarks, one for each promise about speed: ours, peers and the limit of the machine in one run.

Contestants run in turn, several rounds, so that a noisy machine disturbs all of them alike.
"""

import statistics
import time
from collections.abc import Callable


def images_per_second(
    contestants: dict[str, Callable[[], int]], *, rounds: int = 5, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Median images/s of each contestant.

    Args:
        contestants: functions that process some images and return how many. Each is run once to warm up and then once
            in every round.
        clock: returns seconds; default wall clock.
    """
    for run in contestants.values():
        run()
    seen = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            start = clock()
            images = run()
            seen[name].append(images / (clock() - start))
    return {name: statistics.median(rates) for name, rates in seen.items()}


def print_ratios(rates: dict[str, float], *, ours: str) -> None:
    """One line per contestant: its rate, and how many times as fast ours is."""
    for name, rate in rates.items():
        ratio = "" if name == ours else f"   {ours} is {rates[ours] / rate:5.2f} x"
        print(f"  {name:44}{rate:>10,.0f} images/s{ratio}")
