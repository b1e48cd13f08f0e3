"""Switches that all templates share, and the systems by the style of their records."""

import dataclasses
from collections.abc import Mapping

from unireason_jax.data.templates import prompts


@dataclasses.dataclass(frozen=True)
class Style:
    """Switches of all templates.

    Attributes:
      system: system prompt put first, for all templates or by template name; None for none.
      reference: the released loaders' supervision instead of ours. Ours differs in three points:
        supervised texts are never removed by condition dropout (there they vanish as often as
        prompts do, and their loss with them); every supervised text says what comes next, an image,
        a text or the end (there only suggestions do, and the one after the last image asks for
        another image); and a refined trace ends with a stop.
      image_first: edits show the source image before the instruction, as BAGEL and Uni-Edit do;
        UniReason shows it after.
      step_request: how a prompt asks for a drawing in steps, "... {prompt}"; None for the prompt.
    """

    system: str | Mapping[str, str] | None = None
    reference: bool = False
    image_first: bool = False
    step_request: str | None = None


PLAIN = Style()
STYLES: dict[str, Style] = {
    "plain": PLAIN,
    "bagel": Style(image_first=True),
    "unireason": Style(system=prompts.UNIREASON),
    "unireason_released": Style(system=prompts.UNIREASON, reference=True),
    "process": Style(step_request=prompts.STEP_REQUEST),
}
"""Styles by the name that configs use."""

STYLE_OF = {
    "unireason": "unireason",
    "irg": "plain",
    "uni_edit": "bagel",
    "process": "process",
    "janus": "plain",
    "bagel": "bagel",
}
"""The systems that a model may follow, those that name it before those it builds on, with the style
in which their released weights were trained."""
