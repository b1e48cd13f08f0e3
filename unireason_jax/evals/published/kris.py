"""KRIS-Bench: edits that need knowledge; 1 to 5 for consistency, quality, instruction, knowledge.

Scores become 25 (s - 1). The benchmark publishes no aggregator; its paper's rows follow from the
mean per sample and then over samples, BAGEL's from the flat mean over all scores (reference A.2).
"""

import re
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
FRAMES = 4  # of a sequence in temporal_prediction, one of which is to be drawn
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
RUBRICS |= {
    "instruction.viewpoint_change": (
        "First picture: before, second: after the edit '{prompt}', third: what it should look like "
        "after it. From 1 to 5, how well was the instruction followed, judged by the third? "
        'Answer {"instruction_score": n, "reasoning": "..."}'
    ),
    "instruction.anomaly_correction": (
        "First picture: before, second: after the edit '{prompt}'. What is wrong in the first: "
        "{explanation}. From 1 to 5, how well was it put right? "
        'Answer {"instruction_score": n, "reasoning": "..."}'
    ),
    "consistency.temporal_prediction": (
        "Frames of one scene in their order; frame {frame} was drawn for '{prompt}', the others "
        "were given. From 1 to 5, how well does it keep what should not change between them? "
        'Answer {"consistency_score": n, "reasoning": "..."}'
    ),
    "instruction.temporal_prediction": (
        "Frames of one scene in their order; frame {frame} was drawn for '{prompt}', the others "
        "were given. From 1 to 5, how well does it follow the instruction at its place? "
        'Answer {"instruction_score": n, "reasoning": "..."}'
    ),
    "consistency.multi-element_composition": (
        "All pictures but the last were given, the last was made of them for '{prompt}'. From 1 to "
        "5, how well is kept in it what the given ones show and should not change? "
        'Answer {"consistency_score": n, "reasoning": "..."}'
    ),
    "instruction.multi-element_composition": (
        "All pictures but the last were given, the last was made of them for '{prompt}'. From 1 to "
        '5, how well was the instruction followed? Answer {"instruction_score": n, "reasoning": '
        '"..."}'
    ),
}
"""By step, or by step and type where the pictures are others than a source and the result."""
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

    A rubric named `step.type` goes before that of the step. `{instruct}`, `{explanation}` and `{N}`
    of the official words are filled in as ours are.
    """
    last = "dual" if dimension(item) in WITH_KNOWLEDGE else "instruction"
    texts = {"prompt": item.prompt, "explanation": item.raw.get("explain_en", "")}
    texts |= {"frame": _frames(item)[-1], "instruct": item.prompt, "N": _frames(item)[-1]}
    found = []
    for step in ("consistency", "quality", last):
        rubric = rubrics.get(f"{step}.{item.raw['type']}", rubrics[step])
        seen, labels = _pictures(item, image, step)
        words = base.fill(rubric, **texts)
        found.append(Question(f"{place}/{step}", step, words, seen, item, labels))
    return found


def _frames(item: Item) -> list[int]:
    """Numbers of the frames that are given, as their files `ITEM-FRAME.png` say, then the drawn.

    That is the one of the four that was not given, else the one after the last.
    """
    found = [re.search(r"\d+-(\d+)", path.stem) for path in item.sources]
    given = [int(m[1]) for m in found if m]
    if len(given) < len(found):
        given = list(range(1, len(found) + 1))
    absent = set(range(1, FRAMES + 1)) - set(given)
    return [*given, absent.pop() if len(absent) == 1 else max(given) + 1]


def _pictures(item: Item, image: Path, step: str) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """What a step shows, each with its label: the order is the official scripts'.

    A predicted frame stands at its place among the given ones; what a change of viewpoint should
    look like follows the result.
    """
    if step == "quality":
        return (image,), ()
    if item.raw["type"] == "temporal_prediction":
        kinds = (*["given"] * len(item.sources), "drawn")
        frames = sorted(zip(_frames(item), (*item.sources, image), kinds), key=lambda x: x[0])
        return (
            tuple(path for _, path, _ in frames),
            tuple(f"Frame {number} ({kind}):" for number, _, kind in frames),
        )
    several = len(item.sources) > 1
    labels = [f"Picture {n} before the edit:" for n in range(1, len(item.sources) + 1)]
    pictures = [*item.sources, image]
    labels = [*(labels if several else ["Before the edit:"]), "After the edit:"]
    if step == "instruction" and item.raw.get("_truth"):
        pictures.append(item.raw["_truth"])
        labels.append("What it should look like after the edit:")
    return tuple(pictures), tuple(labels)


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
