"""How well a model refines: judged images of a trace, and what its reflections did with them."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from unireason_jax.evals.rates import Rate, wilson
from unireason_jax.evals.world.report import Section
from unireason_jax.inference.trace import Trace
from unireason_jax.world.edits import NO_CHANGE, Edit, apply_edit
from unireason_jax.world.language import parse_reflection
from unireason_jax.world.parser import parse, to_objects
from unireason_jax.world.repair import suggest
from unireason_jax.world.requirements import Requirement
from unireason_jax.world.scenes import CELL, Object
from unireason_jax.world.verifier import check_image

PRECISION = "precision: an edit that is asked for is right"
RECALL = "recall: on a wrong image a right edit is asked for"
FIX = "fix rate: right after a round, wrong before"
FIXED = "fixed in the end: the last image is right, the draft was not"


@dataclasses.dataclass(frozen=True)
class Turn:
    """One look of the model at an image.

    Attributes:
      passed: the image looked at is right.
      stopped: the hand-over after the reflection was "stop".
      after: whether the next image is right; None when none was drawn.
      needed: edits that would repair the image; 0 when it is right.
      readable: the reflection follows the grammar.
      seen: it says exactly the objects that the judge finds.
      asks: it is readable and asks for an edit.
      helpful: carrying the edit out would leave fewer to do.
    """

    passed: bool
    stopped: bool
    after: bool | None
    needed: int
    readable: bool
    seen: bool
    asks: bool
    helpful: bool

    @property
    def leaves_right(self) -> bool:
        """Whether the image that is shown after the look, a new one or the same, is right."""
        return self.passed if self.after is None else self.after


def turns(trace: Trace, requirement: Requirement) -> list[Turn]:
    """The looks of a judged trace, in order."""
    found, image, looks = [], None, []
    for step in trace.steps:
        if step.kind == "image":
            if looks:
                found.append(_turn(*looks.pop(), requirement, after=step.verdict))
            image = step
        elif step.role == "reflection" and image is not None:
            looks = [(image, step)]
    return found + [_turn(*look, requirement, after=None) for look in looks]


def judge(trace: Trace, requirement: Requirement, **details: Any) -> Trace:
    """The trace with the exact verdict on every image of a requested scene but the source."""
    verdicts = {
        number: check_image(requirement, step.image).passed
        for number, step in enumerate(trace.steps)
        if step.kind == "image" and step.role != "source"
    }
    return trace.judged(verdicts, **details)


def verdicts(trace: Trace) -> list[bool]:
    """Verdicts of the judged images in order."""
    return [step.verdict for step in trace.steps if step.verdict is not None]


def after_round(trace: Trace, number: int) -> bool:
    """Verdict on what the model would show after at most `number` rounds."""
    judged = verdicts(trace)
    return judged[min(number, len(judged) - 1)]


def section(name: str, title: str, traces: Sequence[Sequence[Turn]]) -> Section:
    """The table of fix rate, break rate, stop accuracy and reflections."""
    looks = [turn for trace in traces for turn in trace]
    looked = [trace for trace in traces if trace]
    moved = [turn for turn in looks if turn.after is not None]
    wrong = [turn for turn in looks if not turn.passed]
    right = [turn for turn in looks if turn.passed]
    rows = (
        (FIX, _rate(moved, lambda t: t.after, False)),
        (
            "break rate: wrong after a round, right before",
            _rate(moved, lambda t: not t.after, True),
        ),
        (FIXED, wilson(t[-1].leaves_right for t in looked if not t[0].passed)),
        (
            "broken in the end: the last image is wrong, the draft was not",
            wilson(not t[-1].leaves_right for t in looked if t[0].passed),
        ),
        ("stop accuracy: stops at right, goes on at wrong", _all(looks, _stop_is_right)),
        ("stops at a right image", _all(right, lambda t: t.stopped)),
        ("goes on at a wrong image", _all(wrong, lambda t: not t.stopped)),
        ("reflection follows the grammar", _all(looks, lambda t: t.readable)),
        ("it says exactly what is there", _all(looks, lambda t: t.seen)),
        (PRECISION, _all([t for t in looks if t.asks], lambda t: t.helpful)),
        (RECALL, _all(wrong, lambda t: t.helpful)),
    )
    note = (
        "Every look of the model at an image counts once (in the end: every trace); the verdict is "
        "the exact judge's. An edit is right when fewer edits are left after it, whatever layout "
        "it leads to."
    )
    return Section(name, title, ("rate",), tuple((n, (r,)) for n, r in rows), note)


def rounds_section(name: str, title: str, traces: Sequence[Sequence[Turn]], most: int) -> Section:
    """How many rounds were used against how many the draft needed."""
    rows = []
    for needed in range(most + 1):
        group = [t for t in traces if t and min(t[0].needed, most) == needed]
        used = [sum(turn.after is not None for turn in trace) for trace in group]
        rates = tuple(wilson(min(u, most) == rounds for u in used) for rounds in range(most + 1))
        label = f"{needed}" if needed < most else f"{most} or more"
        rows.append((f"draft needs {label}", rates))
    columns = tuple(f"uses {rounds}" for rounds in range(most + 1))
    note = "Share of traces by rounds used; needed are the fewest edits that repair the draft."
    return Section(name, title, columns, tuple(rows), note)


def faults_section(traces: Sequence[tuple[Sequence[str], Sequence[Turn]]]) -> Section:
    """What the first look at a draft led to, by the fault that was injected into it.

    Args:
      traces: kinds of the injected faults, and the looks of the judged trace.
    """
    groups: dict[str, list[Turn]] = {}
    for faults, looks in traces:
        if looks:
            group = "two faults" if len(faults) > 1 else faults[0] if faults else "no fault"
            groups.setdefault(group, []).append(looks[0])
    rows = tuple(
        (
            group,
            (
                _all(found, lambda t: not t.stopped),
                _all(found, lambda t: t.helpful),
                _all(found, lambda t: t.leaves_right),
            ),
        )
        for group, found in sorted(groups.items(), key=lambda item: -len(item[1]))
    )
    columns = ("goes on", "asks for a right edit", "right after a round")
    note = "The first look only; a draft with two faults needs two rounds."
    return Section("faults", "Given drafts by fault", columns, rows, note)


def helps(text: str, seen: tuple[Object, ...], requirement: Requirement, side: int) -> bool:
    """Whether carrying a reflection out on what is seen would leave fewer edits to do."""
    _, edit = _read(text, side)
    if edit in (None, NO_CHANGE):
        return False
    before = len(suggest(requirement, seen, side=side))
    try:
        return len(suggest(requirement, apply_edit(seen, edit), side=side)) < before
    except ValueError:
        return False


def _turn(image: Any, reflection: Any, requirement: Requirement, *, after: bool | None) -> Turn:
    """Judges one reflection on one image."""
    side = image.image.shape[0] // CELL
    seen = to_objects(parse(image.image).objects, side)
    needed = 0 if image.verdict else max(len(suggest(requirement, seen, side=side)), 1)
    said, edit = _read(reflection.text, side)
    return Turn(
        passed=image.verdict,
        stopped=reflection.handover == "stop",
        after=after,
        needed=needed,
        readable=edit is not None,
        seen=edit is not None and set(said) == set(seen),
        asks=edit not in (None, NO_CHANGE),
        helpful=helps(reflection.text, seen, requirement, side),
    )


def _read(text: str, side: int) -> tuple[tuple[Object, ...], Edit | None]:
    """What a reflection sees and asks for; no edit where it does not follow the grammar."""
    try:
        return parse_reflection(text, side)
    except ValueError:
        return (), None


def _stop_is_right(turn: Turn) -> bool:
    return turn.stopped == turn.passed


def _rate(turns: Iterable[Turn], outcome: Any, passed: bool) -> Rate:
    return _all([turn for turn in turns if turn.passed == passed], outcome)


def _all(turns: Sequence[Turn], outcome: Any) -> Rate:
    return wilson(outcome(turn) for turn in turns)


def mean_rounds(traces: Sequence[Trace]) -> float:
    """Refined images per trace."""
    return float(np.mean([trace.rounds for trace in traces])) if traces else 0.0
