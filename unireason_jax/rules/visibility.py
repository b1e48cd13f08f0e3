"""Who may see whom in a packed row, written as four integers per token.

BAGEL's attention mask ("BAGEL training packer"): with the splits of a sample in order, a query in
split i sees a key in split j when j < i and j is not noised, or when i == j and the split is full
or noised or the key is not later than the query. Nothing crosses samples.

The same mask here costs 16 bytes per token instead of a matrix. With the tokens of a row numbered
in true order (sample after sample, split after split, whatever their place in the split-packed
row):

    key   order index of a token that later splits may see; NOISE + split of a noised token;
          PADDING for padding
    lo    first order index of the query's sample
    hi    causal split: the query's own index; full split: last index of its split;
          noised split: the index before its split
    own   NOISE + split for a query in a noised split, NOTHING otherwise

and a query sees a key when `lo <= key <= hi` or `key == own`. Splits are numbered over the row.
Works for NumPy and JAX arrays alike; this module imports neither JAX nor anything of the package.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

NOISE = 1 << 24
PADDING = -2
NOTHING = -1
CAUSAL, FULL, NOISED = 0, 1, 2
MODES = {"causal": CAUSAL, "full": FULL, "noise": NOISED}


class Visibility(NamedTuple):
    """Four int32 arrays of one shape, `[T]` or `[B, T]` (a pytree: it passes through `jax.jit`)."""

    key: Any
    lo: Any
    hi: Any
    own: Any


def visible(lo: Any, hi: Any, own: Any, key: Any) -> Any:
    """The rule: boolean, broadcast over queries (`lo`, `hi`, `own`) and keys (`key`)."""
    return ((lo <= key) & (key <= hi)) | (key == own)


def dense(visibility: Visibility) -> Any:
    """Boolean mask `[..., T, T]`, queries by keys: for tests, pictures and dense attention."""
    key, lo, hi, own = visibility
    return visible(lo[..., :, None], hi[..., :, None], own[..., :, None], key[..., None, :])


def build(
    split_lengths: Sequence[int],
    split_modes: Sequence[int | str],
    sample_lengths: Sequence[int] | None = None,
) -> Visibility:
    """The four integers of a row in true order, from its splits.

    Args:
      split_lengths: tokens per split, in order.
      split_modes: per split CAUSAL, FULL or NOISED, or BAGEL's "causal", "full", "noise".
      sample_lengths: tokens per sample; None means that all splits belong to one sample.

    Returns:
      Visibility of int32 `[T]`, T = sum of the split lengths.

    Raises:
      ValueError: the lists disagree, a mode is unknown, or the row is longer than NOISE.
    """
    lengths = np.asarray(split_lengths, np.int32).reshape(-1)
    modes = _mode_codes(split_modes)
    if len(lengths) != len(modes):
        raise ValueError(f"{len(lengths)} split lengths but {len(modes)} split modes")
    total = int(lengths.sum())
    if total >= NOISE or len(lengths) >= NOISE:
        raise ValueError(f"a row of {total} tokens does not fit below NOISE = {NOISE}")
    order = np.arange(total, dtype=np.int32)
    split = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    ends = np.cumsum(lengths, dtype=np.int32)
    mode = modes[split]
    before = ends - lengths
    hi = np.where(mode == CAUSAL, order, np.where(mode == FULL, ends[split], before[split]) - 1)
    noised = mode == NOISED
    key = np.where(noised, NOISE + split, order)
    own = np.where(noised, NOISE + split, NOTHING)
    return Visibility(key, _sample_starts(sample_lengths, total), hi, own)


def shifted(visibility: Visibility, *, tokens: int, splits: int) -> Visibility:
    """The same sample moved behind `tokens` tokens and `splits` splits of other samples."""
    key, lo, hi, own = visibility
    return Visibility(
        key + np.where(key >= NOISE, splits, np.where(key >= 0, tokens, 0)).astype(np.int32),
        lo + np.int32(tokens),
        hi + np.int32(tokens),
        own + np.where(own >= NOISE, splits, 0).astype(np.int32),
    )


def padding(length: int) -> Visibility:
    """`length` padding tokens: they see padding only, and nothing else sees them."""
    fill = np.full(length, PADDING, np.int32)
    return Visibility(fill, fill, fill, np.full(length, NOTHING, np.int32))


def _mode_codes(modes: Sequence[int | str]) -> np.ndarray:
    if isinstance(modes, np.ndarray):
        return modes.astype(np.int32)
    try:
        codes = [MODES[mode] if isinstance(mode, str) else int(mode) for mode in modes]
    except KeyError as error:
        raise ValueError(f"unknown split mode {error}; use one of {sorted(MODES)}") from None
    return np.asarray(codes, np.int32)


def _sample_starts(sample_lengths: Sequence[int] | None, total: int) -> np.ndarray:
    if sample_lengths is None:
        return np.zeros(total, np.int32)
    lengths = np.asarray(sample_lengths, np.int32).reshape(-1)
    if int(lengths.sum()) != total:
        raise ValueError(f"samples hold {int(lengths.sum())} tokens but the splits hold {total}")
    return np.repeat(np.cumsum(lengths, dtype=np.int32) - lengths, lengths)
