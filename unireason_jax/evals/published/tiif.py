"""TIIF-Bench: lists of yes-no questions about pictures of short and of long descriptions.

Accuracy over the questions of a type and length, mean of the types of a group, mean of the groups;
short and long apart. `group` in a row names its group; without it a type is its own group.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from unireason_jax.evals.published.base import (
    Item,
    Malformed,
    Question,
    Scored,
    Scores,
    Suite,
    by_group,
    checked,
    clean,
    field,
    fill,
    mean,
    read_rows,
)

LENGTHS = ("short", "long")
MODEL = "model"
RUBRICS = {
    "answers": (
        "Answer every question about the picture on a line of its own that starts with yes or "
        "no.\n{questions}"
    )
}


def load(path: Path) -> list[Item]:
    """Two items a row of {type, short_description, long_description, yn_question_list,
    yn_answer_list, group?}: the prompt file's rows joined with the evaluation file's.
    """
    items, lines = [], {}
    for number, row in enumerate(read_rows(path)):
        kind = field(path, number, row, "type")
        line = lines[kind] = lines.get(kind, -1) + 1
        asked = field(path, number, row, "yn_question_list", list)
        right = field(path, number, row, "yn_answer_list", list)
        if len(asked) != len(right) or not asked:
            raise ValueError(
                f"{path}, item {number}: {len(asked)} questions, {len(right)} answers."
            )
        for length in LENGTHS:
            prompt = field(path, number, row, f"{length}_description")
            raw = {**row, "_length": length, "_line": line}
            items.append(Item(f"{kind}/{length}/{line}", prompt, (), raw))
    return checked(path, items)


def places(item: Item) -> tuple[str, ...]:
    """`{type}/model/{short|long}_description/{line}.png`."""
    raw = item.raw
    return (f"{raw['type']}/{MODEL}/{raw['_length']}_description/{raw['_line']}.png",)


def questions(item: Item, place: str, image: Path, rubrics: Mapping[str, str]) -> list[Question]:
    """All questions of an image in one call."""
    words = fill(rubrics["answers"], questions="\n".join(item.raw["yn_question_list"]))
    return [Question(f"{place}/answers", "answers", words, (image,), item)]


def read(question: Question, answer: str) -> Scores:
    """Lines that start with yes or no, by number; as many as there are questions."""
    lines = [line.strip(" *-.\t") for line in clean(answer).splitlines() if line.strip()]
    found = [re.match(r"(?:\d+[.)]\s*)?(yes|no)\b", line, re.IGNORECASE) for line in lines]
    if not found or not all(found):
        raise Malformed(f"a line does not start with yes or no: {answer[:120]!r}")
    if len(found) != len(question.item.raw["yn_question_list"]):
        raise Malformed(f"{len(found)} answers: {answer[:120]!r}")
    return {str(number): float(m[1].lower() == "yes") for number, m in enumerate(found)}


def aggregate(scored: Sequence[Scored]) -> Scores:
    """Overall by length, then groups and types by length."""
    found, details = {}, {}
    for length in LENGTHS:
        images = [image for image in scored if image.item.raw["_length"] == length]
        types = by_group(images, lambda item: item.raw["type"])
        groups: dict[str, list[float]] = {}
        for name, each in types.items():
            hits = [hit for image in each for hit in _hits(image)]
            details[f"{length}, {name}"] = 100 * mean(hits)
            group = str(each[0].item.raw.get("group", name))
            groups.setdefault(group, []).append(100 * mean(hits))
        if groups:
            found[f"overall, {length}"] = mean(map(mean, groups.values()))
            details |= {f"{length}, group {name}": mean(x) for name, x in groups.items()}
    return found | details


def _hits(image: Scored) -> list[float]:
    """Whether every question was answered as it should be."""
    right, given = image.item.raw["yn_answer_list"], image.scores["answers"]
    return [float(given[str(n)] == (str(a).lower() == "yes")) for n, a in enumerate(right)]


SUITE = Suite(
    "tiif",
    "gpt-4o",
    load,
    places,
    questions,
    read,
    lambda item: f"{item.raw['type']}/{item.raw['_length']}",
    aggregate,
    RUBRICS,
)
