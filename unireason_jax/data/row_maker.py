"""Rows of a run, made by whoever is asked: the records of a pack, rendered and put together.

A worker process needs to know which records a pack holds, where they are and how long they may be.
For many records that is much: it is in a file that all processes of a machine map, and what a
worker is sent is the path.
"""

import dataclasses
import hashlib
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from unireason_jax.data.bagel.tokens import SampleSpec
from unireason_jax.data.mixture import Mixture
from unireason_jax.data.packing.packs import PackPlan
from unireason_jax.data.randomness import generator
from unireason_jax.data.record_tokens import tokenize
from unireason_jax.data.records import RecordError
from unireason_jax.data.rows import Budgets, assemble, count
from unireason_jax.data.samples import STREAMS, Sample
from unireason_jax.storage import arrays, atomic


@dataclasses.dataclass(frozen=True)
class RowMaker:
    """(index of a row in the run, pack) -> row; picklable, so that workers can run it.

    Attributes:
      mixture: the examples of an epoch.
      lengths: int [n, 3], tokens of every example by stream, as planned.
      plan: which examples share a row.
      spec: how a record becomes tokens.
      seed: of all randomness of examples.
      slots: most records in a pack.
      room: tokens of a row: the plan's budgets or a little more.
      file: holds the arrays, see `mapped`; None while they are in memory.
    """

    mixture: Mixture
    lengths: np.ndarray
    plan: PackPlan
    spec: SampleSpec
    seed: int
    slots: int
    room: Budgets
    file: Path | None = None

    def __call__(self, index: int, pack: int) -> dict[str, np.ndarray]:
        """The row's arrays, plus notes for `Pipeline`: `_epoch`, `_records`, `_counts` (see
        `rows.count`) and `_failed`, the examples that could not be used (filled up with -1)."""
        epoch = index // len(self.plan)
        samples, failed = [], np.full(self.slots, -1, np.int64)
        for slot, example in enumerate(self.plan.pack(pack).tolist()):
            try:
                samples.append(self.sample(example, epoch))
            except (RecordError, OSError):
                failed[slot] = example
        kinds = {"by_codes": self.spec.by_codes}
        row = assemble(samples, self.room, self.spec.patch_sizes, **kinds)
        notes = {"_epoch": np.int64(epoch), "_failed": failed, "_counts": count(row)}
        return row | notes | {"_records": np.int64(len(self.plan.pack(pack)))}

    def sample(self, example: int, epoch: int) -> Sample:
        """The sample of one example, made with its own generator.

        Raises:
          RecordError or OSError: the record cannot be rendered, or is longer than planned.
        """
        rng = generator(self.seed << 32 | int(epoch), example)
        record = self.mixture[example]
        sample = tokenize(record, self.spec, rng)
        for stream, found, planned in zip(STREAMS, sample.lengths, self.lengths[example]):
            if found > planned:
                reason = f"has {found} {stream} tokens, planned were {planned}; plan again"
                raise RecordError(record.id, None, reason)
        return sample

    @cached_property
    def digest(self) -> str:
        """Hash of which examples there are and which share a row: 16 hexadecimal digits."""
        digest = hashlib.sha256()
        for name, array in _arrays(self).items():
            digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array))
        return digest.hexdigest()[:16]

    def mapped(self, folder: Path) -> "RowMaker":
        """Itself with its arrays in `<folder>/rows-<digest>.npz`, which stays there.

        Whatever is pickled of it holds the file's path in their place.
        """
        file = folder.absolute() / f"rows-{self.digest}.npz"
        try:
            found = arrays.mapped(file, checked=True)
        except (FileNotFoundError, ValueError):
            with atomic.replacing(file, shared=True) as part:
                np.savez(part, **_arrays(self))
            found = arrays.mapped(file)
        return dataclasses.replace(self, **_parts(self.mixture, self.plan, found), file=file)

    def __getstate__(self) -> dict[str, Any]:
        state = {name: value for name, value in self.__dict__.items() if name != "digest"}
        if self.file:
            state |= _parts(self.mixture, self.plan, dict.fromkeys(_arrays(self)))
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        if file := state["file"]:
            state = state | _parts(state["mixture"], state["plan"], arrays.mapped(file))
        self.__dict__.update(state)


def _arrays(maker: RowMaker) -> dict[str, np.ndarray]:
    """What grows with the data, by name; plans of earlier versions hold wider numbers."""
    return {
        "index": maker.mixture.index,
        "lengths": maker.lengths,
        "members": np.asarray(maker.plan.members, np.int32),
        "offsets": maker.plan.offsets,
        "oversized": np.asarray(maker.plan.oversized, np.int32),
    }


def _parts(mixture: Mixture, plan: PackPlan, found: dict[str, np.ndarray]) -> dict[str, Any]:
    """The fields of a `RowMaker` that hold arrays, with these in them."""
    packs = {name: found[name] for name in ("members", "offsets", "oversized")}
    return {
        "mixture": dataclasses.replace(mixture, index=found["index"]),
        "lengths": found["lengths"],
        "plan": dataclasses.replace(plan, **packs),
    }
