"""What the protocols of several systems share: scales, ways of reading pictures, limits."""

import dataclasses
from typing import Any

from unireason_jax.data.templates import Style, prompts
from unireason_jax.inference.preset import Preset
from unireason_jax.inference.settings import FlowSettings, TextSettings
from unireason_jax.inference.turns import Reading

SIZE = (1024, 1024)
THINKING = TextSettings(temperature=0.3)
GREEDY = TextSettings()

DRAW = FlowSettings(timesteps=50, shift=3.0, text_scale=4.0, interval=(0.4, 1.0), renorm="global")
ALWAYS = dataclasses.replace(DRAW, interval=(0.0, 1.0))
EDIT = dataclasses.replace(
    ALWAYS, image_scale=2.0, renorm="text_channel", text_free="last_input", image_free="texts"
)
"""Editing scripts: nothing of the request in the context without text, all texts in the other."""

INTERLEAVED = Reading(latent_first=True)
"""App, notebook, `infer.py`: the picture is resized for the autoencoder, and the ViT reads that."""
SCRIPT = Reading(vit=(980, 378))
"""Evaluation scripts: both read the picture itself."""
SMALL_SCRIPT = Reading(vit=(980, 224))
"""Scripts of IRG and of Uni-Edit on RISE."""

THINKS_FIRST = Style(
    image_first=True,
    system={
        name: prompts.BAGEL_THINK_IMAGE for name in ("think_t2i", "think_edit", "think_interleaved")
    }
    | {name: prompts.BAGEL_THINK_ANSWER for name in ("vqa", "answer")},
)
IMAGE_FIRST = Style(image_first=True)


def flow(base: FlowSettings, **changes: Any) -> FlowSettings:
    """Flow settings with some values in their place."""
    return dataclasses.replace(base, **changes)


def drawing(
    about: str, source: str, flow: FlowSettings, *, plan: bool, simple: bool = False
) -> Preset:
    """An evaluation script that draws from a prompt, with or without a plan."""
    return Preset(
        about,
        "think_t2i" if plan else "t2i",
        THINKS_FIRST,
        source=source,
        flow=flow,
        text=THINKING,
        max_text=2047,
        simple_think=simple,
        size=SIZE,
    )


def editing(
    about: str,
    source: str,
    flow: FlowSettings,
    *,
    plan: bool,
    simple: bool = False,
    max_text: int = 2047,
    reading: Reading = SCRIPT,
) -> Preset:
    """An evaluation script that edits one picture or several, with or without a plan."""
    return Preset(
        about,
        "think_edit" if plan else "edit",
        THINKS_FIRST,
        source=source,
        flow=flow,
        text=THINKING,
        max_text=max_text,
        simple_think=simple,
        size=SIZE,
        size_from="first",
        reading=reading,
    )


def with_plan(name: str, made: dict[bool, Preset]) -> dict[str, Preset]:
    """`NAME` and `NAME_think` of a script that does both."""
    return {name: made[False], f"{name}_think": made[True]}
