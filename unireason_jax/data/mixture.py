"""Several sources as one list of examples, and the lengths of all their records.

An epoch is a fixed list of examples (source, record): every record once, or in the proportion of
given weights. The list is the unit of packing and of randomness, so the mixture is exact and the
same on every host.
"""

import dataclasses
import hashlib
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np

from unireason_jax.data.quarantine import Quarantine
from unireason_jax.data.randomness import generator
from unireason_jax.data.records import Record, RecordError
from unireason_jax.data.tokens import SequenceSpec
from unireason_jax.data.tokens import lengths as record_lengths
from unireason_jax.storage import atomic

_SPOT_CHECKS = 64  # records measured again before cached lengths are believed


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
      index: int64 [n, 2], (source, record) of every example.
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
    parts = []
    for number, (size, count) in enumerate(zip(sizes.tolist(), counts.tolist())):
        rng = generator(seed, number)
        rounds, rest = divmod(count, size)
        extra = np.sort(rng.permutation(size)[:rest])
        records = np.concatenate([np.tile(np.arange(size), rounds), extra])
        parts.append(np.stack([np.full(count, number), records], 1))
    index = np.concatenate(parts).astype(np.int64)
    return Mixture(names, tuple(sources[name] for name in names), index)


def _apportion(shares: np.ndarray, total: int) -> np.ndarray:
    """Whole numbers in proportion to `shares` that sum to `total` (largest remainders)."""
    exact = shares * total
    counts = np.floor(exact).astype(np.int64)
    order = np.argsort(counts - exact, kind="stable")
    counts[order[: total - counts.sum()]] += 1
    return counts


def measure(
    mixture: Mixture,
    spec: SequenceSpec,
    quarantine: Quarantine,
    *,
    directory: str | Path | None = None,
) -> np.ndarray:
    """Lengths of every example before dropout, int64 [n, 3]; 0, 0, 0 for unusable records.

    Each record is measured once however many examples it has. Lengths that a source brings along,
    or that `directory` holds from an earlier run, are believed if a spot check agrees.

    Raises:
      ValueError: no record is usable.
    """
    used, inverse = np.unique(mixture.index, axis=0, return_inverse=True)
    found = np.zeros((len(used), 3), np.int64)
    for number, (name, source) in enumerate(zip(mixture.names, mixture.sources)):
        rows = np.flatnonzero(used[:, 0] == number)
        records = used[rows, 1]
        path = _cache_path(directory, source, records, spec)
        known = _known_lengths(source, records, path)
        if known is not None and _agree(known, source, records, spec):
            found[rows] = known
            continue
        for row, record in zip(rows.tolist(), records.tolist()):
            try:
                found[row] = _lengths_of(source, record, spec)
            except RecordError as error:
                quarantine.add(name, error.record_id, error.reason)
            except OSError as error:
                quarantine.add(name, f"number {record}", str(error))
        if path and found[rows].any(1).all():
            _save(path, found[rows])
    if not found.any():
        reason = next(iter(quarantine.reasons.values()))
        raise ValueError(f"none of the {len(used)} records can be used; the first: {reason}")
    return found[inverse.ravel()]


def _lengths_of(source: RecordSource, record: int, spec: SequenceSpec) -> tuple[int, int, int]:
    """Lengths of one record; from its outline where the source has one without pixels."""
    read = getattr(source, "outline", source.__getitem__)
    return record_lengths(read(record), spec)


def _cache_path(directory, source: RecordSource, records: np.ndarray, spec: SequenceSpec):
    """File of the lengths of these records under this spec; None without a directory."""
    if not directory:
        return None
    same = dataclasses.replace(spec, dropout=(0.0, 0.0, 0.0), weighting="token")
    key = hashlib.sha256(repr(source).encode() + pickle.dumps(same))
    key.update(np.ascontiguousarray(records, "<i8").tobytes())
    return Path(directory) / f"lengths-{key.hexdigest()[:16]}.npy"


def _known_lengths(source: RecordSource, records: np.ndarray, path: Path | None):
    """Lengths int [n, 3] that the source brings along or that an earlier run kept, or None."""
    if hasattr(source, "lengths"):
        return source.lengths()[records]
    if path is None or not path.exists():
        return None
    try:
        known = np.load(path)
    except (ValueError, EOFError):
        return None
    return known if known.shape == (len(records), 3) else None


def _agree(known: np.ndarray, source, records: np.ndarray, spec: SequenceSpec) -> bool:
    """Whether some records, evenly spread, still have the known lengths."""
    if not known.any(1).all():
        return False
    for row in np.unique(np.linspace(0, len(records) - 1, _SPOT_CHECKS).astype(int)):
        try:
            if _lengths_of(source, int(records[row]), spec) != tuple(known[row].tolist()):
                return False
        except (RecordError, OSError):
            return False
    return True


def _save(path: Path, lengths: np.ndarray) -> None:
    """Writes the file whole; a reader never sees a part."""
    with atomic.replacing(path, shared=True) as part:
        np.save(part, lengths)
