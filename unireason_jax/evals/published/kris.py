"""KRIS-Bench: edits that need knowledge; 1 to 5 for consistency, quality, instruction, knowledge.

Scores become 25 (s - 1). The benchmark publishes no aggregator; its paper's rows follow from the
mean per sample and then over samples, BAGEL's from the flat mean over all scores (reference A.2).
"""

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
    in_range,
    json_object,
    mean,
    number_after,
    one_png,
    read_rows,
    sources,
)

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
    for number, row in enumerate(read_rows(path)):
        kind = field(path, number, row, "type")
        if kind not in DIMENSION:
            raise ValueError(f"{path}, item {number}: unknown type '{kind}' of {sorted(DIMENSION)}")
        name = field(path, number, row, "id", (str, int))
        given = field(path, number, row, "ori_img", (str, list))
        names = [given] if isinstance(given, str) else given
        found = [n if (path.parent / n).is_file() else f"{kind}/{n}" for n in names]
        pictures = sources(path, number, {**row, "ori_img": found}, "ori_img")
        prompt = field(path, number, row, "ins_en")
        items.append(Item(f"{kind}/{name}", prompt, pictures, row))
    return checked(path, items)


def dimension(item: Item) -> str:
    """One of the seven dimensions."""
    return DIMENSION[item.raw["type"]]


def questions(item: Item, place: str, image: Path, rubrics: Mapping[str, str]) -> list[Question]:
    """Consistency, quality, and the instruction, with knowledge where the type has it."""
    last = "dual" if dimension(item) in WITH_KNOWLEDGE else "instruction"
    both = (*item.sources, image)
    explanation = item.raw.get("explain_en", "")
    return [
        Question(
            f"{place}/{step}",
            step,
            fill(rubrics[step], prompt=item.prompt, explanation=explanation),
            (image,) if step == "quality" else both,
            item,
        )
        for step in ("consistency", "quality", last)
    ]


def read(question: Question, answer: str) -> Scores:
    """The JSON fields of a step; a single score may also stand as `n/5` or `name: n`."""
    answer, names = clean(answer), FIELDS[question.step]
    try:
        found = json_object(answer)
        return {name: in_range(found.get(name), 1, 5) for name in names}
    except Malformed:
        if len(names) > 1:
            raise
        return {names[0]: number_after(answer.replace('"', ""), names[0], 1, 5)}


def aggregate(scored: Sequence[Scored]) -> Scores:
    """Overall and the three levels in both conventions, then the dimensions by sample."""
    samples = {name: _points(images) for name, images in by_group(scored, dimension).items()}
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
    return mean(p for sample in points for p in sample) if flat else mean(map(mean, points))


SUITE = Suite(
    "kris", "gpt-4o-2024-11-20", load, one_png, questions, read, dimension, aggregate, RUBRICS
)
