"""KRIS-Bench: edits that need knowledge; 1 to 5 for consistency, quality, instruction, knowledge.

Scores become 25 (s - 1). The benchmark publishes no aggregator; its paper's rows follow from the
mean per sample and then over samples, BAGEL's from the flat mean over all scores (reference A.2).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unireason_jax.evals.published import base
from unireason_jax.evals.published.base import Item, Malformed, Question, Scored, Scores, Suite

DIMENSIONS = {
    "Attribute": (
        "count_change",
        "color_change",
        "size_adjustment",
        "part_completion",
        "anomaly_correction",
    ),
    "Spatial": ("viewpoint_change", "position_movement"),
    "Temporal": ("temporal_prediction",),
    "Social": ("humanities", "practical_knowledge"),
    "Natural": ("biology", "chemistry", "geography", "medicine", "mathematics", "physics"),
    "Logical": ("abstract_reasoning", "rule-based_reasoning"),
    "Instruction": ("multi-element_composition", "multi-instruction_execution"),
}
LEVELS = {
    "Factual": ("Attribute", "Spatial", "Temporal"),
    "Conceptual": ("Social", "Natural"),
    "Procedural": ("Logical", "Instruction"),
}
DIMENSION = {kind: name for name, kinds in DIMENSIONS.items() for kind in kinds}
WITH_KNOWLEDGE = ("Social", "Natural", "Logical")
RUBRICS = {
    "consistency": (
        "First picture: before, second: after the edit '{prompt}'. From 1 to 5, how well is kept "
        'what should not change? Answer {"consistency_score": n, "reasoning": "..."}'
    ),
    "quality": (
        "From 1 to 5, how sound and free of artefacts is this picture? "
        'Answer {"quality_score": n, "reasoning": "..."}'
    ),
    "instruction": (
        "First picture: before, second: after the edit '{prompt}'. From 1 to 5, how well was the "
        'instruction followed? Answer {"instruction_score": n, "reasoning": "..."}'
    ),
    "dual": (
        "First picture: before, second: after the edit '{prompt}'. What should happen: "
        "{explanation}. From 1 to 5, how well was the instruction followed, and how plausible is "
        'the result (1 if the instruction has 2 or less)? Answer {"instruction_score": n, '
        '"knowledge_score": n, "reasoning": "..."}'
    ),
}
FIELDS = {
    "consistency": ("consistency_score",),
    "quality": ("quality_score",),
    "instruction": ("instruction_score",),
    "dual": ("instruction_score", "knowledge_score"),
}


def load(path: Path) -> list[Item]:
    """Items of a flattened file: {id, type, ori_img (one or a list), ins_en, explain_en, ...}.

    Pictures lie in a folder per type beside the file, or at the path they are given with.
    """
    items = []
    for number, row in enumerate(base.read_rows(path)):
        kind = base.field(path, number, row, "type")
        if kind not in DIMENSION:
            raise ValueError(f"{path}, item {number}: unknown type '{kind}' of {sorted(DIMENSION)}")
        name = base.field(path, number, row, "id", (str, int))
        given = base.field(path, number, row, "ori_img", (str, list))
        names = [given] if isinstance(given, str) else given
        found = [n if (path.parent / n).is_file() else f"{kind}/{n}" for n in names]
        pictures = base.sources(path, number, {**row, "ori_img": found}, "ori_img")
        prompt = base.field(path, number, row, "ins_en")
        truth = _truth(path, number, row) if kind == "viewpoint_change" else None
        items.append(Item(f"{kind}/{name}", prompt, pictures, {**row, "_truth": truth}))
    return base.checked(path, items)


def _truth(path: Path, number: int, row: Mapping[str, Any]) -> Path | None:
    """The picture of the right answer, where the row names one; it must exist."""
    if not row.get("gt_img"):
        return None
    name = base.field(path, number, row, "gt_img")
    name = name if (path.parent / name).is_file() else f"{row['type']}/{name}"
    (found,) = base.sources(path, number, {**row, "gt_img": name}, "gt_img")
    return found


def dimension(item: Item) -> str:
    """One of the seven dimensions."""
    return DIMENSION[item.raw["type"]]


def questions(item: Item, place: str, image: Path, rubrics: Mapping[str, str]) -> list[Question]:
    """Consistency, quality, and the instruction, with knowledge where the type has it.

    A rubric named `step.type` goes before that of the step. A change of viewpoint is held against
    the picture that the benchmark has of it; several pictures are labelled.
    """
    last = "dual" if dimension(item) in WITH_KNOWLEDGE else "instruction"
    explanation, found = item.raw.get("explain_en", ""), []
    for step in ("consistency", "quality", last):
        rubric = rubrics.get(f"{step}.{item.raw['type']}", rubrics[step])
        words = base.fill(rubric, prompt=item.prompt, explanation=explanation)
        seen, labels = _pictures(item, image, step)
        found.append(Question(f"{place}/{step}", step, words, seen, item, labels))
    return found


def _pictures(item: Item, image: Path, step: str) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """What a step shows, the result last, and labels where there is more than a source and it."""
    if step == "quality":
        return (image,), ()
    truth = item.raw.get("_truth") if step == "instruction" else None
    if len(item.sources) == 1 and not truth:
        return (*item.sources, image), ()
    labels = [f"Picture {n} before the edit:" for n in range(1, len(item.sources) + 1)]
    pictures = list(item.sources)
    if truth:
        pictures.append(truth)
        labels.append("What it should look like after the edit:")
    return (*pictures, image), (*labels, "After the edit:")


def read(question: Question, answer: str) -> Scores:
    """The JSON fields of a step; a single score may also stand as `n/5` or `name: n`."""
    answer, names = base.clean(answer), FIELDS[question.step]
    try:
        found = base.json_object(answer)
        return {name: base.in_range(found.get(name), 1, 5) for name in names}
    except Malformed:
        if len(names) > 1:
            raise
        return {names[0]: base.number_after(answer.replace('"', ""), names[0], 1, 5)}


def aggregate(scored: Sequence[Scored]) -> Scores:
    """Overall and the three levels in both conventions, then the dimensions by sample."""
    samples = {name: _points(images) for name, images in base.by_group(scored, dimension).items()}
    found = {}
    for convention, flat in (("mean of samples", False), ("mean of scores", True)):
        groups = {"overall": tuple(samples)} | LEVELS
        for level, dimensions in groups.items():
            points = [p for name in dimensions for p in samples.get(name, ())]
            if points:
                found[f"{level}, {convention}"] = _average(points, flat)
    return found | {name: _average(points, False) for name, points in samples.items()}


def _points(images: Sequence[Scored]) -> list[list[float]]:
    """Scores of every image, 0 to 100."""
    return [[25 * (score - 1) for score in image.all().values()] for image in images]


def _average(points: Sequence[Sequence[float]], flat: bool) -> float:
    return (
        base.mean(p for sample in points for p in sample)
        if flat
        else base.mean(map(base.mean, points))
    )


SUITE = Suite(
    "kris", "gpt-4o-2024-11-20", load, base.one_png, questions, read, dimension, aggregate, RUBRICS
)
