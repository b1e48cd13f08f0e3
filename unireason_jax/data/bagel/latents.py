"""Image latents made ahead of time: what a record keeps of them, and whose they are."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from unireason_jax.data.bagel.tokens import LatentCodec
from unireason_jax.data.prepared.serialization import DTYPES
from unireason_jax.data.records import Record, Segment

_TOLERANCE = 0.02  # of a latent; other machines and libraries differ by less than 0.001


def needs_latents(segment: Segment) -> bool:
    """Whether the sequence of a record shows or learns latents of the segment."""
    return segment.kind == "image" and (segment.gen or segment.loss == "flow")


def with_moments(record: Record, moments: Mapping[int, np.ndarray], dtype: str) -> Record:
    """The record with posterior moments instead of pixels; a ViT copy keeps its pixels too.

    Args:
      record: with images.
      moments: float32 [2, h, w, C] (mean, log variance) by number of the segment.
      dtype: name in `serialization.DTYPES`.
    """
    segments = list(record.segments)
    for number, values in moments.items():
        segment = segments[number]
        segments[number] = dataclasses.replace(
            segment,
            moments=values.astype(DTYPES[dtype]),
            image=segment.image if segment.und else None,
        )
    return dataclasses.replace(record, segments=tuple(segments))


def probe(codec: LatentCodec) -> list[float]:
    """Mean and spread by channel of the latents of one fixed picture, to tell codecs apart."""
    side = 8 * codec.stride
    rows, columns = np.indices((side, side)) * 255 // (side - 1)
    picture = np.stack([rows, columns, (rows + columns) // 2], -1).astype(np.uint8)
    mean = codec.encode(picture)[0].reshape(-1, codec.channels)
    return [round(float(value), 5) for value in (*mean.mean(0), *mean.std(0))]


def check(manifest: Mapping[str, Any], codec: LatentCodec, name: str) -> None:
    """Raises ValueError when the folder `name` holds latents of another codec than `codec`."""
    if "latents" not in manifest:
        return
    if not is_same(manifest["latents"]["probe"], probe(codec)):
        raise ValueError(
            f"{name} holds latents of another autoencoder than this run's; encode the records "
            "again with this one (unireason encode)"
        )


def is_same(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether two probes are of one codec."""
    return len(one) == len(other) and bool(np.allclose(one, other, rtol=0, atol=_TOLERANCE))
