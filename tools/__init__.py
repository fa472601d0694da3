"""Leaves: nothing imports them. Run one with `python -m tools.NAME`."""
