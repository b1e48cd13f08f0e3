"""Reading a packed row back: which samples and splits it holds, in true order.

A row says all of it in its visibility integers, so that pictures and checks need no record.
"""

import dataclasses
import math

import numpy as np

from unireason_jax.data.samples import LATENT, TEXT, VIT
from unireason_jax.rules import visibility


@dataclasses.dataclass(frozen=True)
class Split:
    """One split of a packed row.

    Attributes:
      mode: visibility.CAUSAL, FULL or NOISED.
      stream: TEXT, VIT or LATENT, whichever its inner tokens belong to.
      tokens: row indices in true order, int [n]; the first and last of an image are SOI and EOI.
    """

    mode: int
    stream: int
    tokens: np.ndarray


@dataclasses.dataclass(frozen=True)
class SampleSplits:
    """The splits of one record of a packed row, in order."""

    splits: tuple[Split, ...]

    @property
    def tokens(self) -> np.ndarray:
        """Row indices of all its tokens in true order."""
        return np.concatenate([split.tokens for split in self.splits])


def streams_of(row: dict[str, np.ndarray]) -> np.ndarray:
    """Stream of every token of a row, int [T]."""
    drawn = "code_ids" if "code_ids" in row else "latent_positions"
    sizes = [len(row[name]) for name in ("text_ids", "vit_positions", drawn)]
    return np.repeat([TEXT, VIT, LATENT], sizes)


def true_order(row: dict[str, np.ndarray]) -> np.ndarray:
    """Row indices of all tokens but padding, in true order, int [n].

    Noised tokens have no order index of their own; their split starts behind its `hi` and holds
    SOI, latents and EOI.
    """
    key, hi = row["vis_key"], row["vis_hi"]
    order = np.where(key >= visibility.NOISE, -1, key).astype(np.int64)
    streams = streams_of(row)
    for own in np.unique(key[key >= visibility.NOISE]):
        members = np.flatnonzero(key == own)
        markers, inner = members[streams[members] == TEXT], members[streams[members] != TEXT]
        split = np.concatenate([markers[:1], inner, markers[1:]])
        order[split] = hi[split] + 1 + np.arange(len(split))
    present = np.flatnonzero(key != visibility.PADDING)
    return present[np.argsort(order[present], kind="stable")]


def samples(row: dict[str, np.ndarray], bos: int | None = None) -> list[SampleSplits]:
    """The samples of a row; `bos` tells adjacent text turns apart (else they count as one)."""
    tokens = true_order(row)
    lo = row["vis_lo"][tokens]
    cuts = np.flatnonzero(np.diff(lo)) + 1
    return [
        SampleSplits(tuple(_splits(row, part, bos))) for part in np.split(tokens, cuts) if len(part)
    ]


def grid_width(positions: np.ndarray) -> int:
    """Columns of an image from the positions of its tokens in reading order.

    Positions may be stretched over the table. An image as wide as the position table, or one
    column wide, has no larger gap between its lines; it is taken for a square.
    """
    steps = np.diff(positions)
    breaks = np.flatnonzero(steps >= 2 * steps.min(initial=len(positions)))
    if len(breaks):
        return int(breaks[0]) + 1
    side = math.isqrt(len(positions))
    return side if side * side == len(positions) else len(positions)


def _splits(row: dict[str, np.ndarray], tokens: np.ndarray, bos: int | None) -> list[Split]:
    streams = streams_of(row)[tokens]
    start_index = int(row["vis_lo"][tokens[0]])
    hi, own = row["vis_hi"][tokens] - start_index, row["vis_own"][tokens]
    splits, start = [], 0
    while start < len(tokens):
        if own[start] >= visibility.NOISE:
            mode, end = visibility.NOISED, start + int((own == own[start]).sum())
        elif hi[start] > start:
            mode, end = visibility.FULL, int(hi[start]) + 1
        elif _begins_image(streams, start):  # causal like text, where pictures are codes
            mode, end = visibility.CAUSAL, start + 2
            while streams[end - 1] != TEXT:
                end += 1
        else:
            mode, end = visibility.CAUSAL, start + 1
            while end < len(tokens) and own[end] < visibility.NOISE and hi[end] == end:
                if bos is not None and row["text_ids"][tokens[end]] == bos:
                    break
                if _begins_image(streams, end):
                    break
                end += 1
        part = tokens[start:end]
        stream = int(streams[start + 1]) if len(part) > 1 else TEXT
        splits.append(Split(mode, stream, part))
        start = end
    return splits


def _begins_image(streams: np.ndarray, place: int) -> bool:
    """Whether a text token is the SOI of an image: what follows it is no text."""
    return place + 1 < len(streams) and streams[place] == TEXT != streams[place + 1]
