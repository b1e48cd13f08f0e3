"""Sequences -> one packed row of static shape: [text | vit | latent], padded to its budgets.

Streams are concatenated sample after sample. What sequences say about order is local to their
record and is shifted by what lies before them in the row: order indices by tokens, split numbers
by splits (so that each is unique in the row), ViT image numbers by images. Padding sees padding
only, carries no loss, and belongs to no image.
"""

from collections.abc import Iterable, Mapping
from collections.abc import Sequence as List

import numpy as np

from unireason_jax.data.packs import Budgets
from unireason_jax.data.samples import STREAMS, Sequence
from unireason_jax.rules import visibility

# field of a Sequence -> (stream, dtype, padding)
_TOKENS = {
    "text_ids": (0, np.int32, 0),
    "text_labels": (0, np.int32, -1),
    "text_weights": (0, np.float32, 0),
    "vit_patches": (1, np.float32, 0),
    "vit_positions": (1, np.int32, 0),
    "vit_images": (1, np.int32, -1),
    "latents": (2, np.float32, 0),
    "latent_positions": (2, np.int32, 0),
    "latent_weights": (2, np.float32, 0),
    "latent_logits": (2, np.float32, -np.inf),
    "noise_seeds": (2, np.uint32, 0),
}
_ROW = ("positions", "vis_key", "vis_lo", "vis_hi", "vis_own")  # over the whole row


def row_spec(budgets: Budgets, patch_sizes: tuple[int, int]) -> dict[str, tuple[tuple, np.dtype]]:
    """Shape and dtype of every array of a row, by name.

    Args:
      budgets: tokens by stream.
      patch_sizes: features of a ViT patch and of a latent token (`SequenceSpec.patch_sizes`).
    """
    widths = {"vit_patches": (patch_sizes[0],), "latents": (patch_sizes[1],)}
    lengths = budgets.array()
    spec = {
        name: ((int(lengths[stream]), *widths.get(name, ())), np.dtype(dtype))
        for name, (stream, dtype, _) in _TOKENS.items()
    }
    return spec | {name: ((budgets.total,), np.dtype(np.int32)) for name in _ROW}


def assemble(
    sequences: Iterable[Sequence], budgets: Budgets, patch_sizes: tuple[int, int]
) -> dict[str, np.ndarray]:
    """One row of a batch from the sequences of a pack.

    Args:
      sequences: samples in row order; none gives a row of padding.
      budgets: tokens by stream.
      patch_sizes: as in `row_spec`.

    Returns:
      The arrays of `row_spec`, filled from the left of each stream.

    Raises:
      ValueError: the sequences need more tokens than a budget has.
    """
    sequences = list(sequences)
    spec = row_spec(budgets, patch_sizes)
    row = {
        name: np.full(spec[name][0], padding, dtype)
        for name, (_, dtype, padding) in _TOKENS.items()
    }
    row["positions"] = np.zeros(budgets.total, np.int32)
    blank = _named(visibility.padding(budgets.total))
    row |= {name: values.copy() for name, values in blank.items()}
    limit = budgets.array()
    base = np.array([0, budgets.text, budgets.und])
    used = np.zeros(3, np.int64)
    tokens = splits = images = 0
    for sequence in sequences:
        lengths = np.array(sequence.lengths)
        end = used + lengths
        if (end > limit).any():
            stream = int((end > limit).argmax())
            raise ValueError(
                f"record '{sequence.record_id}': the row needs {end[stream]} {STREAMS[stream]} "
                f"tokens but its budget is {limit[stream]}; plan again with these lengths"
            )
        for name, (stream, _, _) in _TOKENS.items():
            row[name][used[stream] : end[stream]] = getattr(sequence, name)
        row["vit_images"][used[1] : end[1]] += np.int32(images)
        shifted = visibility.shifted(sequence.visibility, tokens=tokens, splits=splits)
        wide = _named(shifted) | {"positions": sequence.positions}
        start = 0
        for stream in range(3):
            place = slice(base[stream] + used[stream], base[stream] + end[stream])
            local = slice(start, start + lengths[stream])
            for name, values in wide.items():
                row[name][place] = values[local]
            start += int(lengths[stream])
        used = end
        tokens += int(lengths.sum())
        splits += len(sequence.split_lengths)
        images += sequence.vit_count
    return row


def true_order(sequences: Iterable[Sequence], budgets: Budgets) -> np.ndarray:
    """Place of each token of the assembled row in true order, int32 [T]; -1 for padding."""
    order = np.full(budgets.total, -1, np.int32)
    base = np.array([0, budgets.text, budgets.und])
    tokens = 0
    for sequence in sequences:
        start = 0
        for stream, length in enumerate(sequence.lengths):
            local = sequence.order[start : start + length]
            order[base[stream] : base[stream] + length] = local + tokens
            base[stream] += length
            start += length
        tokens += start
    return order


def stack(rows: List[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """A batch [B, ...] of rows of one shape."""
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def _named(seen: visibility.Visibility) -> dict[str, np.ndarray]:
    return {f"vis_{name}": values for name, values in seen._asdict().items()}
