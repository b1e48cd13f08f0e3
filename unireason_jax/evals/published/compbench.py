"""T2I-CompBench++ (Huang et al. 2025): eight categories of composition, ten pictures a prompt.

With a judge: the benchmark's MLLM protocol. For colour, shape and texture every noun phrase is
rated 1 to 4 (10, 20, 75, 100 %), and a picture scores the product over its phrases; in the other
categories the whole picture is rated 1 to 5 (20 to 100 %). Official judges: GPT-4V and ShareGPT4V,
which first describe the picture; that turn and the official words are not here, ours are ours.

With `--detections FOLDER`: the per-picture answers of the official scripts, `{category}/.../
vqa_result.json` as they leave them: BLIP-VQA for colour, shape and texture, UniDet for 2D and 3D
space and numeracy, CLIPScore for non-spatial; complex is "3 in 1": the mean of attribute and
spatial answers for prompts of complex_val_spatial.txt, of attribute and action for those of
complex_val_action.txt, else of all three. Only these are the figures that papers print.

Noun phrases come from spaCy officially; here a row may name them (`phrases`), else the prompt is
cut at "and", "with", "on", "in" and commas: ours. There is no official single number; the mean of
the categories is ours.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from unireason_jax.evals.published import base
from unireason_jax.evals.published.base import Item, Question, Scored, Scores, Suite

IMAGES = 10
LONGEST = 200  # bytes of a prompt, which names its pictures
ATTRIBUTES = ("color", "shape", "texture")
CATEGORIES = (*ATTRIBUTES, "spatial", "3d_spatial", "numeracy", "non_spatial", "complex")
LEVELS = {True: (10, 20, 75, 100), False: (20, 40, 60, 80, 100)}
"""Per cent by rating, of a phrase's attribute and of a whole picture."""
ANSWERS = {
    **dict.fromkeys(ATTRIBUTES, "annotation_blip"),
    "spatial": "annotation_obj_detection_2d",
    "3d_spatial": "annotation_obj_detection_3d",
    "numeracy": "annotation_num",
    "non_spatial": "annotation_clip",
}
"""Folder of the official scripts' answers by category."""
THREE = ("annotation_blip", "annotation_obj_detection_2d", "annotation_clip")
_WHOLE = (
    "Prompt: {prompt}\nHow well does the picture show {what} of the prompt, from 1 (it has nothing "
    'to do with it) to 5 (all of it)? Answer {"score": n, "explanation": "..."}'
)
RUBRICS = {
    "attribute": (
        "Is there {phrase} in the picture, with this {category}? 4: it is there and has it; 3: it "
        "is there and has most of it; 2: it is there and does not have it; 1: it is not there. "
        'Answer {"score": n, "explanation": "..."}'
    ),
    "spatial": _WHOLE.replace("{what}", "the places of the objects"),
    "3d_spatial": _WHOLE.replace("{what}", "what is in front of and behind what"),
    "numeracy": _WHOLE.replace("{what}", "the objects and their numbers"),
    "non_spatial": _WHOLE.replace("{what}", "the actions and relations"),
    "complex": _WHOLE.replace("{what}", "the objects, attributes, places and actions"),
}
_CUTS = re.compile(r"\s*(?:,|\b(?:and|with|on|in)\b)\s*", re.IGNORECASE)


def load(path: Path) -> list[Item]:
    """Items of a folder of `{category}_val.txt` (a prompt a line), of one such file, or of rows
    {category, prompt, phrases?, parts?}.
    """
    rows = base.read_rows(path) if path.suffix in (".json", ".jsonl") else list(_lines(path))
    items, counts = [], dict.fromkeys(CATEGORIES, 0)
    for number, row in enumerate(rows):
        category = base.field(path, number, row, "category")
        if category not in CATEGORIES:
            names = ", ".join(CATEGORIES)
            raise ValueError(f"{path}, item {number}: category '{category}' is none of {names}.")
        prompt = base.field(path, number, row, "prompt").strip()
        if len(prompt.encode()) > LONGEST:
            raise ValueError(f"{path}, item {number}: the prompt is too long for a file's name.")
        line, counts[category] = counts[category], counts[category] + 1
        items.append(Item(f"{category}/{line}", prompt, (), {**row, "_line": line}))
    return base.checked(path, items)


def _lines(path: Path) -> Iterable[dict[str, Any]]:
    """Rows of text files; a folder has one a category, and the parts of `complex`."""
    found = (
        {c: path / f"{c}_val.txt" for c in CATEGORIES} if path.is_dir() else {_named(path): path}
    )
    found = {category: file for category, file in found.items() if file.is_file()}
    if not found:
        wanted = "give a folder with color_val.txt and its like, or one such file"
        raise FileNotFoundError(f"{path}: no prompt file of T2I-CompBench; {wanted}.")
    parts = {}
    for part in ("spatial", "action"):
        beside = found.get("complex", path).parent / f"complex_val_{part}.txt"
        if beside.is_file():
            parts |= dict.fromkeys(map(_plain, beside.read_text("utf-8").splitlines()), part)
    for category, file in found.items():
        for prompt in filter(None, map(str.strip, file.read_text("utf-8-sig").splitlines())):
            row = {"category": category, "prompt": prompt}
            yield row | (
                {"parts": parts.get(_plain(prompt), "all")} if category == "complex" else {}
            )


def _named(path: Path) -> str:
    return path.stem.removesuffix("_val") if path.suffix == ".txt" else ""


def _plain(prompt: str) -> str:
    """A prompt as the official script compares it."""
    return prompt.strip("\n").split(".")[0].lower()


def places(item: Item) -> tuple[str, ...]:
    """`{category}/samples/{prompt}_{number}.png`, ten of them; numbers run through a category."""
    name = item.prompt.replace("/", " ")
    first = IMAGES * item.raw["_line"]
    folder = f"{item.raw['category']}/samples"
    return tuple(f"{folder}/{name}_{first + k:06d}.png" for k in range(IMAGES))


def phrases(item: Item) -> list[str]:
    """The noun phrases whose attributes are asked for."""
    given = item.raw.get("phrases")
    return (
        list(given) if given else [part for part in _CUTS.split(item.prompt.rstrip(". ")) if part]
    )


def questions(item: Item, place: str, image: Path, rubrics: Mapping[str, str]) -> list[Question]:
    """One question a noun phrase, or one a picture."""
    category = item.raw["category"]
    if category not in ATTRIBUTES:
        asked = {"whole": base.fill(rubrics[category], prompt=item.prompt)}
    else:
        asked = {
            f"phrase {n}": base.fill(rubrics["attribute"], phrase=phrase, category=category)
            for n, phrase in enumerate(phrases(item))
        }
    return [Question(f"{place}/{step}", step, w, (image,), item) for step, w in asked.items()]


def read(question: Question, answer: str) -> Scores:
    """`{"score": n}` as a share of 1."""
    levels = LEVELS[question.step != "whole"]
    rating = base.in_range(base.json_object(base.clean(answer)).get("score"), 1, len(levels))
    if rating != int(rating):
        raise base.Malformed(f"{rating:g} is not a whole number")
    return {question.step: levels[int(rating) - 1] / 100}


def measured(path: Path, items: Sequence[Item]) -> list[Scored]:
    """Pictures with the official scripts' answers; those without an answer are missing.

    Raises:
      FileNotFoundError, ValueError: no such folder, or a file that is no list of {question_id,
        answer}.
    """
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such folder of the official scripts' answers.")
    found, scored = {}, []
    for item in items:
        category = item.raw["category"]
        names = [ANSWERS[category]] if category != "complex" else _of_complex(item)
        for number, place in enumerate(places(item)):
            answers = []
            for name in names:
                if (category, name) not in found:
                    found[category, name] = _answers(path / category, name)
                answers.append(found[category, name].get(IMAGES * item.raw["_line"] + number))
            if None not in answers:
                scored.append(Scored(item, place, {"whole": {"whole": base.mean(answers)}}))
    return scored


def _of_complex(item: Item) -> list[str]:
    """Which answers make up the score of a prompt of `complex`."""
    attribute, spatial, action = THREE
    parts = {"spatial": [attribute, spatial], "action": [attribute, action]}
    return parts.get(str(item.raw.get("parts")), list(THREE))


def _answers(folder: Path, name: str) -> dict[int, float]:
    """Answers by number; empty where the script has not run."""
    files = sorted(folder.rglob(f"{name}/vqa_result.json"))
    if not files:
        return {}
    try:
        rows = json.loads(files[0].read_text("utf-8"))
        return {int(row["question_id"]): float(row["answer"]) for row in rows}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{files[0]}: no list of {{question_id, answer}} ({error}).") from None


def aggregate(scored: Sequence[Scored]) -> Scores:
    """Mean of the categories (ours), then the categories; 0 to 1."""
    groups = base.by_group(scored, _category)
    found = {name: base.mean(map(score, groups[name])) for name in CATEGORIES if name in groups}
    return {"mean of categories (ours)": base.mean(found.values())} | found


def score(image: Scored) -> float:
    """The product over what was asked."""
    total = 1.0
    for value in image.all().values():
        total *= value
    return total


def _category(item: Item) -> str:
    return str(item.raw["category"])


SUITE = Suite(
    "compbench",
    "BLIP-VQA, UniDet, CLIPScore, 3 in 1; or GPT-4V",
    load,
    places,
    questions,
    read,
    _category,
    aggregate,
    RUBRICS,
    measured=measured,
    about="a judge's ratings are the MLLM protocol; papers print the official scripts' answers",
    best=1,
)
