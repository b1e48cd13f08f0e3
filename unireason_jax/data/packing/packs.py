"""Which records share a row: packs, planned before training from lengths alone, and kept on disk.

A row has one budget per stream (text, vit, latent), so packing is a vector bin-packing problem.
BAGEL's training packer draws records until one number overflows, lets mandatory groups overrun its
limit and drops what does not fit. Here the packs are planned offline: every record is in exactly
one pack, no pack exceeds any budget, a row's quotas are chosen first and filled up beside, and the
fill of every stream is reported. The search itself is in `bin_search`; `blocks` shares it among
processes where there are many records.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from unireason_jax.data.packing import blocks
from unireason_jax.data.packing.bin_search import stratified_order
from unireason_jax.data.randomness import generator
from unireason_jax.data.rows import Budgets
from unireason_jax.data.samples import STREAMS
from unireason_jax.storage import arrays, atomic, paths

VERSION = 1  # part of cached packs' key: raise it when the planner's choices change
_TOLD = 50_000  # records from which on a bar tells how long planning takes
_PIECE = 2**20  # lengths that are hashed at a time
_MORE = 1.05  # packs that may be needed beyond those that a perfect fill would take


@dataclasses.dataclass(frozen=True)
class Quotas:
    """How many records of which group a row holds at least (BAGEL's "mandatory groups").

    Attributes:
      groups: int [n], group of every record.
      least: records by group; groups without an entry are free.
    """

    groups: np.ndarray
    least: Mapping[int, int]

    def subset(self, records: np.ndarray) -> "Quotas":
        """The same for some of the records, renumbered in their order."""
        return Quotas(self.groups[records], self.least)

    def check(self, order: np.ndarray) -> None:
        """Whether the records `order` can meet the quotas at all.

        Raises:
          ValueError: a group has fewer records than its quota.
        """
        for group, least in self.least.items():
            members = np.count_nonzero(self.groups[order] == group)
            if least < 1 or members < least:
                raise ValueError(
                    f"group {group} has {members} records for a quota of {least} in every "
                    "row; give a quota from 1 to what there is"
                )

    def bundles(
        self, order: np.ndarray, lengths: np.ndarray, limit: np.ndarray
    ) -> tuple[list[np.ndarray], np.ndarray]:
        """Bundles of records that meet the quotas, one for each row, and the records left.

        A group that is too small for every row is missing from the last bundles.

        Args:
          order: int [n], the records to pack, in the order of packing.
          lengths: int [records, 3], tokens of every record by stream.
          limit: int [3], the row's budgets.

        Returns:
          Arrays of records, evenly spread over the order, and the rest of `order`.

        Raises:
          ValueError: no bundle fits a row.
        """
        share = lengths[order].sum(0) / np.maximum(limit, 1)
        rows = int(np.ceil(share.max() * _MORE)) + 1
        bundles: list[list[np.ndarray]] = [[] for _ in range(rows)]
        for group, least in self.least.items():
            members = order[self.groups[order] == group]
            count = min(rows, len(members) // least)
            spread = np.arange(count * least) * len(members) // max(count * least, 1)
            for bundle, part in zip(bundles, members[spread].reshape(count, least)):
                bundle.append(part)
        whole = [np.concatenate(bundle) for bundle in bundles if bundle]
        kept = [bundle for bundle in whole if (lengths[bundle].sum(0) <= limit).all()]
        if whole and not kept:
            raise ValueError(
                f"a row's quotas need {lengths[whole[0]].sum(0).tolist()} tokens (text, vit, "
                f"latent) but its budgets are {limit.tolist()}; raise the budgets or lower the "
                "quotas"
            )
        return kept, order[~np.isin(order, np.concatenate([order[:0], *kept]))]

    def unmet(self, members: np.ndarray, offsets: np.ndarray) -> int:
        """Packs (see `PackPlan`) that hold fewer records of a group than its quota."""
        short = np.zeros(len(offsets) - 1, bool)
        for group, least in self.least.items():
            found = np.cumsum(np.append(0, self.groups[members] == group))
            short |= np.diff(found[offsets]) < least
        return int(short.sum())


@dataclasses.dataclass(frozen=True)
class PackPlan:
    """Packs as ragged lists of record indices, with the fill they reach.

    Attributes:
      budgets: tokens of a row by stream.
      members: int [records planned], record indices pack after pack.
      offsets: int64 [packs + 1], pack i is members[offsets[i]:offsets[i + 1]].
      oversized: int indices of records longer than a budget (in no pack; quarantine them).
      fill: tokens / budget by stream over all packs, float64 [3]; 1.0 for a budget of 0.
      fill_steady: the same without the packs built after the last record entered the pool.
      staleness: most packs any record waited in the pool of its block (at most the window).
      unmet: packs without all the records that quotas ask for.
    """

    budgets: Budgets
    members: np.ndarray
    offsets: np.ndarray
    oversized: np.ndarray
    fill: np.ndarray
    fill_steady: np.ndarray
    staleness: int
    unmet: int = 0

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def pack(self, index: int) -> np.ndarray:
        """Record indices of pack `index`."""
        return self.members[self.offsets[index] : self.offsets[index + 1]]

    def report(self) -> dict:
        """Plain numbers for logs and benchmarks."""
        return {
            "packs": len(self),
            "records": len(self.members),
            "oversized": len(self.oversized),
            "records_per_pack": len(self.members) / max(1, len(self)),
            "budgets": dataclasses.asdict(self.budgets),
            "und_per_gen": self.budgets.und / max(1, self.budgets.latent),
            "fill": dict(zip(STREAMS, map(float, self.fill))),
            "fill_steady": dict(zip(STREAMS, map(float, self.fill_steady))),
            "staleness": self.staleness,
            "unmet": self.unmet,
        }


def plan_packs(
    lengths: np.ndarray,
    budgets: Budgets,
    *,
    window: int = 512,
    seed: int = 0,
    quotas: Quotas | None = None,
    processes: int = 1,
    quiet: bool = True,
) -> PackPlan:
    """Plans which records share a row.

    Args:
      lengths: int [n, 3] tokens of every record by stream (text, vit, latent), before dropout.
      budgets: tokens of a row by stream.
      window: open records; also the most packs a record can wait after it became a candidate.
      seed: decides the order of records and the search; same inputs, same plan, anywhere.
      quotas: records that every row holds at least, as long as there are any.
      processes: that pack the blocks of many records; the plan does not depend on it.
      quiet: show no bar where it takes long.

    Returns:
      A `PackPlan`; records longer than a budget are listed in `oversized`.

    Raises:
      ValueError: for lengths of another shape, negative lengths, empty records or no record, and
        for quotas that no row can meet.
      RuntimeError: a process died.
    """
    lengths = checked_lengths(lengths)
    if window < 1:
        raise ValueError(f"window must be >= 1, not {window}")
    limit = budgets.array()
    fits = (lengths <= limit).all(1)
    planned, oversized = (np.flatnonzero(some).astype(np.int32) for some in (fits, ~fits))
    ours = lengths if len(planned) == len(lengths) else lengths[planned]
    total = ours.sum(0, dtype=np.int64)
    rng = generator(seed, VERSION)
    order = planned[stratified_order(ours, rng)]
    del ours, planned, fits
    if quotas:
        quotas.check(order)
    rows = blocks.Rows(limit, total / np.maximum(limit, 1), window)
    quiet = quiet or len(order) < _TOLD
    with tqdm(total=len(order), desc="planning packs", unit=" records", disable=quiet) as bar:
        seeds, how = (seed, VERSION), {"processes": processes, "tell": bar.update}
        parts = list(blocks.pack_stream(rows, lengths, order, quotas, rng, seeds, **how))
    late, steady = np.zeros(3, np.int64), sum(part.steady for part in parts)
    for part in parts if steady else ():
        late += lengths[part.members[part.sizes[: part.steady].sum() :]].sum(0, dtype=np.int64)
    members = np.concatenate([part.members for part in parts])
    offsets = np.cumsum(np.concatenate([[0], *(part.sizes for part in parts)]), dtype=np.int64)
    count = len(offsets) - 1
    return PackPlan(
        budgets=budgets,
        members=members,
        offsets=offsets,
        oversized=oversized,
        fill=_fill(total, count, limit),
        fill_steady=_fill(total - late, steady or count, limit),
        staleness=max(part.staleness for part in parts),
        unmet=quotas.unmet(members, offsets) if quotas else 0,
    )


def checked_lengths(lengths: np.ndarray) -> np.ndarray:
    """Lengths as int64 [n, 3], or int32 if they are; or a ValueError that says what is wrong."""
    lengths = np.asarray(lengths)
    if lengths.ndim != 2 or lengths.shape[1] != 3 or lengths.dtype.kind not in "iu":
        raise ValueError(
            f"lengths must be integers [records, 3] (text, vit, latent), "
            f"not {lengths.dtype} {list(lengths.shape)}"
        )
    if len(lengths) == 0:
        raise ValueError("the data set is empty: no record to pack")
    if (bad := np.flatnonzero((lengths < 0).any(1) | (lengths.sum(1) == 0))).size:
        raise ValueError(
            f"record {bad[0]} has lengths {lengths[bad[0]].tolist()} (text, vit, latent): "
            f"lengths must be >= 0 and not all 0; {bad.size} such record(s)"
        )
    return lengths if lengths.dtype == np.int32 else lengths.astype(np.int64)


def fill_told(fill: np.ndarray, budgets: Budgets) -> str:
    """How full the streams are that have room in a row: "text 99.2%, latent 98.0%"."""
    used = [(stream, share) for stream, share in zip(STREAMS, fill) if getattr(budgets, stream)]
    return ", ".join(f"{stream} {share:.1%}" for stream, share in used)


def _fill(tokens: np.ndarray, packs: int, limit: np.ndarray) -> np.ndarray:
    """Tokens / budget by stream; 1.0 where the budget is 0 or there is no pack."""
    capacity = packs * limit
    return np.where(capacity > 0, tokens / np.maximum(capacity, 1), 1.0)


def plan_key(
    lengths: np.ndarray,
    budgets: Budgets,
    *,
    window: int,
    seed: int,
    quotas: Quotas | None = None,
) -> str:
    """Hash of everything a plan depends on: 16 hexadecimal digits."""
    settings = [dataclasses.asdict(budgets), window, seed, VERSION, list(lengths.shape)]
    digest = hashlib.sha256(json.dumps(settings, default=int).encode())
    for start in range(0, len(lengths), _PIECE):
        digest.update(np.ascontiguousarray(lengths[start : start + _PIECE], "<i8"))
    if quotas:
        digest.update(repr(sorted(quotas.least.items())).encode())
        digest.update(np.ascontiguousarray(quotas.groups, "<i8"))
    return digest.hexdigest()[:16]


def cached_plan(
    lengths: np.ndarray,
    budgets: Budgets,
    directory: str | Path,
    *,
    window: int = 512,
    seed: int = 0,
    quotas: Quotas | None = None,
    **how: Any,
) -> PackPlan:
    """`plan_packs`, kept as `<directory>/plan-<key>.npz` and read from there the next time.

    A file that cannot be read is planned and written again; `how` says how it is made.
    """
    key = plan_key(np.asarray(lengths), budgets, window=window, seed=seed, quotas=quotas)
    path = paths.of(directory) / f"plan-{key}.npz"
    if path.exists():
        try:
            return load_plan(path)
        except (KeyError, TypeError, ValueError):
            path.unlink(missing_ok=True)
    plan = plan_packs(lengths, budgets, window=window, seed=seed, quotas=quotas, **how)
    save_plan(plan, path)
    return plan


def save_plan(plan: PackPlan, path: str | Path) -> None:
    """Writes a plan as one npz file; a reader never sees half of it."""
    with atomic.replacing(path, shared=True) as part:
        np.savez(
            part,
            budgets=plan.budgets.array(),
            members=plan.members,
            offsets=plan.offsets,
            oversized=plan.oversized,
            fill=plan.fill,
            fill_steady=plan.fill_steady,
            staleness=plan.staleness,
            unmet=plan.unmet,
        )


def load_plan(path: str | Path) -> PackPlan:
    """Reads what `save_plan` wrote; KeyError, TypeError or ValueError where it is damaged."""
    data = arrays.read(path)
    return PackPlan(
        budgets=Budgets(*map(int, data["budgets"])),
        members=data["members"],
        offsets=data["offsets"],
        oversized=data["oversized"],
        fill=data["fill"],
        fill_steady=data["fill_steady"],
        staleness=int(data["staleness"]),
        unmet=int(data["unmet"]),
    )
