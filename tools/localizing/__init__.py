"""The parts of tools/localize.py."""
