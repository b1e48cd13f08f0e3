"""Process-driven generation: a drawing in steps that ends when the model says so."""

import dataclasses
from typing import Any

from unireason_jax.data.records import Record
from unireason_jax.data.templates import PLAIN, TEMPLATES, Style, prompts
from unireason_jax.inference.preset import Preset
from unireason_jax.inference.systems.common import DRAW, SIZE, THINKING


def grow_process(record: Record, handover: str, most: int) -> Record:
    """A drawing in steps goes on as the model says: repair, draw the next step, or end.

    Args:
      record: of the template `process`, every hole of it filled but the reflection just written.
      handover: after that reflection: "image" repairs the sketch, "text" plans the next step.
      most: steps, after which no other is begun.
    """
    roles = [segment.role for segment in record.segments]
    steps: list[dict[str, Any]] = []
    for role in roles:
        if role == "sketch":
            steps.append({})
        elif role == "refined":
            steps[-1]["wrong"] = True
    if handover == "image":
        steps[-1]["wrong"] = True
    if len(steps) < most and handover != "stop":
        steps.append({})
    prompt = record.segments[roles.index("user")].text
    longer = TEMPLATES["process"]({"id": record.id, "prompt": prompt, "steps": steps}, PLAIN)
    system = record.segments[: roles.index("user")]
    return dataclasses.replace(record, segments=(*system, *longer.segments))


PROCESS: dict[str, Preset] = {
    "process_driven": Preset(
        "plan, sketch, inspect, repair until the model stops; the paper names no scales, those of "
        "BAGEL are our choice",
        "process",
        Style(step_request=prompts.STEP_REQUEST),
        source="paper 3.1 to 3.3",
        flow=DRAW,
        text=THINKING,
        max_text=1000,
        size=SIZE,
        rounds=8,
        grow=grow_process,
    ),
}
