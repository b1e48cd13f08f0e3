"""Experiments as data: each file's docstring says how to run it and what to expect."""
