"""RISEBench: edits that need temporal, causal, spatial or logical reasoning; 1 to 5 a score.

0.3 consistency + 0.5 reasoning + 0.2 quality; logical items are answered with 0 or 1 (that is 1 or
5), have no quality and count 0.3 and 0.7; items free of consistency count 0.8 reasoning and 0.2
quality. Where reasoning is 1 the sum is halved (and at least 1). Shown as 25 (s - 1); accuracy is
the share of images whose scores are all 5.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from unireason_jax.evals.published import base
from unireason_jax.evals.published.base import Item, Question, Scored, Scores, Suite

CATEGORIES = ("temporal_reasoning", "causal_reasoning", "spatial_reasoning", "logical_reasoning")
LOGICAL = CATEGORIES[-1]
RUBRICS = {
    "consistency": (
        "First picture: before, second: after the edit '{prompt}'. From 1 to 5, how well is kept "
        "what should not change? End with: Final Score: n"
    ),
    "reasoning": (
        "First picture: before, then what it should look like where there is such a picture, last: "
        "after the edit '{prompt}'. What should happen: {reference}. From 1 to 5, how right is the "
        "result? End with: Final Score: n"
    ),
    "quality": "How sound is this picture, from 1 to 5? End with: Final Score: n",
    "consistency.logical_reasoning": (
        "First picture: before, second: after the edit '{prompt}'. Is kept what should not change? "
        "End with: Final Score: 1 if it is, Final Score: 0 if not"
    ),
    "reasoning.logical_reasoning": (
        "First picture: before, then what it should look like where there is such a picture, last: "
        "after the edit '{prompt}'. What should happen: {reference}. Is the result right? "
        "End with: Final Score: 1 if it is, Final Score: 0 if not"
    ),
}


def load(path: Path) -> list[Item]:
    """Items {index, category, instruction, image, reference?, reference_img?, consistency_free?}.

    Pictures lie beside the file or in a folder `data` there.
    """
    items = []
    for number, row in enumerate(base.read_rows(path)):
        category = base.field(path, number, row, "category")
        if category not in CATEGORIES:
            raise ValueError(f"{path}, item {number}: category '{category}' of {CATEGORIES}.")
        name = str(base.field(path, number, row, "index", (str, int)))
        prompt = base.field(path, number, row, "instruction")
        raw = {**row, "_truth": None}
        if row.get("reference_img"):
            (raw["_truth"],) = _pictures(path, number, row, "reference_img")
        pictures = _pictures(path, number, row, "image")
        items.append(Item(f"{category}/{name}", prompt, pictures, raw))
    return base.checked(path, items)


def _pictures(path: Path, number: int, row: Mapping, name: str) -> tuple[Path, ...]:
    given = base.field(path, number, row, name)
    beside = (path.parent / given).is_file()
    return base.sources(path, number, {**row, name: given if beside else f"data/{given}"}, name)


def places(item: Item) -> tuple[str, ...]:
    """`{category}/{index}.png`."""
    return (f"{item.id}.png",)


def steps(item: Item) -> dict[str, float]:
    """What is asked of an item, with its weight."""
    if item.raw["category"] == LOGICAL:
        return {"consistency": 0.3, "reasoning": 0.7}
    if item.raw.get("consistency_free"):
        return {"reasoning": 0.8, "quality": 0.2}
    return {"consistency": 0.3, "reasoning": 0.5, "quality": 0.2}


def questions(item: Item, place: str, image: Path, rubrics: Mapping[str, str]) -> list[Question]:
    """Two or three questions. A rubric named `step.category` goes before that of the step."""
    found, truth = [], item.raw["_truth"]
    for step in steps(item):
        rubric = rubrics.get(f"{step}.{item.raw['category']}", rubrics[step])
        words = base.fill(rubric, prompt=item.prompt, reference=item.raw.get("reference", ""))
        seen = (image,) if step == "quality" else (*item.sources, image)
        if step == "reasoning" and truth:
            seen = (*item.sources, truth, image)
        found.append(Question(f"{place}/{step}", step, words, seen, item))
    return found


def read(question: Question, answer: str) -> Scores:
    """The last `Final Score: n`, 1 to 5; of a logical item 0 or 1."""
    answer, logical = base.clean(answer), question.item.raw["category"] == LOGICAL
    low, high = (0, 1) if logical else (1, 5)
    score = base.number_after(answer, "Final Score", low, high)
    return {question.step: 4 * score + 1 if logical else score}


def aggregate(scored: Sequence[Scored]) -> Scores:
    """Accuracy and score, then both by category."""
    found = {"accuracy": base.mean(map(_exact, scored)), "score": base.mean(map(points, scored))}
    for name, images in base.by_group(scored, _category).items():
        found |= {
            f"accuracy, {name}": base.mean(map(_exact, images)),
            f"score, {name}": base.mean(map(points, images)),
        }
    return found


def points(image: Scored) -> float:
    """0 to 100."""
    scores = image.all()
    total = sum(weight * scores[step] for step, weight in steps(image.item).items())
    if scores["reasoning"] == 1:
        total = max(total / 2, 1.0)
    return 25 * (total - 1)


def _exact(image: Scored) -> float:
    return 100.0 * all(value == 5 for value in image.all().values())


def _category(item: Item) -> str:
    return str(item.raw["category"])


SUITE = Suite(
    "rise", "gpt-4.1-2025-04-14", load, places, questions, read, _category, aggregate, RUBRICS
)
