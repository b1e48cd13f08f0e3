"""T2I-CoReBench: checklists of yes-no questions about four pictures of a prompt, in 12 dimensions.

Per image the share of its questions answered with yes, per dimension the mean of its images; the
headline is the mean of the dimensions. Of a dimension's name (C-MI, R-LR) the first letter tells
composition from reasoning.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from unireason_jax.evals.published import base
from unireason_jax.evals.published.base import Item, Malformed, Question, Scored, Scores, Suite

IMAGES = 4
HALVES = {"C": "composition", "R": "reasoning"}
RUBRICS = {
    "question": (
        "The picture was made for the prompt: {prompt}\n{question}\n"
        "Answer with one word, yes or no."
    )
}


def load(path: Path) -> list[Item]:
    """Items of {id: {Prompt, Checklist: [{question}]}}, or rows that have `ID`; a file or all of a
    folder.
    """
    items = []
    for number, row in enumerate(base.read_all(path)):
        name = base.field(path, number, {"ID": row.get("ID", row.get("key"))}, "ID")
        if not re.fullmatch(r"[CR]-[A-Z]+-.+", name):
            raise ValueError(f"{path}, item {number}: the id '{name}' is not like C-MI-001.")
        asked = base.field(path, number, row, "Checklist", list)
        if not asked or not all(isinstance(q, dict) and q.get("question") for q in asked):
            raise ValueError(
                f"{path}, item {number}: field 'Checklist' is no list of {{question}}."
            )
        items.append(Item(name, base.field(path, number, row, "Prompt"), (), row))
    return base.checked(path, items)


def dimension(item: Item) -> str:
    """C-MI of C-MI-001."""
    return "-".join(item.id.split("-")[:2])


def places(item: Item) -> tuple[str, ...]:
    """`{dimension}/{id}-{k}.png`, four of them."""
    return tuple(f"{dimension(item)}/{item.id}-{k}.png" for k in range(IMAGES))


def questions(item: Item, place: str, image: Path, rubrics: Mapping[str, str]) -> list[Question]:
    """One call a question of the checklist."""
    found = []
    for number, row in enumerate(item.raw["Checklist"]):
        step = f"question {number}"
        words = base.fill(rubrics["question"], prompt=item.prompt, question=row["question"])
        found.append(Question(f"{place}/{step}", step, words, (image,), item))
    return found


def read(question: Question, answer: str) -> Scores:
    """The first word that is yes or no."""
    found = re.search(r"\b(yes|no)\b", base.clean(answer), re.IGNORECASE)
    if not found:
        raise Malformed(f"neither yes nor no: {answer[:120]!r}")
    return {question.step: float(found[1].lower() == "yes")}


def aggregate(scored: Sequence[Scored]) -> Scores:
    """Mean of the dimensions, of both halves, then the dimensions; 0 to 100."""
    found = {
        name: 100 * base.mean(base.mean(image.all().values()) for image in images)
        for name, images in base.by_group(scored, dimension).items()
    }
    halves = {
        name: base.mean(value for kind, value in found.items() if kind.startswith(letter))
        for letter, name in HALVES.items()
        if any(kind.startswith(letter) for kind in found)
    }
    return {"overall, mean of dimensions": base.mean(found.values())} | halves | found


SUITE = Suite(
    "corebench",
    "gemini-2.5-flash",
    load,
    places,
    questions,
    read,
    dimension,
    aggregate,
    RUBRICS,
)
