"""DPG-Bench: dense prompts, yes-no questions with dependencies on four pictures in one file.

Per picture the mean of its answers, a "no" taking along the questions that depend on it (also in a
chain, in the order of the file); then the mean of the pictures and of the prompts, times 100.
Categories count the plain answers on the last picture only. The official loader passes over the
first question of the file; both overall numbers are given.
"""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from unireason_jax.evals.published import base
from unireason_jax.evals.published.base import Crop, Item, Question, Scored, Scores, Suite

GRID = 2
CROPS = GRID * GRID
FIELDS = ("item_id", "text", "proposition_id", "dependency", "category_broad")
FIELDS += ("question_natural_language",)
RUBRICS = {"answer": "Answer yes or no. {question}"}


def load(path: Path) -> list[Item]:
    """Items of dpg_bench.csv, the rows of a prompt together."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such prompt file.")
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    prompts: dict[str, list[dict]] = {}
    for number, row in enumerate(rows):
        for name in FIELDS:
            if not (row.get(name) or "").strip():
                raise ValueError(f"{path}, row {number}: column '{name}' is empty or missing.")
        try:
            parents = [int(part) for part in row["dependency"].split(",")]
            own = int(row["proposition_id"])
        except ValueError as error:
            raise ValueError(
                f"{path}, row {number}: columns 'dependency' and 'proposition_id' hold whole "
                f"numbers ({error})."
            ) from None
        question = {
            "id": own,
            "parents": [parent for parent in parents if parent],
            "words": row["question_natural_language"],
            "category": row["category_broad"],
            "skipped": number == 0,
            "prompt": row["text"],
            "world": row.get("world"),
        }
        prompts.setdefault(row["item_id"], []).append(question)
    if not prompts:
        raise ValueError(f"{path}: no rows; give the benchmark's csv.")
    return base.checked(path, (_item(name, asked) for name, asked in prompts.items()))


def _item(name: str, asked: list[dict]) -> Item:
    """An item with its questions; a world's file has the truth in a column of its own."""
    raw = {"questions": asked}
    if asked[0]["world"]:
        raw["world"] = {"wants": [json.loads(question["world"]) for question in asked]}
    return Item(name, asked[0]["prompt"], (), raw)


def questions(item: Item, place: str, image: Path, rubrics: Mapping[str, str]) -> list[Question]:
    """Every question on every picture."""
    return [
        Question(
            f"{place}/{crop}/{question['id']}",
            f"{crop}/{question['id']}",
            base.fill(rubrics["answer"], question=question["words"]),
            (Crop(image, GRID, crop),),
            item,
        )
        for crop in range(CROPS)
        for question in item.raw["questions"]
    ]


def read(question: Question, answer: str) -> Scores:
    """The first word, yes or no."""
    words = base.clean(answer).lower().strip(" .!\"'").split()
    if not words or words[0].strip(".,!") not in ("yes", "no"):
        raise base.Malformed(f"neither yes nor no: {answer[:120]!r}")
    return {question.step: float(words[0].startswith("yes"))}


def score(item: Item, answers: Mapping[str, float], crop: int, *, skip_first: bool) -> float:
    """Mean of one picture's answers after dependencies."""
    kept: dict[int, float] = {}
    for question in item.raw["questions"]:
        if skip_first and question["skipped"]:
            continue
        parents = [kept.get(parent, 1.0) for parent in question["parents"]]
        kept[question["id"]] = answers[f"{crop}/{question['id']}"] * min(parents, default=1.0)
    return base.mean(kept.values())


def aggregate(scored: Sequence[Scored]) -> Scores:
    """Overall with the official omission and without, then the broad categories."""
    found = {}
    for name, skip in (("overall, official", True), ("overall, all questions", False)):
        each = [
            base.mean(
                score(image.item, image.all(), crop, skip_first=skip) for crop in range(CROPS)
            )
            for image in scored
        ]
        found[name] = 100 * base.mean(x for x in each if x == x)
    categories: dict[str, list[float]] = {}
    for image in scored:
        for question in image.item.raw["questions"]:
            answer = image.all()[f"{CROPS - 1}/{question['id']}"]
            categories.setdefault(question["category"], []).append(100 * answer)
    return found | {name: base.mean(values) for name, values in categories.items()}


SUITE = Suite(
    "dpg",
    "mPLUG-large",
    load,
    base.one_png,
    questions,
    read,
    lambda item: "",
    aggregate,
    RUBRICS,
    grid=GRID,
)
