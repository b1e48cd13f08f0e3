"""ImgEdit-Bench, single turn: three scores of 1 to 5; their mean is rounded to two decimals.

The leaderboard takes the mean of the edit types, BAGEL's script the mean of the items.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from unireason_jax.evals.published import base
from unireason_jax.evals.published.base import Item, Malformed, Question, Scored, Scores, Suite

NAMES = ("Prompt Compliance", "Visual Naturalness", "Physical & Detail Integrity")
RUBRICS = {
    "rating": (
        "First picture: before, second: after the edit '{prompt}'. From 1 to 5 each, with the "
        "second and third no higher than the first, answer with three lines:\n"
        "Prompt Compliance: n\nVisual Naturalness: n\nPhysical & Detail Integrity: n"
    ),
}
_LINE = re.compile(r"[^:\n]+:\s*(\d)(?:\s*/\s*5)?\s*$", re.MULTILINE)


def load(path: Path) -> list[Item]:
    """Items of {key: {id (the picture), prompt, edit_type}}; pictures relative to the file."""
    items = []
    for number, row in enumerate(base.read_rows(path)):
        key = base.field(path, number, row, "key", (str, int))
        base.field(path, number, row, "edit_type")
        pictures = base.sources(path, number, row, "id")
        items.append(Item(str(key), base.field(path, number, row, "prompt"), pictures, row))
    return base.checked(path, items)


def questions(item: Item, place: str, image: Path, rubrics: Mapping[str, str]) -> list[Question]:
    """One question. A rubric named as the edit type goes before the common one."""
    rubric = rubrics.get(kind(item), rubrics["rating"]).replace("<edit_prompt>", "{prompt}")
    words = base.fill(rubric, prompt=item.prompt)
    return [Question(f"{place}/rating", "rating", words, (*item.sources, image), item)]


def read(question: Question, answer: str) -> Scores:
    """The last three lines that end in `: n`."""
    found = _LINE.findall(base.clean(answer))
    if len(found) < 3:
        raise Malformed(f"not three lines 'name: n' in {answer[:120]!r}")
    return {name: base.in_range(value, 1, 5) for name, value in zip(NAMES, found[-3:])}


def aggregate(scored: Sequence[Scored]) -> Scores:
    """Both overall numbers, then the edit types."""
    types = {name: base.mean(map(_rating, x)) for name, x in base.by_group(scored, kind).items()}
    return {
        "overall, mean of types": base.mean(types.values()),
        "overall, mean of items": base.mean(map(_rating, scored)),
    } | types


def _rating(image: Scored) -> float:
    return round(base.mean(image.all().values()), 2)


def kind(item: Item) -> str:
    """The edit type."""
    return str(item.raw["edit_type"])


SUITE = Suite(
    "imgedit",
    "gpt-4o-2024-11-20",
    load,
    base.one_png,
    questions,
    read,
    kind,
    aggregate,
    RUBRICS,
    best=5,
)
