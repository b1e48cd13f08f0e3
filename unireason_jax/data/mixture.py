"""Several sources as one list of examples.

An epoch is a fixed list of examples (source, record): every record once, or in the proportion of
given weights. The list is the unit of packing and of randomness, so the mixture is exact and the
same on every host.
"""

import dataclasses
from collections.abc import Mapping
from typing import Protocol

import numpy as np

from unireason_jax.data.randomness import generator
from unireason_jax.data.records import Record


class RecordSource(Protocol):
    """Random access to records: picklable, the same on every host, `repr` naming its contents.

    A source may also have `lengths() -> int [n, 3]`, known token counts of all records, and
    `outline(index) -> Record`, a record whose pictures need not be drawn to be measured.
    """

    def __len__(self) -> int:
        """Number of records."""

    def __getitem__(self, index: int) -> Record:
        """Record `index`; raises RecordError or OSError when it cannot be read."""


@dataclasses.dataclass(frozen=True)
class Mixture:
    """The examples of an epoch.

    Attributes:
      names: names of the sources.
      sources: the sources, in the order of `names`.
      index: int32 [n, 2], (source, record) of every example.
    """

    names: tuple[str, ...]
    sources: tuple[RecordSource, ...]
    index: np.ndarray

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, example: int) -> Record:
        source, record = self.index[example]
        return self.sources[source][int(record)]


def mix(
    sources: Mapping[str, RecordSource],
    *,
    weights: Mapping[str, float] | None = None,
    examples: int | None = None,
    seed: int = 0,
) -> Mixture:
    """The examples of an epoch over `sources`.

    Args:
      sources: random-access sources by name.
      weights: share of each source in the examples, any positive scale; sources without a weight
        take no part. None takes every record of every source once.
      examples: length of an epoch; by default the number of records of the sources that take
        part. Without weights, sources share it in proportion to their sizes.
      seed: which records come more often where a source is not used a whole number of times.

    Returns:
      A `Mixture`; a source used k.x times gives each record k or k + 1 examples.

    Raises:
      ValueError: an unknown name, a weight that is not positive, or a source without records.
    """
    names = tuple(sources if weights is None else weights)
    if unknown := [name for name in names if name not in sources]:
        raise ValueError(f"no source named {unknown[0]!r}; there are {sorted(sources)}")
    sizes = np.array([len(sources[name]) for name in names], np.int64)
    if not names or (sizes == 0).any():
        empty = names[int(sizes.argmin())] if names else "(none)"
        raise ValueError(f"source {empty!r} has no records; add data or leave it out of the mix")
    shares = sizes if weights is None else np.array([weights[name] for name in names], float)
    if not (np.isfinite(shares).all() and (shares > 0).all()):
        raise ValueError(f"weights must be positive numbers: {dict(weights)}; leave out a source")
    counts = _apportion(shares / shares.sum(), int(examples or sizes.sum()))
    index, end = np.empty((counts.sum(), 2), np.int32), 0
    for number, (size, count) in enumerate(zip(sizes.tolist(), counts.tolist())):
        rounds, rest = divmod(count, size)
        rows, end = index[end : end + count], end + count
        rows[:, 0] = number
        rows[: rounds * size, 1] = np.tile(np.arange(size, dtype=np.int32), rounds)
        if rest:
            extra = generator(seed, number).permutation(size)[:rest]
            rows[rounds * size :, 1] = np.sort(extra)
    return Mixture(names, tuple(sources[name] for name in names), index)


def _apportion(shares: np.ndarray, total: int) -> np.ndarray:
    """Whole numbers in proportion to `shares` that sum to `total` (largest remainders)."""
    exact = shares * total
    counts = np.floor(exact).astype(np.int64)
    order = np.argsort(counts - exact, kind="stable")
    counts[order[: total - counts.sum()]] += 1
    return counts
