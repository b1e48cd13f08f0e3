"""IRG: two turns, the second improves the first."""

from unireason_jax.data.templates import Style, prompts
from unireason_jax.inference.preset import Preset
from unireason_jax.inference.systems.common import DRAW, EDIT, SIZE, SMALL_SCRIPT, THINKING, flow

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

IRG: dict[str, Preset] = {
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
}
