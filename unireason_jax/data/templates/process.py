"""Drawing in steps: plan a step, sketch, inspect, repair, next step (process-driven generation).

Paper ("Think in strokes, not pixels", 3.1, 3.3): every text and every image is supervised, and so
are the hand-overs between text and image. Decisions that the paper leaves open: hand-overs sit on
the closing markers of texts and of the ViT copy, because a noised target is invisible to what
follows; a sketch that its inspection rejects is shown but not learned.

`steps` is a list of {ins, des, image, inspect} with {refine, refined} where the sketch was wrong; a
number n stands for n steps to be generated.
"""

from typing import Any

from unireason_jax.data.records import Record, RecordError, Segment
from unireason_jax.data.templates.style import (
    PLAIN,
    Example,
    Style,
    given,
    optional,
    record,
    required,
    shown,
    supervised,
    target_and_shown,
)


def process(example: Example, style: Style = PLAIN) -> Record:
    """`prompt` -> (`<ins>..</ins><des>..</des>` -> sketch -> inspection [-> repaired]) x steps.

    Raises:
      RecordError: a field is missing or has the wrong type.
    """
    steps = _steps(example)
    segments = [given("user", required(example, "prompt"))]
    for number, step in enumerate(steps):
        step = {"id": example.get("id"), **step}
        then = "stop" if number == len(steps) - 1 else "text"
        segments += _step(step, then, style)
    return record(example, "process", segments, style)


def _step(step: dict[str, Any], then: Any, style: Style) -> list[Segment]:
    ins, des = optional(step, "ins"), optional(step, "des")
    whole = None if ins is None or des is None else f"<ins>{ins}</ins><des>{des}</des>"
    inspect, repair = optional(step, "inspect"), optional(step, "refine")
    sketch = step.get("image")
    plan = supervised("plan", whole, None, then="image", style=style)
    if repair is None:
        drawn = target_and_shown("sketch", sketch, "text")
        return [plan, drawn, supervised("reflection", inspect, None, then=then, style=style)]
    verdict = f"{inspect or ''}<refine>{repair}</refine>"
    return [
        plan,
        shown("sketch", sketch, "text"),
        supervised("reflection", verdict, None, then="image", style=style),
        target_and_shown("refined", required(step, "refined", object), then),
    ]


def _steps(example: Example) -> list[dict[str, Any]]:
    steps = example.get("steps", 1)
    if isinstance(steps, int) and steps > 0:
        return [{} for _ in range(steps)]
    if isinstance(steps, list) and steps and all(isinstance(step, dict) for step in steps):
        return steps
    raise RecordError(
        str(example.get("id", "?")),
        None,
        "field 'steps' must be a list of {ins, des, image, inspect}, or a number of steps",
    )
