"""The poorer contexts that guide a drawing: which there are, and what they consist of."""

import dataclasses
from collections.abc import Mapping

from unireason_jax.data.bagel.tokens import SampleSpec
from unireason_jax.inference import turns
from unireason_jax.inference.settings import FlowSettings
from unireason_jax.inference.turns import Turn, Turns


def guides(
    flow: FlowSettings, seen: Turns, said: Mapping[str, str], spec: SampleSpec
) -> tuple[FlowSettings, list[list[Turn]]]:
    """How a drawing from a context is guided.

    Args:
      flow: what was set.
      seen: the full context.
      said: the request ("prompt") and the last text of every role.
      spec: tokenizer.

    Returns:
      The settings, in which guidance away from an equal context has become a larger text scale,
      and the contexts without text and without images whose scale is on.
    """
    if flow.text_scale <= 1:
        return flow, []
    found = [turns.without_text(seen, flow.text_free)]
    rule = flow.image_free
    if flow.image_scale <= 1 or (rule != "given" and not turns.has_image(seen)):
        return flow, found
    if isinstance(rule, str):
        other = turns.without_images(seen, rule)
    else:
        other = [turns.told(text, said, spec) for text in rule]
    if turns.shared(other, seen) == len(other) == len(seen) and flow.renorm != "text_channel":
        # v + b (u + a (v - u) - v) = u + (1 + b (a - 1)) (v - u): one pass less, the same velocity.
        scale = 1 + flow.image_scale * (flow.text_scale - 1)
        return dataclasses.replace(flow, text_scale=scale, image_scale=1.0), found
    return flow, [*found, other]
