"""OneIG-Bench (Chang et al. 2025), English or Chinese: alignment and text; four pictures in a file.

Alignment (portraits, objects, anime): yes-no questions; an answer counts 0 where a question that it
depends on was answered no (by its own answer, not in a chain); mean of the questions, of the four
pictures, of the prompts. Text: the judge reads what is written; with ED the mean edit distance, CR
the share read without a fault and WAC the share of words found, 1 - min(M, ED) (1 - CR) (1 - WAC) /
M, M = 100 in English, 50 in Chinese, all three over all pictures together.

Not measured: reasoning (LLM2CLIP), style (CSD and a style encoder) and diversity (DreamSim) need
embedding models; their pictures are drawn in the official layout for the official scripts. There is
no official single number. Official judge: Qwen2.5-VL-7B-Instruct; its words for reading text are
not shipped, ours are ours. The official scripts take one file an id: move the plans (`{id}.txt`)
away before they run.
"""

import collections
import csv
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unireason_jax.evals.published import base
from unireason_jax.evals.published.base import Crop, Item, Question, Scored, Scores, Suite

GRID = 2
CROPS = GRID * GRID
MODEL = "model"
FOLDERS = {
    "anime": "anime",
    "portrait": "human",
    "general": "object",
    "text": "text",
    "knowledge": "reasoning",
    "multilingualism": "multilingualism",
}
"""Folder of a category, by the first word of its name."""
ALIGNED = ("anime", "human", "object", "multilingualism")
RUBRICS = {
    "alignment": "{question} Answer with one word, Yes or No.",
    "text": (
        "Write down the text that is in the picture, each text once, and nothing else. "
        "Where there is none, answer: No text recognized"
    ),
}
_NOTHING = re.compile(r"no text recognized\.?|addCriterion", re.IGNORECASE)
_CHINESE = re.compile(r"[一-鿿]")


def load(path: Path) -> list[Item]:
    """Items of a folder of the benchmark, or of rows that have all of an item.

    A folder: OneIG-Bench.csv (or -ZH) {category, id, prompt_en or prompt_cn}, text_content.csv {id,
    text_content} and Q_D/{folder}.json {id: {question, dependency}}, anywhere below; as rows:
    {category, id, prompt, question?, dependency?, text_content?}.
    """
    items = []
    for number, row in enumerate(_joined(path) if path.is_dir() else base.read_rows(path)):
        category = base.field(path, number, row, "category")
        word = re.split(r"[^a-z]+", category.lower())[0]
        if word not in FOLDERS:
            names = ", ".join(FOLDERS)
            raise ValueError(f"{path}, item {number}: category '{category}' is none of {names}.")
        name, folder = str(base.field(path, number, row, "id", (str, int))), FOLDERS[word]
        prompt = next((row[k] for k in ("prompt", "prompt_en", "prompt_cn") if row.get(k)), None)
        prompt = base.field(path, number, {"prompt": prompt}, "prompt")
        raw: dict[str, Any] = {**row, "_folder": folder}
        if folder in ALIGNED:
            raw["_questions"] = _questions(path, number, row)
        if folder == "text":
            base.field(path, number, row, "text_content")
        items.append(Item(f"{folder}/{name}", prompt, (), raw))
    return base.checked(path, items)


def _joined(folder: Path) -> list[dict[str, Any]]:
    """Rows of a benchmark's folder. Raises ValueError where a file of it is missing."""
    tables = [f for f in sorted(folder.rglob("OneIG-Bench*.csv"))]
    if len(tables) != 1:
        raise ValueError(f"{folder}: {len(tables)} files OneIG-Bench*.csv; give the folder of one.")
    chinese = "ZH" in tables[0].stem
    rows: list[dict[str, Any]] = [dict(row) for row in _table(tables[0])]
    suffix, found = "_zh" if chinese else "", {}
    texts = {}
    for file in folder.rglob(f"text_content{suffix}.csv"):
        texts = {row["id"]: row["text_content"] for row in _table(file)}
    for row in rows:
        name = FOLDERS.get(re.split(r"[^a-z]+", str(row.get("category", "")).lower())[0], "")
        if name == "text":
            row["text_content"] = texts.get(row.get("id"))
        if name in ALIGNED:
            if name not in found:
                files = sorted(folder.rglob(f"Q_D/{name}{suffix}.json"))
                if not files:
                    raise ValueError(
                        f"{folder}: Q_D/{name}{suffix}.json with its questions is missing."
                    )
                found[name] = {str(r["key"]): r for r in base.read_rows(files[0])}
            row |= {k: v for k, v in found[name].get(str(row.get("id")), {}).items() if k != "key"}
    return rows


def _table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def _questions(path: Path, number: int, row: Mapping[str, Any]) -> dict[str, tuple[str, list[str]]]:
    """Questions by number, each with the numbers that it depends on."""
    found = {}
    for name in ("question", "dependency"):
        value = row.get(name)
        try:
            value = json.loads(value) if isinstance(value, str) else value
        except json.JSONDecodeError:
            value = None
        found[name] = base.field(path, number, {name: value}, name, dict)
    asked = {}
    for key, words in found["question"].items():
        parents = found["dependency"].get(key)
        if not isinstance(words, str) or not isinstance(parents, list):
            raise ValueError(
                f"{path}, item {number}: question {key} has no words, or no list in 'dependency'."
            )
        asked[str(key)] = (words, [str(parent) for parent in parents if parent])
    for key, (_, parents) in asked.items():
        if missing := [parent for parent in parents if parent not in asked]:
            raise ValueError(
                f"{path}, item {number}: question {key} depends on {missing[0]}, which is missing."
            )
    if not asked:
        raise ValueError(f"{path}, item {number}: field 'question' is empty.")
    return asked


def places(item: Item) -> tuple[str, ...]:
    """`{folder}/model/{id}.png`, a grid of four; the official scripts take any ending."""
    folder, name = item.id.split("/", 1)
    return (f"{folder}/{MODEL}/{name}.png",)


def questions(item: Item, place: str, image: Path, rubrics: Mapping[str, str]) -> list[Question]:
    """Every question on every picture, or what is written on it; nothing of other dimensions."""
    asked = {}
    for crop in range(CROPS):
        if item.raw["_folder"] == "text":
            asked[f"text {crop}"] = crop, rubrics["text"]
        for key, (words, _) in item.raw.get("_questions", {}).items():
            asked[f"{crop}/{key}"] = crop, base.fill(rubrics["alignment"], question=words)
    return [
        Question(f"{place}/{step}", step, words, (Crop(image, GRID, crop),), item)
        for step, (crop, words) in asked.items()
    ]


def read(question: Question, answer: str) -> Scores:
    """Yes or no; or what the text that was read lacks."""
    if question.step.startswith("text"):
        return _compared(normalized(base.clean(answer)), question.item.raw["text_content"])
    words = base.clean(answer).strip(" .!\"'").lower()
    if words not in ("yes", "no"):
        raise base.Malformed(f"neither yes nor no: {answer[:120]!r}")
    return {"yes": float(words == "yes")}


def _compared(seen: str, wanted: str) -> Scores:
    wanted = normalized(wanted)
    parts = list if _CHINESE.search(wanted) else str.split
    one, two = collections.Counter(parts(wanted)), collections.Counter(parts(seen))
    edits = edit_distance(seen, wanted)
    found = {"edits": edits, "exact": edits == 0, "matched": (one & two).total()}
    return {name: float(x) for name, x in {**found, "words": one.total()}.items()}


def normalized(text: str) -> str:
    """Letters and digits with single spaces between words; no spaces in a Chinese text."""
    text = "".join(c if c.isalnum() or c.isspace() else "" for c in _NOTHING.sub("", text))
    return ("" if _CHINESE.search(text) else " ").join(text.split())


def edit_distance(one: str, two: str) -> int:
    """Insertions, deletions and substitutions between two texts (Levenshtein)."""
    row = np.arange(len(two) + 1)
    steps = np.arange(len(two) + 1)
    letters = np.array([ord(c) for c in two])
    for number, letter in enumerate(one, 1):
        best = np.minimum(row[1:] + 1, row[:-1] + (letters != ord(letter)))
        best = np.concatenate(([number], best))
        row = np.minimum.accumulate(best - steps) + steps
    return int(row[-1])


def aggregate(scored: Sequence[Scored]) -> Scores:
    """Alignment and text, what the text score is made of, then alignment by folder."""
    groups = base.by_group(scored, lambda item: item.raw["_folder"])
    aligned = {name: list(map(alignment, groups[name])) for name in ALIGNED if name in groups}
    found = {}
    if aligned:
        found["alignment"] = base.mean(score for scores in aligned.values() for score in scores)
    if "text" in groups:
        found |= text_scores(groups["text"])
    return found | {f"alignment, {name}": base.mean(scores) for name, scores in aligned.items()}


def alignment(image: Scored) -> float:
    """Mean of a prompt's answers after dependencies, over its pictures."""
    asked, answers = image.item.raw["_questions"], image.scores
    return base.mean(
        answers[f"{crop}/{key}"]["yes"]
        * min((answers[f"{crop}/{parent}"]["yes"] for parent in parents), default=1.0)
        for crop in range(CROPS)
        for key, (_, parents) in asked.items()
    )


def text_scores(images: Sequence[Scored]) -> Scores:
    """The text score and its parts over all pictures."""
    rows = [scores for image in images for scores in image.scores.values()]
    edits = base.mean(row["edits"] for row in rows)
    exact = base.mean(row["exact"] for row in rows)
    words = sum(row["matched"] for row in rows) / max(sum(row["words"] for row in rows), 1)
    most = 50 if any(_CHINESE.search(image.item.raw["text_content"]) for image in images) else 100
    score = 1 - min(most, edits) * (1 - exact) * (1 - words) / most
    return {"text": score, "text, ED": edits, "text, CR": exact, "text, WAC": words}


SUITE = Suite(
    "oneig",
    "Qwen2.5-VL-7B-Instruct",
    load,
    places,
    questions,
    read,
    lambda item: item.raw["_folder"],
    aggregate,
    RUBRICS,
    grid=GRID,
    about="reasoning, style and diversity need embedding models and are not measured here",
    best=1,
)
