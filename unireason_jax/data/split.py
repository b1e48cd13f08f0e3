"""Held-out records of a source, chosen by their ids: the same ones for every run and machine.

A record is held out or not whatever else the folder holds, so that a folder may grow. The records
that are drawn from one row of a file (`id@visit`) stay together.
"""

import dataclasses
import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from unireason_jax.data.mixture import RecordSource
from unireason_jax.data.records import Record, RecordError
from unireason_jax.storage import arrays, atomic, paths

_VISIT = re.compile(r"@\d+$")
_WHOLE = 2**64


@dataclasses.dataclass(frozen=True)
class Part:
    """Some records of a source; what the source knows of all of them, it knows of these.

    Attributes:
      source: of all records.
      held_out: whether these are the held-out ones.
      index: int64 [n], their numbers in the source.
    """

    source: Any
    held_out: bool
    index: np.ndarray

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        return self.source[int(self.index[index])]

    @property
    def lengths(self) -> Callable[[], np.ndarray]:
        """As the source's. AttributeError where it has none."""
        known = self.source.lengths
        return lambda: known()[self.index]

    @property
    def manifest(self) -> dict[str, Any]:
        """Of the prepared folder. AttributeError where there is none."""
        return self.source.manifest

    @property
    def folder(self) -> Path:
        """The prepared folder. AttributeError where there is none."""
        return self.source.folder

    def __repr__(self) -> str:
        digest = hashlib.sha256(np.ascontiguousarray(self.index, "<i8").tobytes()).hexdigest()
        return f"Part({self.source!r}, {'held out' if self.held_out else 'kept'}, {digest[:16]})"


def part(source: RecordSource, share: float, *, held_out: bool) -> Part:
    """The held-out records of a source, about `share` of them and at least one, or all others.

    Args:
      source: at least two records.
      share: in (0, 1).
      held_out: which of the two parts.

    Raises:
      ValueError: a share that cannot be, or fewer than two records.
    """
    if not 0 < share < 1:
        raise ValueError(f"a held-out share of {share} is not between 0 and 1")
    places = _places(source)
    chosen = places < share * _WHOLE
    if not chosen.any():
        chosen = places == places.min()
    if chosen.all():
        chosen = places != places.max()
    if chosen.all() or not chosen.any():
        name = getattr(source, "folder", repr(source))
        raise ValueError(
            f"{name} has {len(source)} record(s), too few to hold any out; add records, or set "
            "--config.data.held_out_share=0 --config.eval.every=0"
        )
    return Part(source, held_out, np.flatnonzero(chosen == held_out))


def _places(source: RecordSource) -> np.ndarray:
    """A number in [0, 2**64) for every record, uint64 [n], from its id; kept beside a prepared
    folder, where it is read but once."""
    file = _file(source)
    if file and file.exists():
        try:
            known = np.asarray(arrays.read(file))
            if known.shape == (len(source),) and known.dtype == np.uint64:
                return known
        except (OSError, TypeError, ValueError):
            pass  # found anew
    found = np.fromiter(map(_place, _ids(source)), np.uint64, len(source))
    if file:
        with atomic.replacing(file, shared=True) as unfinished:
            np.save(unfinished, found)
    return found


def _file(source: RecordSource) -> Path | None:
    folder = getattr(source, "folder", None)
    if folder is None or not paths.may_write(folder):
        return None
    key = hashlib.sha256(repr(source).encode()).hexdigest()[:16]
    return folder / "plans" / f"ids-{key}.npy"


def _ids(source: RecordSource):
    for index in range(len(source)):
        try:
            yield source[index].id
        except (RecordError, OSError):
            yield str(index)  # is told where it is trained on


def _place(name: str) -> int:
    text = _VISIT.sub("", name).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "little")
