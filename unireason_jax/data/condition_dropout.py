"""Condition dropout: which parts of a sample its images are trained to do without.

A dropped copy leaves no tokens; what was to be guided by it is then learned without it, which is
what classifier-free guidance needs. Probabilities are `config.data.dropout`, by kind of copy; which
segments may drop at all is the template's (`Segment.drop`).
"""

from collections.abc import Sequence

import numpy as np

from unireason_jax.data.samples import LATENT, TEXT, VIT


def dropped(
    streams: Sequence[int],
    droppable: Sequence[bool],
    chances: tuple[float, float, float],
    rng: np.random.Generator,
) -> list[bool]:
    """Whether each copy of a sample drops, in order.

    Args:
      streams: TEXT, VIT or LATENT of every copy.
      droppable: whether it may drop at all.
      chances: probabilities of texts, clean latents and ViT copies.
      rng: read once for each droppable copy, whatever comes of it.
    """
    chance = dict(zip((TEXT, LATENT, VIT), chances))
    draws = iter(rng.random(sum(droppable)).tolist())
    return [can and next(draws) < chance[stream] for can, stream in zip(droppable, streams)]


def prompt_dropped(chances: tuple[float, float, float], rng: np.random.Generator) -> bool:
    """Whether all words of a sample are blanked, with the chance of texts (Janus-Pro)."""
    return bool(rng.random() < chances[0])
