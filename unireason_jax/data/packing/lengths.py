"""Tokens of all records of a mixture: known from an index, or measured once and kept."""

import concurrent.futures
import dataclasses
import hashlib
import multiprocessing
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from unireason_jax.data import worker_processes
from unireason_jax.data.bagel.tokens import SampleSpec
from unireason_jax.data.mixture import Mixture, RecordSource
from unireason_jax.data.quarantine import Quarantine
from unireason_jax.data.record_tokens import lengths as record_lengths
from unireason_jax.data.records import RecordError
from unireason_jax.storage import arrays, atomic, paths

PARALLEL_FROM = 50_000  # records that are worth processes of their own
_SPOT_CHECKS = 64  # records measured again before known lengths are believed
_CHUNK = 1024  # records that a process measures at a time
_FAILURES = (RecordError, OSError)


def measure(
    mixture: Mixture,
    spec: SampleSpec,
    quarantine: Quarantine,
    *,
    directory: str | Path | None = None,
    quiet: bool = False,
) -> np.ndarray:
    """Lengths of every example before dropout, int32 [n, 3]; 0, 0, 0 for unusable records.

    Each record is measured once however many examples it has. Lengths that a source brings along,
    or that `directory` holds from an earlier run, are believed if a spot check agrees.

    Args:
      mixture: the examples.
      spec: what turns a record into tokens.
      quarantine: book of the records that cannot be used.
      directory: where lengths are kept between runs.
      quiet: do not say what is measured and why.

    Raises:
      ValueError: no record is usable.
    """
    found, used = np.zeros((len(mixture), 3), np.int32), 0
    for number, (name, source) in enumerate(zip(mixture.names, mixture.sources)):
        rows = np.flatnonzero(mixture.index[:, 0] == number)
        records, inverse = np.unique(mixture.index[rows, 1], return_inverse=True)
        path = _cache_path(directory, source, records, spec)
        known = _known_lengths(source, records, spec, path)
        if known is None:
            known = _measured(name, source, records, spec, quiet=quiet)
            if path:
                _save(path, known)
        for row in np.flatnonzero(~known.any(1)).tolist():  # once more, for the reason
            record = int(records[row])
            try:
                known[row] = _lengths_of(source, record, spec)
            except RecordError as error:
                quarantine.add(name, error.record_id, error.reason)
            except OSError as error:
                quarantine.add(name, f"number {record}", str(error))
        used += len(records)
        found[rows] = known[inverse]
    if not found.any():
        reason = next(iter(quarantine.reasons.values()))
        raise ValueError(f"none of the {used} records can be used; the first: {reason}")
    return found


def _lengths_of(source: RecordSource, record: int, spec: SampleSpec) -> tuple[int, int, int]:
    """Lengths of one record; from its outline where the source has one without pixels."""
    read = getattr(source, "outline", source.__getitem__)
    return record_lengths(read(record), spec)


def _measured(
    name: str, source: RecordSource, records: np.ndarray, spec: SampleSpec, *, quiet: bool
) -> np.ndarray:
    """Lengths int32 [n, 3], zeros for what cannot be used; said where an index is of no use.

    Many records are shared by the processors of this machine.
    """
    has_index = hasattr(source, "lengths")
    if has_index and not quiet:
        print(
            f"{name}: its index was made with another tokenizer or for other image sizes; its "
            f"{len(records):,} records are measured again, once",
            file=sys.stderr,
        )
    found = np.zeros((len(records), 3), np.int32)
    silent = quiet or not (has_index or len(records) >= PARALLEL_FROM)
    with tqdm(total=len(records), desc=f"measuring {name}", disable=silent, unit=" rows") as bar:
        for start, lengths in _chunks(source, records, spec):
            found[start : start + len(lengths)] = lengths
            bar.update(len(lengths))
    return found


def _chunks(
    source: RecordSource, records: np.ndarray, spec: SampleSpec
) -> Iterator[tuple[int, np.ndarray]]:
    """(first row, lengths) of stretches of the records."""
    starts = range(0, len(records), _CHUNK)
    parts = (records[start : start + _CHUNK] for start in starts)
    processes = worker_processes.processors()
    if len(records) < PARALLEL_FROM or processes < 2:
        yield from zip(starts, (_stretch(part, source, spec) for part in parts))
        return
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(processes, spawn, _start, (source, spec)) as pool:
        yield from zip(starts, pool.map(_work, parts))


def _stretch(records: np.ndarray, source: RecordSource, spec: SampleSpec) -> np.ndarray:
    found = np.zeros((len(records), 3), np.int32)
    for row, record in enumerate(records.tolist()):
        try:
            found[row] = _lengths_of(source, record, spec)
        except _FAILURES:
            continue  # zeros; the reason is asked for later, in the main process
    return found


def _start(source: RecordSource, spec: SampleSpec) -> None:
    """What a process keeps for all its stretches."""
    global _kept
    _kept = (source, spec)


def _work(records: np.ndarray) -> np.ndarray:
    return _stretch(records, *_kept)


def _cache_path(directory, source: RecordSource, records: np.ndarray, spec: SampleSpec):
    """File of the lengths of these records under this spec; None without a directory."""
    if not directory:
        return None
    same = dataclasses.replace(spec, dropout=(0.0, 0.0, 0.0), weighting="token")
    key = hashlib.sha256(repr(source).encode() + pickle.dumps(same))
    key.update(np.ascontiguousarray(records, "<i8"))
    return paths.of(directory) / f"lengths-{key.hexdigest()[:16]}.npy"


def _known_lengths(
    source: RecordSource, records: np.ndarray, spec: SampleSpec, path: Path | None
) -> np.ndarray | None:
    """Lengths int32 [n, 3] that the source brings along, or that an earlier run kept."""
    if hasattr(source, "lengths"):
        try:
            known = source.lengths()[records].astype(np.int32)
            if _agree(known, source, records, spec):
                return known
        except (FileNotFoundError, ValueError) as error:
            print(f"{error}; the records are measured again", file=sys.stderr)
    if path is None or not path.exists():
        return None
    try:
        known = np.asarray(arrays.read(path)).astype(np.int32)
    except (OSError, TypeError, ValueError):
        return None
    agrees = known.shape == (len(records), 3) and _agree(known, source, records, spec)
    return known if agrees else None


def _agree(known: np.ndarray, source, records: np.ndarray, spec: SampleSpec) -> bool:
    """Whether some records, evenly spread over those that can be used, still have these lengths."""
    usable = np.flatnonzero(known.any(1))
    if not len(usable):
        return False
    for row in usable[np.unique(np.linspace(0, len(usable) - 1, _SPOT_CHECKS).astype(int))]:
        try:
            if _lengths_of(source, int(records[row]), spec) != tuple(known[row].tolist()):
                return False
        except _FAILURES:
            return False
    return True


def _save(path: Path, lengths: np.ndarray) -> None:
    """Writes the file whole; a reader never sees a part."""
    with atomic.replacing(path, shared=True) as part:
        np.save(part, lengths)
