"""BAGEL: its notebook and app (interleaved inference), and its evaluation scripts."""

import dataclasses

from unireason_jax.inference.preset import Preset
from unireason_jax.inference.settings import FlowSettings
from unireason_jax.inference.systems.common import (
    ALWAYS,
    DRAW,
    EDIT,
    GREEDY,
    IMAGE_FIRST,
    INTERLEAVED,
    SIZE,
    THINKS_FIRST,
    drawing,
    editing,
    flow,
    with_plan,
)
from unireason_jax.inference.turns import Reading

OFFICIAL = {"text": GREEDY, "max_text": 999, "size": SIZE, "reading": INTERLEAVED}
APP = OFFICIAL | {"max_text": 1023}
NOTEBOOK_DRAW = flow(DRAW, text_free="last_input")
APP_DRAW = flow(NOTEBOOK_DRAW, image_scale=1.5, image_free="given")
CALL_DEFAULTS = flow(APP_DRAW, text_scale=3.0)
"""Of `InterleaveInferencer` where its caller says nothing."""
NOTEBOOK_EDIT = flow(EDIT, image_free="given")
_CHAT = Reading(vit=(980, 378), max_pixels=2_007_040)
_LATE_EDIT = flow(EDIT, image_scale=1.5, interval=(0.4, 1.0))


def interactive(system: str, files: str, **options: FlowSettings) -> dict[str, Preset]:
    """What BAGEL's interleaved inference does with its notebook's values, by name.

    Args:
      system: name in front.
      files: where the values stand.
      **options: `draw` and `edit`, flow settings instead of the notebook's.
    """
    draw, edit = options.get("draw", NOTEBOOK_DRAW), options.get("edit", NOTEBOOK_EDIT)
    made = {
        "think_t2i": Preset("a plan, then a picture", "think_t2i", THINKS_FIRST, flow=draw),
        "edit": Preset("an edit; the picture comes first", "edit", IMAGE_FIRST, flow=edit),
        "think_edit": Preset("an edit with a plan", "think_edit", THINKS_FIRST, flow=edit),
        "interleaved": Preset("texts and pictures in any order", "interleaved", flow=edit),
        "think_interleaved": Preset(
            "texts and pictures in any order, then a plan",
            "think_interleaved",
            THINKS_FIRST,
            flow=edit,
        ),
        "understand": Preset(
            "questions about pictures: greedy, the picture as ViT patches only", "vqa", flow=draw
        ),
        "think_understand": Preset(
            "questions about pictures, thinking first", "vqa", THINKS_FIRST, flow=draw
        ),
        "chat": Preset("questions in texts and pictures of any order", "answer", flow=draw),
        "think_chat": Preset("the same, thinking first", "answer", THINKS_FIRST, flow=draw),
    }
    return {
        f"{system}_{name}": dataclasses.replace(preset, source=files, **OFFICIAL)
        for name, preset in made.items()
    }


def _scripts() -> dict[str, Preset]:
    found = {
        "bagel_geneval": drawing("GenEval", "gen_images_mp.py", ALWAYS, plan=False),
    }
    edits = {
        "kris": flow(EDIT, image_scale=1.5),
        "rise": EDIT,
        "imgedit": flow(EDIT, image_scale=1.5),
        "gedit": _LATE_EDIT,
    }
    pairs = {
        "bagel_wise": {
            plan: drawing("WISE", "gen_images_mp_wise.py", DRAW, plan=plan)
            for plan in (False, True)
        }
    }
    for name, scales in edits.items():
        file = "gen_images_gedit.py" if name == "gedit" else f"gen_images_mp_{name}.py"
        limit = 10_239 if name == "gedit" else 2047
        pairs[f"bagel_{name}"] = {
            plan: editing(f"edits of {name}", file, scales, plan=plan, max_text=limit)
            for plan in (False, True)
        }
    for name, pair in pairs.items():
        found |= with_plan(name, pair)
    return found


BAGEL: dict[str, Preset] = {
    "bagel_t2i": Preset(
        "a picture: text guidance 4",
        "t2i",
        source="inference.ipynb",
        flow=NOTEBOOK_DRAW,
        **OFFICIAL,
    ),
    "bagel_t2i_released": Preset(
        "a picture: its image guidance 1.5 on an equal context amounts to text guidance 5.5",
        "t2i",
        source="app.py",
        flow=flow(NOTEBOOK_DRAW, text_scale=5.5),
        **APP,
    ),
    **interactive("bagel", "inference.ipynb"),
    "bagel_think_t2i_released": Preset(
        "a plan, then a picture, guided at 1.5 away from the context without the plan",
        "think_t2i",
        THINKS_FIRST,
        source="app.py",
        flow=APP_DRAW,
        **APP,
    ),
    "bagel_think_edit_released": Preset(
        "an edit with a plan",
        "think_edit",
        THINKS_FIRST,
        source="app.py",
        flow=NOTEBOOK_EDIT,
        **APP,
    ),
    "bagel_understand_released": Preset(
        "questions about pictures", "vqa", source="app.py", **APP | {"max_text": 511}
    ),
    "bagel_think_understand_released": Preset(
        "questions about pictures, thinking first",
        "vqa",
        THINKS_FIRST,
        source="app.py",
        **APP | {"max_text": 511},
    ),
    "bagel_vlm": Preset(
        "questions of the benchmarks of understanding; their scripts set the limit of tokens",
        "vqa",
        source="Bagel.chat, transform of example.yaml",
        text=GREEDY,
        max_text=99,
        reading=_CHAT,
    ),
    **_scripts(),
}
