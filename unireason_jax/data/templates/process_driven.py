"""Drawing in steps: plan a step, sketch, inspect, repair, next step (process-driven generation).

Paper ("Think in strokes, not pixels", 3.1 to 3.3): every text and every image is supervised, and so
are the hand-overs between text and image. The paper leaves open, and we decide: hand-overs sit on
the closing markers of texts and of the ViT copy, because a noised target is invisible to what
follows; a sketch that its inspection rejects is shown but not learned; the two critique subsets
learn the inspection and the repair, and only read the rest.

A step is {ins, des, image, inspect}, with {refine, refined} where the sketch was wrong. Of a step
to be generated, `wrong` says that it is inspected to be wrong and repaired.
"""

from typing import Any

from unireason_jax.data.records import Next, Record, RecordError, Segment
from unireason_jax.data.templates.segments import (
    Example,
    given,
    optional,
    record,
    required,
    shown,
    supervised,
    target_and_shown,
    unsupervised,
)
from unireason_jax.data.templates.style import PLAIN, Style


def process(example: Example, style: Style = PLAIN) -> Record:
    """`prompt` -> (`<ins>..</ins><des>..</des>` -> sketch -> inspection [-> repaired]) x steps.

    `steps` is a list of steps; a number n stands for n steps to be generated.

    Raises:
      RecordError: a field is missing or has the wrong type (all templates).
    """
    steps = _steps(example)
    segments = [_request(example, style)]
    for number, step in enumerate(steps):
        then = "stop" if number == len(steps) - 1 else "text"
        draw = shown if _is_wrong(step) else target_and_shown
        segments += [
            supervised("plan", _plan(step), None, then="image", style=style),
            draw("sketch", step.get("image"), "text"),
            *_inspection(step, then, style),
        ]
    return record(example, "process", segments, style)


def process_conflict(example: Example, style: Style = PLAIN) -> Record:
    """A trace up to a step that is held against the prompt: only the verdict is learned.

    `steps`: of the last one, `inspect` is learned and, with `refine`, what was to be done and the
    image `refined`, where there is one. `complete` says that nothing is left to draw.
    """
    steps = _steps(example)
    segments = [_request(example, style)]
    for step in steps:
        segments += [unsupervised("plan", _plan(step), None), shown("sketch", step.get("image"))]
    then = "stop" if example.get("complete") else "text"
    return record(
        example, "process_conflict", [*segments, *_inspection(steps[-1], then, style)], style
    )


def process_alignment(example: Example, style: Style = PLAIN) -> Record:
    """`prompt`, a finished `image` -> `inspect`; with `refine`, -> the better image `refined`."""
    segments = [
        _request(example, style),
        shown("sketch", required(example, "image", object)),
        *_inspection(example, "stop", style),
    ]
    return record(example, "process_alignment", segments, style)


def _request(example: Example, style: Style) -> Segment:
    prompt = required(example, "prompt")
    return given("user", style.step_request.format(prompt=prompt) if style.step_request else prompt)


def _plan(step: Example) -> str | None:
    ins, des = optional(step, "ins"), optional(step, "des")
    return None if ins is None or des is None else f"<ins>{ins}</ins><des>{des}</des>"


def _inspection(step: Example, then: Next, style: Style) -> list[Segment]:
    """The verdict on a sketch; where it is wrong, also its repair and the image after it."""
    inspect, repair = optional(step, "inspect"), optional(step, "refine")
    if not _is_wrong(step):
        return [supervised("reflection", inspect, None, then=then, style=style)]
    verdict = None if repair is None else f"{inspect or ''}<refine>{repair}</refine>"
    return [
        supervised("reflection", verdict, None, then="image", style=style),
        target_and_shown("refined", step.get("refined"), then),
    ]


def _is_wrong(step: Example) -> bool:
    return bool(step.get("wrong") or step.get("refine") is not None)


def _steps(example: Example) -> list[dict[str, Any]]:
    steps, name = example.get("steps", 1), str(example.get("id", "?"))
    if isinstance(steps, int) and steps > 0:
        return [{} for _ in range(steps)]
    if isinstance(steps, list) and steps and all(isinstance(step, dict) for step in steps):
        return [{"id": name, **step} for step in steps]
    raise RecordError(
        name,
        None,
        "field 'steps' must be a list of {ins, des, image, inspect}, or a number of steps",
    )
