"""WISE: world knowledge in text to image; the legacy scores and WISE_Verified.

Legacy: (0.7 consistency + 0.2 realism + 0.1 aesthetic) / 2 per image, each 0 to 2. Two overall
numbers are in circulation: the official weights, and the plain mean of the six categories of
BAGEL's script. WISE_Verified: 0 or 1 per image, mean over items (reference A.2).
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from unireason_jax.evals.published import base
from unireason_jax.evals.published.base import Item, Malformed, Question, Scored, Scores, Suite

LEGACY = {"CULTURE": 400, "TIME": 567, "SPACE": 700, "BIOLOGY": 800, "PHYSICS": 900}
LEGACY |= {"CHEMISTRY": 1000}
VERIFIED = {"CULTURE": 400, "TIME": 520, "SPACE": 640, "BIOLOGY": 760, "PHYSICS": 880}
VERIFIED |= {"CHEMISTRY": 1000}
WEIGHTS = {"CULTURE": 0.4, "TIME": 0.167, "SPACE": 0.133}
WEIGHTS |= {"BIOLOGY": 0.1, "PHYSICS": 0.1, "CHEMISTRY": 0.1}
PARTS = {"Consistency": 0.7, "Realism": 0.2, "Aesthetic Quality": 0.1}
RUBRICS = {
    "wise": (
        "Prompt: {prompt}\nWhat it means: {explanation}\nRate the picture from 0 (fails) over 1 "
        "(partly) to 2 (fully). Answer with three lines:\nConsistency: n\nRealism: n\n"
        "Aesthetic Quality: n"
    ),
    "verified": (
        "Prompt: {prompt}\nWhat it means: {explanation}\nDoes the picture show what the prompt "
        "means? Answer with one line: Score: 1 if it does, Score: 0 if not."
    ),
}


def load(path: Path) -> list[Item]:
    """Items of a JSON list of {Prompt, Explanation, Category, Subcategory, prompt_id}.

    A folder is all its JSON files but those of rewritten prompts: the benchmark comes in three.
    """
    items = []
    for number, row in enumerate(base.read_all(path, "rewrite")):
        name = str(base.field(path, number, row, "prompt_id", int))
        base.field(path, number, row, "Explanation")
        base.field(path, number, row, "Category")
        items.append(Item(name, base.field(path, number, row, "Prompt"), (), row))
    return base.checked(path, items)


def category(item: Item, limits: Mapping[str, int] = LEGACY) -> str:
    """Category by the range of the id; a world's item has its own."""
    if "world" in item.raw:
        return str(item.raw["Category"])
    number = int(item.id)
    return next((name for name, last in limits.items() if number <= last), "OTHER")


def questions(
    item: Item, place: str, image: Path, rubrics: Mapping[str, str], step: str = "wise"
) -> list[Question]:
    """One question an image."""
    words = base.fill(rubrics[step], prompt=item.prompt, explanation=item.raw["Explanation"])
    return [Question(f"{place}/{step}", step, words, (image,), item)]


def read(question: Question, answer: str) -> Scores:
    """Three labelled lines, or one `Score:`.

    Of the legacy answer, as the official script does: three numbers alone where labels are absent.
    """
    answer = base.clean(answer)
    if question.step == "verified":
        score = base.number_after(answer, "Score", 0, 1)
        return {"score": float(score >= 0.5)}
    try:
        return {part: base.number_after(answer, part, 0, 2) for part in PARTS}
    except Malformed:
        numbers = re.findall(r"(?<![\d.])[0-2](?!\d|\.\d)", answer)
        if len(numbers) != len(PARTS) or any(part.lower() in answer.lower() for part in PARTS):
            raise
        return dict(zip(PARTS, map(float, numbers)))


def wi_score(scores: Mapping[str, float]) -> float:
    """The legacy score of one image, 0 to 1."""
    return sum(weight * scores[part] for part, weight in PARTS.items()) / 2


def aggregate(scored: Sequence[Scored]) -> Scores:
    """Both overall numbers, then the categories."""
    groups = {
        name: base.mean(wi_score(image.all()) for image in images)
        for name, images in base.by_group(scored, category).items()
    }
    found = {"overall, mean of categories": base.mean(groups.values())}
    if set(WEIGHTS) <= set(groups):
        official = sum(weight * groups[name] for name, weight in WEIGHTS.items())
        found = {"overall, official weights": official} | found
    return found | groups


def aggregate_verified(scored: Sequence[Scored]) -> Scores:
    """Mean over items, then the categories."""
    groups = base.by_group(scored, lambda item: category(item, VERIFIED))
    overall = {"overall": base.mean(image.all()["score"] for image in scored)}
    return overall | {
        name: base.mean(x.all()["score"] for x in images) for name, images in groups.items()
    }


SUITE = Suite(
    "wise_legacy",
    "gpt-4o-2024-05-13",
    load,
    base.one_png,
    questions,
    read,
    category,
    aggregate,
    RUBRICS,
    best=1,
)
VERIFIED_SUITE = Suite(
    "wise",
    "Qwen3.5-35B-A3B",
    load,
    base.one_png,
    lambda item, place, image, rubrics: questions(item, place, image, rubrics, "verified"),
    read,
    lambda item: category(item, VERIFIED),
    aggregate_verified,
    RUBRICS,
    best=1,
)
