"""Numbers that callers give, each checked on its own."""

import contextlib
import math
import numbers
from typing import Any


def number(
    name: str,
    value: Any,
    *,
    least: float = -math.inf,
    above: float = -math.inf,
    most: float = math.inf,
) -> float:
    """A finite number as a plain float. Raises ValueError unless it is one within its range."""
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError):  # of an int that no float holds
            found = float(value)
            if math.isfinite(found) and found >= least and above < found <= most:
                return found
    low = f"> {above:g}" if above > -math.inf else f">= {least:g}"
    high = f" and <= {most:g}" if most < math.inf else ""
    raise ValueError(f"{name} must be a number {low}{high}, not {shown(value)}.")


def whole(name: str, value: Any, *, least: int, most: int = (1 << 31) - 1) -> int:
    """A whole number as a plain int. Raises ValueError unless it is one within its range."""
    is_whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if is_whole and least <= value <= most:
        return int(value)
    wanted = "a whole number"
    if is_whole:
        wanted = f">= {least}" if value < least else f"<= {most}"
    raise ValueError(f"{name} must be {wanted}, not {shown(value)}.")


def shown(value: Any) -> str:
    """A value for an error, on one short line."""
    try:
        shown = " ".join(repr(value).split())
    except ValueError:  # an int of thousands of digits
        shown = "a number of thousands of digits"
    return shown if len(shown) <= 60 else f"{shown[:60]}..."
