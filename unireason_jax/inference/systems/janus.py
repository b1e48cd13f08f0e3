"""Janus-Pro: its scripts for pictures and for questions; its release cannot edit."""

from unireason_jax.data.janus import prompts
from unireason_jax.data.templates import Style
from unireason_jax.inference.code_drawing import CodeSettings
from unireason_jax.inference.preset import Preset
from unireason_jax.inference.systems.common import GREEDY

DRAWN = CodeSettings(guidance=5.0, temperature=1.0)
JANUS = {
    "janus_t2i": Preset(
        "a picture, code by code: guidance 5, temperature 1",
        "t2i",
        source="generation_inference.py",
        text=GREEDY,
        codes=DRAWN,
        max_text=512,
    ),
    "janus_understand": Preset(
        "questions about pictures",
        "vqa",
        Style(system=prompts.SYSTEM),
        source="inference.py",
        text=GREEDY,
        max_text=512,
    ),
    "janus_edit": Preset(
        "an edit of a picture that is looked at, for models that were trained on edits",
        "edit",
        Style(image_first=True),
        text=GREEDY,
        codes=DRAWN,
        max_text=512,
    ),
}
