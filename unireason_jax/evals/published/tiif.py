"""TIIF-Bench: lists of yes-no questions about pictures of short and of long descriptions.

Accuracy over the questions of a type and length, mean of the types of a group, mean of the groups;
short and long apart. The 39 types belong to nine groups; `group` in a row names another, and an
unknown type is a group of its own.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from unireason_jax.evals.published import base
from unireason_jax.evals.published.base import Item, Malformed, Question, Scored, Scores, Suite

LENGTHS = ("short", "long")
MODEL = "model"
RUBRICS = {
    "answers": (
        "Answer every question about the picture on a line of its own that starts with yes or "
        "no.\n{questions}"
    )
}


_LOOKS, _PLACES = ("color", "shape", "texture"), ("2d", "3d")
_THOUGHTS = ("numeracy", "negation", "differentiation", "comparison")
GROUPS = {
    "attribute": ("shape+color", "color+texture", "texture+color", "shape+texture"),
    "relation": (*(f"{place}_spatial_relation" for place in _PLACES), "action+2d", "action+3d"),
    "reasoning": _THOUGHTS,
    "attribute+relation": (
        "action+color",
        "action+texture",
        *(f"{look}+{place}" for look in _LOOKS for place in _PLACES),
    ),
    "attribute+reasoning": tuple(f"{t}+{look}" for t in _THOUGHTS for look in ("color", "texture")),
    "relation+reasoning": tuple(f"{t}+{place}" for t in _THOUGHTS for place in _PLACES),
    "text": ("text",),
    "style": ("style",),
    "real_world": ("real_world",),
}
"""The types of each of the benchmark's nine groups."""
GROUP = {kind: group for group, kinds in GROUPS.items() for kind in kinds}
_QUESTIONS = "_eval_prompts"


def load(path: Path) -> list[Item]:
    """Two items a row of {type, short_description, long_description, yn_question_list,
    yn_answer_list, group?}: the prompt file's rows joined with the evaluation file's.

    A folder is the benchmark's own: files `*_prompts.jsonl` in it or below, each with the questions
    of its lines in the `*_eval_prompts.jsonl` of its name.
    """
    items, lines = [], {}
    for number, row in enumerate(_joined(path) if path.is_dir() else base.read_rows(path)):
        kind = base.field(path, number, row, "type")
        line = lines[kind] = lines.get(kind, -1) + 1
        asked = base.field(path, number, row, "yn_question_list", list)
        right = base.field(path, number, row, "yn_answer_list", list)
        if len(asked) != len(right) or not asked:
            raise ValueError(
                f"{path}, item {number}: {len(asked)} questions, {len(right)} answers."
            )
        for length in LENGTHS:
            prompt = base.field(path, number, row, f"{length}_description")
            raw = {**row, "_length": length, "_line": line}
            items.append(Item(f"{kind}/{length}/{line}", prompt, (), raw))
    return base.checked(path, items)


def _joined(folder: Path) -> list[Mapping[str, Any]]:
    """Rows of all prompt files with the questions of their lines.

    Raises:
      ValueError: no prompt files, two of a name, or one whose questions are absent or of another
        number of lines.
    """
    asked = _by_name(file for file in folder.rglob(f"*{_QUESTIONS}.jsonl"))
    told = _by_name(
        file for file in folder.rglob("*_prompts.jsonl") if not file.stem.endswith(_QUESTIONS)
    )
    if not told:
        raise ValueError(f"{folder}: no *_prompts.jsonl in it or below.")
    rows: list[Mapping[str, Any]] = []
    for name, file in told.items():
        if name not in asked:
            raise ValueError(f"{file}: {name}{_QUESTIONS}.jsonl with its questions is missing.")
        prompts, questions = base.read_rows(file), base.read_rows(asked[name])
        if len(prompts) != len(questions):
            raise ValueError(
                f"{asked[name]}: {len(questions)} lines for {len(prompts)} prompts of {file.name}."
            )
        rows += [{**one, **two} for one, two in zip(questions, prompts)]
    return rows


def _by_name(files: Iterable[Path]) -> dict[str, Path]:
    """Files by the name of their type. Raises ValueError where two have one."""
    found: dict[str, Path] = {}
    for file in sorted(files):
        name = file.stem.removesuffix("_prompts").removesuffix("_eval")
        if name in found:
            raise ValueError(f"{found[name]} and {file}: give the folder of one set of prompts.")
        found[name] = file
    return found


def places(item: Item) -> tuple[str, ...]:
    """`{type}/model/{short|long}_description/{line}.png`."""
    raw = item.raw
    return (f"{raw['type']}/{MODEL}/{raw['_length']}_description/{raw['_line']}.png",)


def questions(item: Item, place: str, image: Path, rubrics: Mapping[str, str]) -> list[Question]:
    """All questions of an image in one call."""
    words = base.fill(rubrics["answers"], questions="\n".join(item.raw["yn_question_list"]))
    return [Question(f"{place}/answers", "answers", words, (image,), item)]


def read(question: Question, answer: str) -> Scores:
    """Lines that start with yes or no, by number; as many as there are questions."""
    lines = [line.strip(" *-.\t") for line in base.clean(answer).splitlines() if line.strip()]
    found = [re.match(r"(?:\d+[.)]\s*)?(yes|no)\b", line, re.IGNORECASE) for line in lines]
    if not found or not all(found):
        raise Malformed(f"a line does not start with yes or no: {answer[:120]!r}")
    if len(found) != len(question.item.raw["yn_question_list"]):
        raise Malformed(f"{len(found)} answers: {answer[:120]!r}")
    return {str(number): float(m[1].lower() == "yes") for number, m in enumerate(found)}


def measured(path: Path, items: Sequence[Item]) -> list[Scored]:
    """Pictures with the answers that the benchmark publishes of a model; others are missing.

    Args:
      path: a model's folder of one judge: `{type}/{short|long}/{line}.json` with gt_answers and
        model_pred, as in the benchmark's `eval-results` (`short_description` is read too).
      items: of the same prompts.

    Raises:
      FileNotFoundError, ValueError: no such folder, or a file that is not as told, or of other
        questions.
    """
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such folder of published answers.")
    scored = []
    for item in items:
        raw = item.raw
        names = (raw["_length"], f"{raw['_length']}_description")
        files = [path / str(raw["type"]) / name / f"{raw['_line']}.json" for name in names]
        if file := next((one for one in files if one.is_file()), None):
            scored.append(Scored(item, places(item)[0], {"answers": _published(file, raw)}))
    if not scored:
        raise ValueError(
            f"{path}: no answers of these prompts; give a model's folder, which holds "
            f"{items[0].raw['type']}/{items[0].raw['_length']}/0.json."
        )
    return scored


def _published(file: Path, raw: Mapping[str, Any]) -> Scores:
    """The answers of a file, by number of the question."""
    try:
        row = json.loads(file.read_text("utf-8"))
        right, given = ([_yes(word) for word in row[key]] for key in ("gt_answers", "model_pred"))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{file}: no object with yes or no in the lists gt_answers and model_pred ({error})."
        ) from None
    if right != [_yes(word) for word in raw["yn_answer_list"]]:
        raise ValueError(f"{file}: gt_answers are those of other questions than in --prompts.")
    if len(given) != len(right):
        raise ValueError(f"{file}: {len(given)} answers in model_pred, {len(right)} in gt_answers.")
    return {str(number): float(yes) for number, yes in enumerate(given)}


def _yes(word: Any) -> bool:
    """Whether a word is yes. Raises ValueError for anything but yes and no."""
    found = str(word).strip().lower()
    if found not in ("yes", "no"):
        raise ValueError(f"{word!r} is neither yes nor no")
    return found == "yes"


def aggregate(scored: Sequence[Scored]) -> Scores:
    """Overall by length, then groups and types by length."""
    found, details = {}, {}
    for length in LENGTHS:
        images = [image for image in scored if image.item.raw["_length"] == length]
        types = base.by_group(images, lambda item: item.raw["type"])
        groups: dict[str, list[float]] = {}
        for name, each in types.items():
            hits = [hit for image in each for hit in _hits(image)]
            details[f"{length}, {name}"] = 100 * base.mean(hits)
            group = str(each[0].item.raw.get("group", GROUP.get(name, name)))
            groups.setdefault(group, []).append(100 * base.mean(hits))
        if groups:
            found[f"overall, {length}"] = base.mean(map(base.mean, groups.values()))
            details |= {f"{length}, group {name}": base.mean(x) for name, x in groups.items()}
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
    measured=measured,
)
