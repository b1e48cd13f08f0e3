"""Samples -> one packed row of static shape: [text | vit | latent], padded to its budgets.

Streams are concatenated sample after sample. What samples say about order is local to their
record and is shifted by what lies before them in the row: order indices by tokens, split numbers
by splits (so that each is unique in the row), ViT image numbers by images. Padding sees padding
only, carries no loss, and belongs to no image.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from unireason_jax.data.samples import STREAMS, Sample
from unireason_jax.rules import visibility
from unireason_jax.rules.visibility import NOISE


@dataclasses.dataclass(frozen=True)
class Budgets:
    """Tokens of one packed row by stream; the und block is text + vit, the gen block is latent."""

    text: int
    vit: int
    latent: int

    def __post_init__(self):
        for stream in STREAMS:
            value = getattr(self, stream)
            if not isinstance(value, int | np.integer) or value < 0:
                raise ValueError(f"budget of stream '{stream}' must be an integer >= 0: {value!r}")
        if self.total == 0:
            raise ValueError("all budgets are 0: a row needs at least one token")

    @property
    def und(self) -> int:
        """Tokens of the und block."""
        return self.text + self.vit

    @property
    def total(self) -> int:
        """Tokens of the row."""
        return self.text + self.vit + self.latent

    def rounded(self, multiple: int) -> "Budgets":
        """The same with every stream rounded up to a multiple: rows that devices can share."""
        return Budgets(*(-(-tokens // multiple) * multiple for tokens in self.array().tolist()))

    def array(self) -> np.ndarray:
        """The three budgets as int64 [3], in the order of `STREAMS`."""
        return np.array([self.text, self.vit, self.latent], np.int64)


# field of a Sample -> (stream, dtype, padding)
_SHARED = {
    "text_ids": (0, np.int32, 0),
    "text_labels": (0, np.int32, -1),
    "text_weights": (0, np.float32, 0),
    "vit_patches": (1, np.float32, 0),
    "vit_positions": (1, np.int32, 0),
    "vit_images": (1, np.int32, -1),
}
_LATENTS = {
    "latents": (2, np.float32, 0),
    "latent_positions": (2, np.int32, 0),
    "latent_weights": (2, np.float32, 0),
    "latent_logits": (2, np.float32, -np.inf),
    "noise_seeds": (2, np.uint32, 0),
}
_CODES = {
    "code_ids": (2, np.int32, 0),
    "code_weights": (2, np.float32, 0),
    "code_from": (2, np.int32, 0),
}
_ROW = ("positions", "vis_key", "vis_lo", "vis_hi", "vis_own")  # over the whole row


def _fields(by_codes: bool) -> dict[str, tuple[int, type, float]]:
    """The fields of a row whose images are latents, or codes."""
    return _SHARED | (_CODES if by_codes else _LATENTS)


def row_spec(
    budgets: Budgets, patch_sizes: tuple[int, int], *, by_codes: bool = False
) -> dict[str, tuple[tuple, np.dtype]]:
    """Shape and dtype of every array of a row, by name.

    Args:
      budgets: tokens by stream.
      patch_sizes: features of a ViT patch and of a latent token (`SampleSpec.patch_sizes`).
      by_codes: the latent stream holds codes (`SampleSpec.by_codes`); "code_from" is the place in
        the row of the token that predicts a code.
    """
    widths = {"vit_patches": (patch_sizes[0],), "latents": (patch_sizes[1],)}
    lengths = budgets.array()
    spec = {
        name: ((int(lengths[stream]), *widths.get(name, ())), np.dtype(dtype))
        for name, (stream, dtype, _) in _fields(by_codes).items()
    }
    return spec | {name: ((budgets.total,), np.dtype(np.int32)) for name in _ROW}


def assemble(
    samples: Iterable[Sample],
    budgets: Budgets,
    patch_sizes: tuple[int, int],
    *,
    by_codes: bool = False,
) -> dict[str, np.ndarray]:
    """One row of a batch from the samples of a pack.

    Args:
      samples: samples in row order; none gives a row of padding.
      budgets: tokens by stream.
      patch_sizes, by_codes: as in `row_spec`.

    Returns:
      The arrays of `row_spec`, filled from the left of each stream.

    Raises:
      ValueError: the samples need more tokens than a budget has.
    """
    samples = list(samples)
    spec, fields = row_spec(budgets, patch_sizes, by_codes=by_codes), _fields(by_codes)
    row = {
        name: np.full(spec[name][0], padding, dtype) for name, (_, dtype, padding) in fields.items()
    }
    row["positions"] = np.zeros(budgets.total, np.int32)
    blank = _named(visibility.padding(budgets.total))
    row |= {name: values.copy() for name, values in blank.items()}
    limit = budgets.array()
    base = np.array([0, budgets.text, budgets.und])
    used = np.zeros(3, np.int64)
    tokens = splits = images = 0
    for sample in samples:
        lengths = np.array(sample.lengths)
        end = used + lengths
        if (end > limit).any():
            stream = int((end > limit).argmax())
            raise ValueError(
                f"record '{sample.record_id}': the row needs {end[stream]} {STREAMS[stream]} "
                f"tokens but its budget is {limit[stream]}; plan again with these lengths"
            )
        for name, (stream, _, _) in fields.items():
            row[name][used[stream] : end[stream]] = getattr(sample, name)
        if by_codes:
            place = np.arange(used[2], end[2]) + budgets.und
            start = row["code_from"][used[2] : end[2]]
            start[:] = np.where(start < 0, place - 1, start + used[0])
        row["vit_images"][used[1] : end[1]] += np.int32(images)
        shifted = visibility.shifted(sample.visibility, tokens=tokens, splits=splits)
        wide = _named(shifted) | {"positions": sample.positions}
        start = 0
        for stream in range(3):
            place = slice(base[stream] + used[stream], base[stream] + end[stream])
            local = slice(start, start + lengths[stream])
            for name, values in wide.items():
                row[name][place] = values[local]
            start += int(lengths[stream])
        used = end
        tokens += int(lengths.sum())
        splits += len(sample.split_lengths)
        images += sample.vit_count
    return row


def true_order(samples: Iterable[Sample], budgets: Budgets) -> np.ndarray:
    """Place of each token of the assembled row in true order, int32 [T]; -1 for padding."""
    order = np.full(budgets.total, -1, np.int32)
    base = np.array([0, budgets.text, budgets.und])
    tokens = 0
    for sample in samples:
        start = 0
        for stream, length in enumerate(sample.lengths):
            local = sample.order[start : start + length]
            order[base[stream] : base[stream] + length] = local + tokens
            base[stream] += length
            start += length
        tokens += start
    return order


def stack(rows: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """A batch [B, ...] of rows of one shape."""
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def _named(seen: visibility.Visibility) -> dict[str, np.ndarray]:
    return {f"vis_{name}": values for name, values in seen._asdict().items()}


COUNTS = ("text", "vit", "latent", "labels", "pairs", "vit_pairs")


def count(row: Mapping[str, np.ndarray]) -> np.ndarray:
    """Counts of a row in the order of `COUNTS`.

    Args:
      row: arrays of `row_spec`, without a leading dimension.

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
