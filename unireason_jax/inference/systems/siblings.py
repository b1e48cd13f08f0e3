"""IRG, Uni-Edit and process-driven generation."""

import dataclasses
from typing import Any

from unireason_jax.data.records import Record
from unireason_jax.data.templates import PLAIN, TEMPLATES, Style, prompts
from unireason_jax.inference.preset import Preset
from unireason_jax.inference.systems.bagel import OFFICIAL, interactive
from unireason_jax.inference.systems.common import (
    ALWAYS,
    DRAW,
    EDIT,
    IMAGE_FIRST,
    SIZE,
    SMALL_SCRIPT,
    THINKING,
    drawing,
    editing,
    flow,
    with_plan,
)

_IRG = {
    "template": "irg_improving_full",
    "style": Style(system={"irg_improving_full": prompts.IRG_THINK}),
    "flow": flow(DRAW, text_free="since_image"),
    "text": THINKING,
    "max_text": 4095,
    "size": SIZE,
    "reading": SMALL_SCRIPT,
    "learned_stop": False,
}
_IRG_SECOND = flow(EDIT, text_free="since_image")
_LATE_EDIT = flow(EDIT, text_scale=4.5, image_scale=1.2, interval=(0.4, 1.0))


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


SIBLINGS: dict[str, Preset] = {
    "irg": Preset(
        "two turns, the second at guidance 2.0 and 2.0",
        source="paper",
        refine=flow(_IRG_SECOND, text_scale=2.0),
        **_IRG,
    ),
    "irg_released": Preset(
        "two turns, the second at guidance 4.0 and 2.0",
        source="tiif_multi_turn_gen.py",
        refine=_IRG_SECOND,
        **_IRG,
    ),
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
    "uni_edit_direct": Preset(
        "an edit as trained: picture first, no text is written; scales of infer.py",
        "uni_edit",
        IMAGE_FIRST,
        source="paper",
        flow=flow(EDIT, image_free="given"),
        **OFFICIAL,
    ),
    "uni_edit_t2i": Preset("a picture", "t2i", source="infer.py", flow=DRAW, **OFFICIAL),
    **interactive("uni_edit", "infer.py"),
    **with_plan(
        "uni_edit_wise",
        {
            plan: drawing(
                "WISE",
                "gen_images_mp_wise.py",
                flow(DRAW, text_scale=8.0, shift=4.0),
                plan=plan,
            )
            for plan in (False, True)
        },
    ),
    "uni_edit_geneval": drawing(
        "GenEval", "gen_images_mp_geneval.py", flow(ALWAYS, text_scale=8.0), plan=False
    ),
    **with_plan(
        "uni_edit_gedit",
        {
            plan: editing("GEdit", "gen_images_gedit.py", _LATE_EDIT, plan=plan, max_text=10_239)
            for plan in (False, True)
        },
    ),
    **with_plan(
        "uni_edit_rise",
        {
            plan: editing("RISE", "gen_images_mp_rise.py", EDIT, plan=plan, reading=SMALL_SCRIPT)
            for plan in (False, True)
        },
    ),
}
SIBLINGS["uni_edit_released"] = SIBLINGS["uni_edit_think_edit"]
