"""Number of repetitions of fault tests: few in `make test`, many in `make faults` (FAULTS=full)."""

import os

FULL = os.environ.get("FAULTS") == "full"


def rounds(short: int, full: int) -> int:
    """The number of repetitions of this run."""
    return full if FULL else short
