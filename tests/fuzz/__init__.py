"""Hostile inputs by the thousand, made from seeds: see `tests.fuzz.__main__`."""
