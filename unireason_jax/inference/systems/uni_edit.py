"""Uni-Edit: BAGEL, tuned by editing alone."""

from unireason_jax.inference.preset import Preset
from unireason_jax.inference.systems.bagel import OFFICIAL, interactive
from unireason_jax.inference.systems.common import (
    ALWAYS,
    DRAW,
    EDIT,
    IMAGE_FIRST,
    SMALL_SCRIPT,
    drawing,
    editing,
    flow,
    with_plan,
)

_LATE_EDIT = flow(EDIT, text_scale=4.5, image_scale=1.2, interval=(0.4, 1.0))


UNI_EDIT: dict[str, Preset] = {
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
UNI_EDIT["uni_edit_released"] = UNI_EDIT["uni_edit_think_edit"]
