"""Process-driven generation: is the picture right in the end, and does every step keep the rest?

Metrics of "Think in strokes, not pixels" (3.6) that an exact judge can take: final accuracy, steps
used, preservation from step to step, and whether an inspection tells an incomplete picture from a
conflict.
"""

import functools
from collections.abc import Sequence

import numpy as np

from unireason_jax.evals.rates import average, by_group, wilson
from unireason_jax.evals.world.exam import Exam, Example, Part, asked, table
from unireason_jax.evals.world.report import Section
from unireason_jax.inference.systems.process_driven import grow_process
from unireason_jax.world.language import parse_edit
from unireason_jax.world.scenes import CELL, row_column
from unireason_jax.world.steps import CONFLICT, MAX_STEPS
from unireason_jax.world.tasks import PROCESS_TAGS
from unireason_jax.world.verifier import check_image

TAGS = tuple(dict.fromkeys(PROCESS_TAGS))


def part(exam: Exam, count: int) -> Part:
    """Held-out prompts drawn step by step, and inspections of given sketches.

    The model has its own way, as `generate` lets it: it repairs a sketch that it finds in conflict,
    and draws as many steps as it says, `MAX_STEPS` at most.
    """
    if not count:
        return Part()
    examples = exam.requests("process", TAGS, count, held_out=True)
    requests = [asked(e, "prompt", steps=1) for e in examples]
    grow = functools.partial(grow_process, most=MAX_STEPS)
    traces = exam.traces("process", requests, MAX_STEPS, grow=grow)
    groups = by_group(
        (e["tag"], t.image is not None and check_image(e["requirement"], t.image).passed)
        for e, t in zip(examples, traces)
    )
    rows, means = table({"right": groups}, "mean of tags")
    used = average([len(trace.images) for trace in traces])
    title = "Drawn step by step"
    note = f"Verdict on the last picture; {used} pictures drawn on average."
    sections = [
        Section("process", title, ("right",), tuple(rows), note),
        _inspections(exam, examples),
        _preservation(traces, exam.side),
    ]
    name = "held-out prompts, step by step"
    return Part(sections, {name: means["right"]}, {name: groups}, traces)


def _inspections(exam: Exam, examples: Sequence[Example]) -> Section:
    """Whether the inspection of a given sketch flags a conflict exactly where there is one."""
    requests, conflicts = [], []
    for e in examples:
        wrong = next((n for n, step in enumerate(e["steps"]) if step["refine"]), None)
        last = len(e["steps"]) - 1 if wrong is None else wrong
        sketch = {key: e["steps"][last][key] for key in ("ins", "des", "image")}
        before = [_finished(step) for step in e["steps"][:last]]
        requests.append(asked(e, "prompt", steps=[*before, sketch], id=f"{e['id']}-inspect"))
        conflicts.append(wrong is not None)
    traces = exam.traces("process", requests, 0.25)
    flagged = [CONFLICT in (t.texts[-1] if t.texts else "").split() for t in traces]
    rows = (
        ("a conflict is flagged", (wilson(f for f, c in zip(flagged, conflicts) if c),)),
        ("a sound sketch passes", (wilson(not f for f, c in zip(flagged, conflicts) if not c),)),
    )
    return Section("inspections", "Inspection of given sketches", ("rate",), rows)


def _finished(step: Example) -> Example:
    """A step whose sketch was sound or has been repaired, all of it given."""
    return {key: step[key] for key in ("ins", "des", "image", "inspect")}


def _preservation(traces, side: int) -> Section:
    """Change outside the cells that a readable step names, from picture to picture."""
    changes = []
    for trace in traces:
        image, words = None, ""
        for step in trace.steps:
            if step.kind == "text":
                words = step.text or ""
                continue
            if image is not None and (cells := _named(words, side)):
                changes.append(_outside(image, step.image, cells))
            image = step.image
    rows = (("all steps", (average(changes),)),)
    note = "Mean absolute difference of 255 to the picture before, outside the cells named."
    return Section("process_kept", "Change outside a step", ("levels of 255",), rows, note)


def _named(words: str, side: int) -> set[str]:
    """Cells that the instruction between the `ins` tags names; empty when it cannot be read."""
    inner = words.partition("<ins>")[2].partition("</ins>")[0].strip()
    try:
        edit = parse_edit(inner, side)
    except ValueError:
        return set()
    return {cell for cell in (edit.cell, edit.to) if cell}


def _outside(before: np.ndarray, after: np.ndarray, cells: set[str]) -> float:
    """Mean absolute difference outside the cells, in levels of 255."""
    kept = np.ones(before.shape[:2], bool)
    for row, column in map(row_column, cells):
        kept[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL] = False
    return float(np.abs(before.astype(np.int16) - after.astype(np.int16))[kept].mean())
