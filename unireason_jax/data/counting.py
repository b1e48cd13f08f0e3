"""What a packed row really holds: tokens and visible pairs, padding left out."""

from collections.abc import Mapping

import numpy as np

from unireason_jax.rules.visibility import NOISE

COUNTS = ("text", "vit", "latent", "labels", "pairs", "vit_pairs")


def count(row: Mapping[str, np.ndarray]) -> np.ndarray:
    """Counts of a row in the order of `COUNTS`.

    Args:
      row: arrays of `assemble.row_spec`, without a leading dimension.

    Returns:
      int64 [6]: tokens of text, ViT and latents; text tokens with a loss; query-key pairs that the
      mask allows; pairs inside the vision tower.
    """
    key, lo, hi, own = (row[f"vis_{name}"] for name in ("key", "lo", "hi", "own"))
    images, text, real = row["vit_images"], len(row["text_ids"]), lo >= 0
    plain = np.bincount(key[(key >= 0) & (key < NOISE)], minlength=len(key))
    before = np.concatenate([[0], np.cumsum(plain)])  # keys whose order index is smaller
    inside = before[hi[real] + 1] - before[lo[real]]
    noised = own[real & (own >= NOISE)] - NOISE
    shared = np.bincount(key[key >= NOISE] - NOISE, minlength=noised.max(initial=-1) + 1)[noised]
    shown = np.bincount(images[images >= 0])
    tokens = real[:text].sum(), (images >= 0).sum(), real[text + len(images) :].sum()
    pairs = np.maximum(inside, 0).sum() + shared.sum(), (shown**2).sum()
    return np.array([*tokens, (row["text_weights"] > 0).sum(), *pairs], np.int64)
