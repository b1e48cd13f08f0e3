"""From records to batches: pack, shuffle, tokenize, assemble, prefetch; resumable anywhere.

    mixture -> lengths -> pack plan -> shuffled packs, epoch after epoch -> rows -> local batch

Everything before rendering is a function of the data and the seed, and the position in the run is
one integer: the number of rows that the whole job has consumed. Any number of hosts and workers
continues from it with the same global batches (as sets of rows). All randomness of an example
(dropout, timestep, noise seed, posterior sample) comes from one generator keyed by (seed, epoch,
example), never by row or host.
"""

import contextlib
import dataclasses
import tempfile
import time
import weakref
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import grain
import numpy as np
from absl import flags

from unireason_jax.data import worker_processes
from unireason_jax.data.bagel.tokens import SampleSpec
from unireason_jax.data.mixture import Mixture, RecordSource, mix
from unireason_jax.data.packing.budget_advice import advise_budgets
from unireason_jax.data.packing.lengths import measure
from unireason_jax.data.packing.packs import PackPlan, Quotas, cached_plan, fill_told, plan_packs
from unireason_jax.data.quarantine import Quarantine
from unireason_jax.data.records import RecordError
from unireason_jax.data.row_maker import RowMaker
from unireason_jax.data.rows import COUNTS, Budgets, row_spec
from unireason_jax.data.samples import STREAMS
from unireason_jax.storage import paths

_STATE = "next_row"
_REMOTE = 16  # threads that wait for records of a bucket
_TRIAL = 64  # records rendered before a majority of failures stops the run


class _LocalRows(grain.MapDataset):
    """Some places of every batch of a stream of rows.

    Args:
      stream: all rows of the run.
      first: the row that the first batch begins with.
      rows: rows of a batch.
      places: those of them that are kept.
    """

    def __init__(self, stream: grain.MapDataset, first: int, rows: int, places: tuple[int, ...]):
        super().__init__(stream)
        self._stream, self._first, self._rows, self._places = stream, first, rows, places

    def __len__(self) -> int:
        return (len(self._stream) - self._first) // self._rows * len(self._places)

    def __getitem__(self, index: int) -> Any:
        batch, place = divmod(index, len(self._places))
        return self._stream[self._first + batch * self._rows + self._places[place]]


class Pipeline:
    """An endless iterator over this process's part of the global batches.

    `next` gives a dict of NumPy arrays [local rows, ...] (see `row_spec`). Rows are made ahead of
    time by threads, or by `workers` processes.

    Attributes:
      plan: the `PackPlan` in use.
      budgets: tokens of a row by stream.
      quarantine: records that failed, with reasons.
      counts: what the last local batch really held, by the names of `rows.COUNTS`.
    """

    def __init__(
        self,
        sources: Mapping[str, RecordSource],
        spec: SampleSpec,
        *,
        budgets: Budgets | int,
        rows: int,
        seed: int = 0,
        weights: Mapping[str, float] | None = None,
        examples: int | None = None,
        quotas: Mapping[str, int] | None = None,
        window: int = 512,
        multiple: int = 1,
        process: int = 0,
        processes: int = 1,
        places: Iterable[int] | None = None,
        workers: int = 0,
        prefetch: int = 4,
        cache: str | Path | None = None,
        quarantine: str | Path | None = None,
        fresh: bool = False,
    ):
        """Measures the records and plans the packs; nothing is rendered yet.

        Args:
          sources: random-access sources of records by name.
          spec: how a record becomes tokens.
          budgets: tokens of a row by stream, or their wished sum (see `advise_budgets`).
          rows: rows of the global batch.
          seed: of mixture, plan, shuffle and all randomness of examples.
          weights, examples: see `mixture.mix`.
          quotas: records of a source, by name, that every row holds at least.
          window: see `packs.plan_packs`.
          multiple: every stream of a row is padded to a multiple of this, so that as many devices
            can share it; who is in a row does not depend on it.
          process, processes: number of this process and of all; they name its quarantine file.
          places: rows of the global batch that this process feeds, ascending (several processes
            may feed one); None for every `processes`-th from number `process` on.
          workers: processes that make rows; 0 makes them in threads of this process.
          prefetch: batches made ahead (per worker where there are workers).
          cache: folder where lengths and plan are kept between runs.
          quarantine: JSON-lines file for records that fail; further processes write beside it.
          fresh: no run is resumed, so what that file holds is of another one.

        Raises:
          ValueError: rows do not divide, sources are empty, or no record is usable.
        """
        if rows < 1 or (places is None and rows % processes):
            raise ValueError(
                f"rows={rows} must be a positive multiple of the {processes} processes"
            )
        if not 0 <= seed < 2**32:
            raise ValueError(f"seed must be in [0, 2**32), not {seed}")
        self.rows = rows
        self._places = tuple(range(process, rows, processes) if places is None else places)
        self.local_rows = len(self._places)
        self.quarantine = Quarantine()
        mixture = mix(sources, weights=weights, examples=examples, seed=seed)
        lengths = measure(mixture, spec, self.quarantine, directory=cache, quiet=process > 0)
        usable = np.flatnonzero(lengths.any(1))
        if not isinstance(budgets, Budgets):
            budgets = advise_budgets(lengths[usable], budgets, seed=seed).budgets
        self.budgets, self.spec = budgets, spec
        settings = {"window": window, "seed": seed, "quotas": _quotas(mixture, usable, quotas)}
        how = {"processes": worker_processes.processors(), "quiet": process > 0}
        self.plan = self._plan(mixture, lengths, usable, settings | how, cache)
        found = self.quarantine.entries()  # each process has measured every record
        parts = {"process": process, "processes": processes, "fresh": fresh}
        self.quarantine = Quarantine(quarantine, **parts)
        for entry in found if process == 0 else ():
            self.quarantine.add(*entry)
        self.quarantine.know(found)
        slots = int(np.diff(self.plan.offsets).max())
        self._room = budgets.rounded(multiple)
        self._maker = RowMaker(mixture, lengths, self.plan, spec, seed, slots, self._room)
        if workers:
            self._maker = self._maker.mapped(self._shared_folder(cache))
            self.plan = self._maker.plan
        packs = grain.MapDataset.range(len(self.plan)).seed(seed).shuffle().repeat()
        self.counts = dict.fromkeys(COUNTS, 0)
        self._all_rows = packs.map_with_index(self._maker)
        threads = _threads(sources)
        ahead = max(threads, prefetch, 1)
        self._read = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)
        self._workers = _workers(workers, prefetch)
        self._batches: grain.DatasetIterator | None = None
        self._next_row = 0
        self._tokens = np.zeros(3, np.int64)
        self._packs = self._packs_here = self._failures = self._records = 0
        self._waited = 0.0
        self._started: float | None = None

    def _plan(self, mixture, lengths, usable, settings, cache) -> PackPlan:
        """The plan over usable examples; what is too long for a row is quarantined."""
        ours = lengths if len(usable) == len(lengths) else lengths[usable]
        if cache:
            plan = cached_plan(ours, self.budgets, cache, **settings)
        else:
            plan = plan_packs(ours, self.budgets, **settings)
        limit = self.budgets.array()
        for example in usable[plan.oversized].tolist():
            stream = int((lengths[example] > limit).argmax())
            source, record = mixture.index[example].tolist()
            self.quarantine.add(
                mixture.names[source],
                mixture.sources[source][record].id,
                f"{lengths[example, stream]} {STREAMS[stream]} tokens exceed the row's "
                f"{limit[stream]}; raise that budget or leave the record out",
            )
        if len(plan) == 0:
            reason = next(iter(self.quarantine.reasons.values()))
            raise ValueError(f"no record fits a row with {self.budgets}; the first: {reason}")
        if len(usable) == len(lengths):
            return plan
        usable = usable.astype(np.int32)
        return dataclasses.replace(
            plan, members=usable[plan.members], oversized=usable[plan.oversized]
        )

    def _shared_folder(self, cache: str | Path | None) -> Path:
        """Where workers map what they need: the cache, or a folder that goes with the pipeline."""
        if cache and paths.is_local(cache):
            return paths.of(cache)
        folder = tempfile.mkdtemp(prefix="unireason-rows-")
        weakref.finalize(self, paths.remove_tree, folder)
        return paths.of(folder)

    @property
    def digest(self) -> str:
        """Of the examples and their packs: the same in all processes of a run."""
        return self._maker.digest

    def __iter__(self) -> "Pipeline":
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        """The next local batch.

        Raises:
          ValueError: most records cannot be used; the message holds the last reason.
        """
        start = time.monotonic()
        self._started = self._started or start
        if self._batches is None:
            with worker_processes.born_deaf() if self._workers else contextlib.nullcontext():
                self._batches = self._from_here()
                batch = next(self._batches)
        else:
            batch = next(self._batches)
        self._waited += time.monotonic() - start
        self._next_row += self.rows
        self._packs += self.local_rows
        self._packs_here += self.local_rows
        counts = batch.pop("_counts").sum(0)
        self._tokens += counts[:3]
        self.counts = dict(zip(COUNTS, counts.tolist()))
        self._records += int(batch.pop("_records").sum())
        self._note_failures(batch.pop("_epoch"), batch.pop("_failed"))
        if self._workers:  # copies give the workers' shared memory back, whoever keeps a batch
            batch = {name: np.array(array) for name, array in batch.items()}
        return batch

    def _from_here(self) -> grain.DatasetIterator:
        """This process's batches from the position on; its processes start with the first one."""
        rows = _LocalRows(self._all_rows, self._next_row, self.rows, self._places)
        batches = rows.batch(self.local_rows, drop_remainder=True).to_iter_dataset(self._read)
        if self._workers:
            worker_processes.kill_at_exit()
            batches = batches.mp_prefetch(self._workers, worker_init_fn=worker_processes.begin)
        return iter(batches)

    def _note_failures(self, epochs: np.ndarray, failed: np.ndarray) -> None:
        mixture, reason = self._maker.mixture, ""
        for row, slot in np.argwhere(failed >= 0).tolist():
            example = int(failed[row, slot])
            source, record = mixture.index[example].tolist()
            self._failures += 1
            try:  # once more, in this process, for the reason
                self._maker.sample(example, int(epochs[row]))
                record_id, reason = mixture[example].id, "failed once, rendered the second time"
            except RecordError as error:
                record_id, reason = error.record_id, error.reason
            except OSError as error:
                record_id, reason = f"number {record}", str(error)
            self.quarantine.add(mixture.names[source], record_id, reason)
        if reason and self._records >= _TRIAL and self._failures > self._records / 2:
            raise ValueError(
                f"{self._failures} of the first {self._records} records failed; the last: {reason}"
            )

    def get_state(self) -> dict[str, int]:
        """Position in the run: the rows that all processes together have consumed."""
        return {_STATE: self._next_row}

    def set_state(self, state: Mapping[str, int]) -> None:
        """Continues behind a position that any number of processes and workers has saved.

        Raises:
          ValueError: the state is not one of `get_state`.
        """
        value = state.get(_STATE)
        if not isinstance(value, int | np.integer) or value < 0:
            raise ValueError(f"data state {dict(state)} has no '{_STATE}' >= 0; was it saved here?")
        self._next_row = int(value)
        self.close()

    def close(self) -> None:
        """Stops threads and workers."""
        if self._batches is not None:
            self._batches.close()
            self._batches = None

    def totals(self) -> dict[str, Any]:
        """What `stats` needs to go on counting in another process, as JSON."""
        return {"tokens": self._tokens.tolist(), "packs": self._packs}

    def restore(self, totals: Mapping[str, Any] | None) -> None:
        """Counts on from what an interrupted run has counted; some older ones have not."""
        if totals is None:
            return
        self._tokens = np.array(totals["tokens"], np.int64)
        self._packs = int(totals["packs"])

    def stats(self) -> dict[str, float]:
        """Numbers since the start of the run, for the metrics.

        `fill/<stream>` is what the rows really held (after dropout and failures) and
        `plan_fill/<stream>` what was planned; tokens and packs are of this process; `wait` is the
        seconds spent in `next` since this process started.
        """
        seconds = time.monotonic() - self._started if self._started else 0.0
        capacity = self._packs * self.budgets.array()
        numbers = {
            "packs": self._packs,
            "packs_per_second": self._packs_here / seconds if seconds else 0.0,
            "wait": self._waited,
            "quarantined": len(self.quarantine),
            "epoch": self._next_row / len(self.plan),
        }
        for stream, tokens, room, planned in zip(STREAMS, self._tokens, capacity, self.plan.fill):
            numbers[f"tokens/{stream}"] = int(tokens)
            numbers[f"fill/{stream}"] = float(tokens / room) if room else 1.0
            numbers[f"plan_fill/{stream}"] = float(planned)
        return numbers

    def fill_told(self) -> str:
        """How full the plan's rows are, by stream."""
        return fill_told(self.plan.fill, self.budgets)

    def batch_spec(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Shape and dtype of every array of the global batch, by name."""
        spec = row_spec(self._room, self.spec.patch_sizes, by_codes=self.spec.by_codes)
        return {name: ((self.rows, *shape), dtype) for name, (shape, dtype) in spec.items()}


def _quotas(mixture: Mixture, usable: np.ndarray, least: Mapping[str, int] | None) -> Quotas | None:
    """Quotas of the usable examples from quotas by the name of a source."""
    if not least:
        return None
    if unknown := [name for name in least if name not in mixture.names]:
        raise ValueError(f"no source named {unknown[0]!r} for a quota; there are {mixture.names}")
    by_number = {mixture.names.index(name): count for name, count in least.items()}
    return Quotas(mixture.index[usable, 0], by_number)


def _threads(sources: Mapping[str, RecordSource]) -> int:
    """Rows that are made at a time: one, but where every record is a request to a bucket, many."""
    places = (str(getattr(s, "folder", getattr(s, "path", ""))) for s in sources.values())
    return 1 if all(map(paths.is_local, places)) else _REMOTE


def _workers(workers: int, prefetch: int) -> grain.MultiprocessingOptions | None:
    """Options for worker processes; Grain reads an absl flag that needs parsed flags."""
    if not workers:
        return None
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    return grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=prefetch)
