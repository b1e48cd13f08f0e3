"""Stages that need no model: pure functions of values, by name.

A program returns what its stage is known by, or raises Rejected with the reason.
"""

from collections.abc import Callable
from typing import Any, NamedTuple


class Rejected(ValueError):
    """An item that is dropped; the message is the reason that is counted."""


class Program(NamedTuple):
    """A function, and the kind of value it makes, as `synthesis.scope` has it."""

    call: Callable[..., Any]
    makes: Any


PROGRAMS: dict[str, Program] = {}
