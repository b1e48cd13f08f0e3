"""UniREditBench: edits that need reasoning; 1 to 5 for consistency, reasoning and quality.

s = 0.3 consistency + 0.5 reasoning + 0.2 quality, shown as 25 (s - 1); accuracy is the share of
images with three fives. Images without all scores are left out, as in the official script.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from unireason_jax.evals.published import base
from unireason_jax.evals.published.base import Item, Question, Scored, Scores, Suite

WEIGHTS = {"consistency": 0.3, "reasoning": 0.5, "quality": 0.2}
RUBRICS = {
    "consistency": (
        "First picture: before, second: after the edit '{prompt}'. How well is kept what should "
        "not change, from 1 to 5? End with: Final Score: n"
    ),
    "reasoning": (
        "Pictures: before the edit '{prompt}', what it should look like, what was made. What "
        "should happen: {effect}. How right is the result, from 1 to 5? End with: Final Score: n"
    ),
    "quality": "How sound is this picture, from 1 to 5? End with: Final Score: n",
}


def load(path: Path) -> list[Item]:
    """Items {original_image_path, reference_image_path, instruction, rules?, name, idx, ...}."""
    items = []
    for number, row in enumerate(base.read_rows(path)):
        name = base.field(path, number, row, "name")
        index = base.field(path, number, row, "idx", (str, int))
        prompt = base.field(path, number, row, "instruction")
        if row.get("rules"):
            prompt = f"{base.field(path, number, row, 'rules')} {prompt}"
        base.sources(path, number, row, "reference_image_path")
        pictures = base.sources(path, number, row, "original_image_path")
        root = {**row, "_reference": path.parent / row["reference_image_path"]}
        items.append(Item(f"{name}/{index}", prompt, pictures, root))
    return base.checked(path, items)


def questions(item: Item, place: str, image: Path, rubrics: Mapping[str, str]) -> list[Question]:
    """The three questions; the judge reads the rules on a line of their own."""
    rules = item.raw.get("rules")
    prompt = f"{rules}\n{item.raw['instruction']}" if rules else item.prompt
    pictures = {
        "consistency": (*item.sources, image),
        "reasoning": (*item.sources, item.raw["_reference"], image),
        "quality": (image,),
    }
    effect = item.raw.get("reference_effect", "")
    return [
        Question(
            f"{place}/{step}", step, base.fill(rubrics[step], prompt=prompt, effect=effect), p, item
        )
        for step, p in pictures.items()
    ]


def read(question: Question, answer: str) -> Scores:
    """The last `Final Score: n`."""
    return {question.step: base.number_after(base.clean(answer), "Final Score", 1, 5)}


def aggregate(scored: Sequence[Scored]) -> Scores:
    """Overall and accuracy, then both by name."""
    found = {"overall": base.mean(map(_points, scored)), "accuracy": base.mean(map(_exact, scored))}
    for name, images in base.by_group(scored, _name).items():
        found |= {
            name: base.mean(map(_points, images)),
            f"{name}, accuracy": base.mean(map(_exact, images)),
        }
    return found


def _points(image: Scored) -> float:
    return 25 * (sum(w * image.all()[step] for step, w in WEIGHTS.items()) - 1)


def _exact(image: Scored) -> float:
    return 100.0 * all(value == 5 for value in image.all().values())


def _name(item: Item) -> str:
    return str(item.raw["name"])


SUITE = Suite(
    "uniredit", "gpt-4.1-2025-04-14", load, base.one_png, questions, read, _name, aggregate, RUBRICS
)
