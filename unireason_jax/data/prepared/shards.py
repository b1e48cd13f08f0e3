"""Folders of ArrayRecord shards, made one by one: parallel, resumable, always the same bytes.

A shard is a function of its task alone, so neither the number of processes nor an interruption
shows in the result. While a folder is being made, `unfinished/` holds what was asked for and a note
for every shard that is done; the manifest comes last, and with it the notes go (what was asked for
first: notes without it are those of a finished run).
"""

import concurrent.futures
import hashlib
import itertools
import json
import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from unireason_jax.data import worker_processes
from unireason_jax.data.quarantine import Reasons, brief
from unireason_jax.data.samples import STREAMS
from unireason_jax.storage import atomic, paths

MANIFEST = "manifest.json"
LENGTHS = "lengths.npy"
QUARANTINE = "quarantine.jsonl"
NOTES, _REQUEST = "unfinished", "request.json"
_READERS = 16  # of notes at a time; in a bucket each takes a moment


class Kept(NamedTuple):
    """A record for a shard: its bytes, its tokens by stream, and what it counts for."""

    data: bytes
    lengths: tuple[int, int, int]
    counts: tuple[str, ...] = ()


class Refused(NamedTuple):
    """A record for the quarantine, or `records` of them that are lost together."""

    source: str
    record: str
    reason: str
    records: int = 1

    def entry(self) -> dict[str, str | int]:
        """As the quarantine keeps it; the number only where it is not one."""
        entry = self._asdict()
        return entry if self.records != 1 else {k: entry[k] for k in self._fields[:3]}


Job = Callable[[Any], Iterable[Kept | Refused]]


def begin(
    folder: Path, request: dict[str, Any], *, overwrite: bool = False, joined: bool = False
) -> bool:
    """Opens a folder for `build`; returns whether an interrupted run of the same request goes on.

    Args:
      folder: new, or what a run has left there; files of others stay.
      request: everything that the result depends on, as JSON.
      overwrite: throw away what another run has made.
      joined: others with the same request work in it at this moment.

    Raises:
      FileExistsError: there is a finished result, or an interrupted run of another request.
    """
    notes = folder / NOTES
    if not joined:
        tidy(folder)
    begun = any(notes.glob("[0-9]*.json")) or (joined and is_unfinished(folder))
    if begun and not overwrite:
        if json.loads((notes / _REQUEST).read_text()) == json.loads(json.dumps(request)):
            return True
        raise FileExistsError(
            f"{folder} holds an interrupted run with other inputs or settings; repeat those to go "
            "on with it, or give --overwrite to start anew"
        )
    if (folder / MANIFEST).exists() and not overwrite:
        raise FileExistsError(
            f"{folder} already holds prepared data; give --overwrite to replace it"
        )
    if joined:  # all of them write the same
        atomic.write_text(notes / _REQUEST, json.dumps(request), shared=True)
        return True
    (folder / MANIFEST).unlink(missing_ok=True)  # first: without one nothing here is a result
    for path in folder.glob("records-*.array_record*"):
        path.unlink()
    for name in (LENGTHS, QUARANTINE):
        (folder / name).unlink(missing_ok=True)
    paths.remove_tree(notes)
    atomic.write_text(notes / _REQUEST, json.dumps(request))
    return False


def tidy(folder: Path) -> None:
    """Removes what killed processes have left half written; for who holds the folder's lock."""
    if not is_unfinished(folder):
        paths.remove_tree(folder / NOTES)
    for pattern in (".*.part.*", f"{NOTES}/.*.part.*", "*.part"):
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)


def is_unfinished(folder: Path) -> bool:
    """Whether a run has begun in a folder and not finished."""
    return (folder / NOTES / _REQUEST).is_file()


def is_made(folder: Path, about: dict[str, Any]) -> bool:
    """Whether a folder holds the finished result with these entries in its manifest."""
    path = folder / MANIFEST
    if is_unfinished(folder) or not path.is_file():
        return False
    return about.items() <= json.loads(path.read_text()).items()


def build(
    folder: Path,
    tasks: Sequence[tuple[Any, int]],
    job: Job,
    *,
    workers: int = 0,
    share: slice = slice(None),
    about: str,
) -> None:
    """Makes every shard that is not there yet, with a progress bar on stderr.

    Args:
      folder: opened by `begin`.
      tasks: what `job` is given for each shard, and the records that it must come to.
      job: yields the records of one task, in order; picklable where there are workers.
      workers: processes; 0 works in this one.
      share: the shards to make, where others make the rest.
      about: word before the bar.

    Raises:
      RuntimeError: a worker process died.
      ValueError: a job came to another number of records.
    """
    rows = [count for _, count in tasks]
    mine = range(len(tasks))[share]
    made = {path.name for path in (folder / NOTES).glob("[0-9]*.json")}
    todo = [number for number in mine if note(folder, number).name not in made]
    total = sum(rows[number] for number in mine)
    done = total - sum(rows[number] for number in todo)
    with tqdm(total=total, initial=done, desc=about, unit=" rows", smoothing=0.05) as bar:
        if not workers:
            for number in todo:
                found = _complete(job(tasks[number][0]), rows[number], bar.update)
                _make(folder, number, found)
            return
        for number in _in_processes(folder, todo, tasks, job, workers):
            bar.update(rows[number])


def finish(
    folder: Path, planned: Sequence[int], about: dict[str, Any], *, max_bad: float = 1.0
) -> dict[str, Any]:
    """Joins the notes of all shards into index, quarantine and manifest; returns the manifest.

    Args:
      folder: all its shards made.
      planned: records of each of the tasks that `build` was given.
      about: entries of the manifest beside those that follow from the shards.
      max_bad: part of the records that may be in quarantine.

    Raises:
      ValueError: no shard holds a record, or too many are in quarantine; the message has the first
        reasons.
      RuntimeError: there is not what was planned; nothing has been finished.
    """
    notes = _notes(folder)
    _compare(folder, notes, planned)
    shards, counts, quarantined, reasons = [], Counter(), 0, Reasons()
    lengths = []
    with atomic.replacing(folder / QUARANTINE) as part, part.open("w", encoding="utf-8") as book:
        for made in map(json.loads, notes.values()):
            for refused in itertools.starmap(Refused, made["refused"]):
                book.write(json.dumps(refused.entry()) + "\n")
                reasons.add(refused.reason, refused.records)
                quarantined += refused.records
            counts.update(made["counts"])
            if made["lengths"]:
                lengths.append(np.array(made["lengths"], np.int32))
                shards.append(made["shard"])
    if not lengths:
        _end(folder)
        raise ValueError(
            f"no record can be used: {reasons}; every reason is in {folder / QUARANTINE}"
        )
    table = np.concatenate(lengths)
    share = quarantined / (quarantined + len(table))
    if share > max_bad:
        raise ValueError(
            f"{share:.1%} of the records cannot be used: {reasons}; every reason is in "
            f"{folder / QUARANTINE}; mend them, or run again with a larger --max_bad than {max_bad}"
        )
    with atomic.replacing(folder / LENGTHS) as part:
        np.save(part, table)
    manifest = {
        "version": 1,
        "records": len(table),
        "bytes": sum(shard["bytes"] for shard in shards),
        "shards": shards,
        "key": hashlib.sha256("".join(s["sha256"] for s in shards).encode()).hexdigest()[:16],
        **about,
        "tokens": dict(zip(STREAMS, table.sum(0, dtype=np.int64).tolist())),
        "statistics": {s: _statistics(table[:, i]) for i, s in enumerate(STREAMS)},
        "quarantined": quarantined,
        "reasons": str(reasons),
        "counts": dict(sorted(counts.items())),
    }
    atomic.write_text(folder / MANIFEST, json.dumps(manifest, indent=1))
    _end(folder)
    return manifest


def _notes(folder: Path) -> dict[str, bytes]:
    """The notes of the shards that are done, by name, in order."""
    found = sorted((folder / NOTES).glob("[0-9]*.json"))
    with concurrent.futures.ThreadPoolExecutor(_READERS) as pool:
        return dict(zip((path.name for path in found), pool.map(lambda p: p.read_bytes(), found)))


def _compare(folder: Path, notes: Mapping[str, bytes], planned: Sequence[int]) -> None:
    """Raises RuntimeError where shards and their notes are not what was planned."""
    wanted = {note(folder, number).name: rows for number, rows in enumerate(planned)}
    wrong = [
        f"the note of shard {int(name[:-5])} is missing" for name in wanted.keys() - notes.keys()
    ]
    wrong += [f"shard {int(name[:-5])} was not planned" for name in notes.keys() - wanted.keys()]
    present = paths.sizes(folder, "records-*.array_record")
    for name in sorted(wanted.keys() & notes.keys()):
        found = json.loads(notes[name])
        shard, refused = found["shard"], itertools.starmap(Refused, found["refused"])
        rows = len(found["lengths"]) + sum(one.records for one in refused)
        if rows != wanted[name]:
            wrong.append(f"shard {int(name[:-5])} is of {rows} records instead of {wanted[name]}")
        size = present.pop(shard["file"], None)
        if size is None and shard["records"]:
            wrong.append(f"{shard['file']} is missing")
        elif size is not None and size != shard["bytes"]:
            wrong.append(f"{shard['file']} has {size} bytes instead of {shard['bytes']}")
    wrong += [f"{name} was not planned" for name in sorted(present)]
    if wrong:
        raise RuntimeError(
            f"{folder} does not hold the {len(planned)} shards that were planned: "
            f"{'; '.join(sorted(wrong)[:3])}; something else has written here: run the command "
            "again with --overwrite"
        )


def _end(folder: Path) -> None:
    """Takes the notes away; `tidy` does it where this process is killed meanwhile."""
    (folder / NOTES / _REQUEST).unlink()
    paths.remove_tree(folder / NOTES)


def _statistics(tokens: np.ndarray) -> dict[str, float]:
    p50, p99 = np.percentile(tokens, [50, 99])
    return {
        "mean": float(tokens.mean()),
        "median": float(p50),
        "p99": float(p99),
        "max": int(tokens.max()),
    }


def _make(folder: Path, number: int, found: Iterable[Kept | Refused]) -> None:
    """One shard and, last, its note."""
    from array_record.python.array_record_module import ArrayRecordWriter

    name = f"records-{number:05}.array_record"
    lengths, refused, counts = [], [], Counter()
    with atomic.replacing(folder / name) as part:
        writer = ArrayRecordWriter(str(part), "group_size:1")
        for entry in found:
            if isinstance(entry, Refused):
                record, reason = brief(entry.record), brief(entry.reason)
                refused.append(entry._replace(record=record, reason=reason))
                continue
            writer.write(entry.data)
            lengths.append(entry.lengths)
            counts.update(entry.counts)
        writer.close()
        shard = {"file": name, "records": len(lengths), "bytes": part.stat().st_size}
        with part.open("rb") as file:
            shard["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
    if not lengths:
        (folder / name).unlink()
    told = {"shard": shard, "lengths": lengths, "refused": refused, "counts": counts}
    atomic.write_text(note(folder, number), json.dumps(told))


def _complete(
    found: Iterable[Kept | Refused], records: int, tell: Callable[[int], Any] = lambda _: None
) -> Iterator[Kept | Refused]:
    """What was found, told one by one; raises ValueError where it does not make up `records`."""
    seen = 0
    for entry in found:
        yield entry
        count = entry.records if isinstance(entry, Refused) else 1
        seen += count
        tell(count)
    if seen != records:
        raise ValueError(
            f"{seen:,} records were read where {records:,} were counted before; the input has "
            "changed in between; start anew with --overwrite"
        )


def _in_processes(folder, todo, tasks, job, workers) -> Iterator[int]:
    """Numbers of shards as they get done."""
    pool = concurrent.futures.ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), _start, (folder, job)
    )
    try:
        futures = {pool.submit(_work, number, *tasks[number]): number for number in todo}
        for future in concurrent.futures.as_completed(futures):
            future.result()
            yield futures[future]
    except concurrent.futures.process.BrokenProcessPool:
        raise RuntimeError(
            "a worker process died, perhaps for lack of memory; run the same command again to go "
            "on, with fewer --workers"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start(folder: Path, job: Job) -> None:
    """What a worker process keeps; it ends with the process that started it, however that ends."""
    global _worker
    _worker = (folder, job)
    worker_processes.end_with_parent()


def _work(number: int, task: Any, records: int) -> None:
    folder, job = _worker
    _make(folder, number, _complete(job(task), records))


def note(folder: Path, number: int) -> Path:
    """Where it is noted that a shard is done."""
    return folder / NOTES / f"{number:05}.json"
