"""GEdit-Bench: general edits in English and Chinese, 0 to 10 for semantics and for quality.

Per image SC = min of its two scores, PQ likewise, O = sqrt(SC PQ); then the mean per task and the
plain mean of the tasks. O is not the root of the table's SC and PQ.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from unireason_jax.evals.published import base
from unireason_jax.evals.published.base import Fitted, Item, Question, Scored, Scores, Suite

RUBRICS = {
    "semantics": (
        "First picture: before, second: after the edit '{prompt}'. From 0 to 10, how successful is "
        'the edit, and how little more than asked for was changed? Answer {"score": [n, n]}'
    ),
    "quality": (
        "From 0 to 10, how natural is this picture, and how free of artefacts? "
        'Answer {"score": [n, n]}'
    ),
}


def load(path: Path) -> list[Item]:
    """Items {task_type, key, instruction, instruction_language, input_image, ...}."""
    items = []
    for number, row in enumerate(base.read_rows(path)):
        language = base.field(path, number, row, "instruction_language")
        if language not in ("en", "cn"):
            raise ValueError(f"{path}, item {number}: instruction_language is en or cn.")
        task, key = (base.field(path, number, row, name) for name in ("task_type", "key"))
        pictures = base.sources(path, number, row, "input_image")
        name = f"{task}/{language}/{key}"
        items.append(Item(name, base.field(path, number, row, "instruction"), pictures, row))
    return base.checked(path, items)


def places(item: Item) -> tuple[str, ...]:
    """`fullset/{task}/{language}/{key}.png`."""
    return (f"fullset/{item.id}.png",)


def questions(item: Item, place: str, image: Path, rubrics: Mapping[str, str]) -> list[Question]:
    """Semantics sees both pictures, quality only the result, which has the source's size."""
    result = Fitted(image, item.sources[0])
    pictures = {"semantics": (*item.sources, result), "quality": (result,)}
    return [
        Question(f"{place}/{step}", step, base.fill(rubrics[step], prompt=item.prompt), seen, item)
        for step, seen in pictures.items()
    ]


def copies(item: Item) -> dict[str, Path]:
    """The source beside the result, as `{key}_SRCIMG.png`."""
    return {f"fullset/{item.id}_SRCIMG.png": item.sources[0]}


def read(question: Question, answer: str) -> Scores:
    """`{"score": [a, b]}`; the smaller one counts."""
    return {question.step: base.smaller_score(answer, 10)}


def aggregate(scored: Sequence[Scored]) -> Scores:
    """SC, PQ and O by language: all items, and the subset on which all official models answered."""
    found = {}
    for language, images in base.by_group(scored, lambda i: i.raw["instruction_language"]).items():
        shared = [image for image in images if image.item.raw.get("Intersection_exist")]
        for subset, chosen in {"": images, ", intersection": shared}.items():
            tasks = base.by_group(chosen, _task)
            for name, measure in _MEASURES.items():
                if tasks:
                    value = base.mean(base.mean(map(measure, each)) for each in tasks.values())
                    found[f"{name}, {language}{subset}"] = value
        tasks = base.by_group(images, _task)
        found |= {
            f"O, {language}, {t}": base.mean(map(_overall, each)) for t, each in tasks.items()
        }
    return found


def _overall(image: Scored) -> float:
    scores = image.all()
    return math.sqrt(scores["semantics"] * scores["quality"])


_MEASURES = {
    "O": _overall,
    "SC": lambda image: image.all()["semantics"],
    "PQ": lambda image: image.all()["quality"],
}


def _task(item: Item) -> str:
    return str(item.raw["task_type"])


SUITE = Suite(
    "gedit",
    "gpt-4.1-2025-04-14",
    load,
    places,
    questions,
    read,
    _task,
    aggregate,
    RUBRICS,
    copies=copies,
    best=10,
)
