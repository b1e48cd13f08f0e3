"""Stages that need no model: pure functions of values, by name.

A program returns what its stage is known by, or raises Rejected with the reason.
"""

import inspect
import itertools
import re
import typing
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from unireason_jax.data.templates.official_umm import controller_turn
from unireason_jax.synthesis import graphs
from unireason_jax.synthesis.neighbours import normal

MOST_STATES, FEWEST_STATES = 5, 2
_TWISTS = (
    "Only add: no step changes what is there already.",
    "Only add: no step changes what is there already.",
    "Only add: no step changes what is there already.",
    "Let one early step draw an object with a wrong attribute, and a later step change it.",
    "Let one early step draw two objects in each other's place, and a later step swap them.",
    "Let one early step draw an object that does not belong, and a later step remove it.",
)


class Rejected(ValueError):
    """An item that is dropped; the message is the reason that is counted."""


class Program(NamedTuple):
    """A function, and the kind of value it makes, as `synthesis.scope` has it."""

    call: Callable[..., Any]
    makes: Any

    def check(self, names: Sequence[str], kinds: Sequence[Any]) -> None:
        """Raises ValueError where values of these names and kinds are not what it takes."""
        takes = inspect.signature(self.call).parameters
        if len(names) != len(takes):
            wanted = ", ".join(takes) or "nothing"
            raise ValueError(f"{len(names)} are given, the program takes {len(takes)} ({wanted})")
        for name, kind, (role, parameter) in zip(names, kinds, takes.items()):
            if not _fits(kind, parameter.annotation):
                raise ValueError(f"'{name}' cannot be the program's '{role}'")


def _fits(kind: Any, annotation: Any) -> bool:
    """Whether a value of a kind (`synthesis.scope`) can be given where a function says this."""
    base = typing.get_origin(annotation) or annotation
    if kind == "any" or base is list:
        return kind == "any" or isinstance(kind, list)
    if base is Mapping:
        return isinstance(kind, Mapping)
    is_number = isinstance(kind, str) and (kind == "number" or ".." in kind)
    return is_number if base is int else isinstance(kind, str) and not is_number


def by_lot(name: str, share: float) -> bool:
    """Whether an item is among a share of all, by its id."""
    return zlib.crc32(f"lot {name}".encode()) / 2**32 < share


def no_leak(instruction: str, answer: str) -> bool:
    """True. Raises Rejected where the answer stands in the instruction as words of their own."""
    words = normal(answer)
    if words and re.search(rf"\b{re.escape(words)}\b", normal(instruction)):
        raise Rejected("the instruction tells the answer")
    return True


def twist(name: str) -> str:
    """Whether and how the steps of an item are not all additive: half of them are."""
    return _TWISTS[zlib.crc32(f"twist {name}".encode()) % len(_TWISTS)]


def form(name: str) -> str:
    """Which of two kinds of instruction is written, by lot (Uni-Edit: half and half)."""
    if by_lot(name, 0.5):
        return "If the answer is such and such, then change something in the scene; else leave it."
    return "Make something new that shares what the answer is."


def side(name: str) -> str:
    """Right for every third item, wrong for the others."""
    return "right" if by_lot(name, 1 / 3) else "wrong"


def grow(graph: Mapping[str, Any]) -> list[dict[str, str]]:
    """Growing subgraphs in words: for every state what is new, and all there is."""
    try:
        states = graphs.growing(graphs.checked(graph), MOST_STATES)
    except ValueError as error:
        raise Rejected(str(error)) from None
    if len(states) < FEWEST_STATES:
        raise Rejected(f"fewer than {FEWEST_STATES} states")
    return states


def improvement(shortcomings: str, improvements: str, guidance: str, prompt: str) -> str:
    """The second thought of IRG: what falls short, then three parts with headings."""
    return (
        f"{shortcomings}\n\n### Detailed Explanation of Required Improvements\n{improvements}\n\n"
        f"### Step-by-Step Modification Guidance\n{guidance}\n\n"
        f"### Final Comprehensive Prompt for the Improved Image\n{prompt}"
    )


def few_steps(steps: list[Any]) -> bool:
    """True. Raises Rejected for too few or too many states."""
    if not FEWEST_STATES <= len(steps) <= MOST_STATES:
        raise Rejected(f"{len(steps)} states, not {FEWEST_STATES} to {MOST_STATES}")
    return True


def same(first: str, second: str) -> bool:
    """True. Raises Rejected where two verdicts differ."""
    if first != second:
        raise Rejected("the two verdicts differ")
    return True


def nothing() -> str:
    """An empty text, for a field of a record that has to be there."""
    return ""


def last_picture(steps: list[dict[str, Any]]) -> str:
    """The picture of the last step."""
    return steps[-1]["image"]


def inspected(
    steps: list[dict[str, Any]], found: Mapping[str, Any], repaired: str | None
) -> list[dict[str, Any]]:
    """Steps of which the last one has its inspection, and in a conflict remedy and repair."""
    verdict = {"inspect": found["analysis"]}
    if found["verdict"] == "conflict":
        if not found["correction"].strip():
            raise Rejected("a conflict without a correction")
        verdict |= {"refine": found["correction"], "refined": repaired}
    return [*steps[:-1], {**steps[-1], **verdict}]


def rising(rounds: list[Mapping[str, Any]], last: int) -> bool:
    """True. Raises Rejected where a controller scored a picture no higher than the one before."""
    scores = [each["decide"]["score"] for each in rounds] + [last]
    if any(after <= before for before, after in itertools.pairwise(scores)):
        raise Rejected("an edit that was not scored higher")
    return True


PROGRAMS: dict[str, Program] = {
    "no_leak": Program(no_leak, "yesno"),
    "twist": Program(twist, "text"),
    "form": Program(form, "text"),
    "side": Program(side, "text"),
    "grow": Program(grow, [{"new": "text", "scene": "text"}]),
    "few_steps": Program(few_steps, "yesno"),
    "improvement": Program(improvement, "text"),
    "same": Program(same, "yesno"),
    "nothing": Program(nothing, "text"),
    "last_picture": Program(last_picture, "picture"),
    "inspected": Program(inspected, "any"),
    "controller": Program(controller_turn, "text"),
    "rising": Program(rising, "yesno"),
}
