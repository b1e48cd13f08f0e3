"""Where records come from: the embedded world, JSON and parquet files, ArrayRecord shards.

Every source is random access, the same on every host and worker, picklable, and has a `repr` that
names its contents, because Grain and cached lengths are keyed by it.
"""

import bisect
import dataclasses
import functools
import hashlib
import itertools
import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from unireason_jax.data import files
from unireason_jax.data.files import base, json_text, parquet
from unireason_jax.data.files.base import Broken, Place, said
from unireason_jax.data.files.streams import AUTO, Reading
from unireason_jax.data.prepared import serialization
from unireason_jax.data.prepared.shard_entries import ShardEntries
from unireason_jax.data.prepared.shards import LENGTHS, MANIFEST, is_unfinished
from unireason_jax.data.records import Record, RecordError
from unireason_jax.data.templates import PLAIN, Example, Style, to_record
from unireason_jax.storage import arrays, paths
from unireason_jax.world import tasks

_GOLDEN = 0.6180339887498949


@dataclasses.dataclass(frozen=True)
class WorldSource:
    """Examples of the embedded world, made when they are asked for.

    Attributes:
      seed: of the examples; another seed is another data set.
      size: number of records.
      weights: share of each world task (`unireason_jax.world.tasks`), any positive scale;
        any stretch of records holds the tasks in these shares.
      held_out: prompts that training never draws, instead of those it draws.
      style: switches of the templates.
      side: cells per side of the canvas.
    """

    seed: int
    size: int
    weights: Mapping[str, float]
    held_out: bool = False
    style: Style = PLAIN
    side: int = tasks.SIDE

    def __post_init__(self):
        known = (*tasks.TASKS, *tasks.HARD_TASKS)
        unknown = [task for task in self.weights if task not in known]
        if unknown:
            raise ValueError(f"unknown world task {unknown[0]!r}; use some of {known}")
        if self.size < 1 or not self.weights or min(self.weights.values()) <= 0:
            raise ValueError(
                f"a world source of {self.size} records with weights {dict(self.weights)} is "
                "empty; give a size >= 1 and weights > 0"
            )

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Record:
        return to_record(self.example(index), self.style)

    def example(self, index: int, *, render: bool = True) -> Example:
        """Raw example `index`; with render=False its pictures are blanks of the right shape."""
        index = _checked(index, self.size)
        return tasks.example(
            self.seed,
            index,
            self.task(index),
            side=self.side,
            held_out=self.held_out,
            render=render,
        )

    def outline(self, index: int) -> Record:
        """Record `index` without drawing its pictures: the same lengths, sooner."""
        return to_record(self.example(index, render=False), self.style)

    def task(self, index: int) -> str:
        """Task of record `index`: golden-ratio steps through the shares."""
        names, edges = self._shares
        return names[bisect.bisect_right(edges, (index + 1) * _GOLDEN % 1.0)]

    @cached_property
    def _shares(self) -> tuple[list[str], list[float]]:
        total = sum(self.weights.values())
        edges = list(itertools.accumulate(weight / total for weight in self.weights.values()))
        return list(self.weights), edges[:-1]

    def __reduce__(self):
        fields = (getattr(self, field.name) for field in dataclasses.fields(self))
        return WorldSource, tuple(fields)

    def __repr__(self) -> str:
        shares = ",".join(f"{task}={weight:g}" for task, weight in self.weights.items())
        return (
            f"WorldSource({self.seed}, {self.size}, {shares}, held_out={self.held_out}, "
            f"{self.style}, {self.side})"
        )


class _FileSource:
    """A file of rows with a folder of images.

    Args:
      path: the file.
      images: folder of relative image paths; by default the file's own.
      reading: how rows become records.

    Raises:
      FileNotFoundError: no such file or folder.
      ValueError: the file has no rows, or is not what it should be.
    """

    def __init__(self, path: str | Path, images: str | Path | None = None, reading: Reading = AUTO):
        self.path = paths.of(path)
        self.images = paths.of(images) if images else self.path.parent
        self.reading = reading
        for place in (self.path, self.images):
            if not place.exists():
                raise FileNotFoundError(f"{place} does not exist; check the input")
        self._index()
        if not len(self):
            raise ValueError(f"{self.path} is empty; there is nothing to read")

    def __getitem__(self, index: int) -> Record:
        row = self._row(_checked(index, len(self)))
        return self.reading.record(row, f"{self.path.name}:{index + 1}", self.images)

    def __reduce__(self):
        return type(self), (self.path, self.images, self.reading)

    def __repr__(self) -> str:
        name = type(self).__name__
        return f"{name}({self.path.name}, {len(self)}, {self._digest}, {self.reading})"

    @cached_property
    def _digest(self) -> str:
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]


class JsonSource(_FileSource):
    """Rows of a JSON-lines file or a JSON array, read when they are asked for.

    A row is a raw example or a row of a published data set (`templates.official`); one that does
    not parse fails by itself, with its number. A byte order mark and blank lines do no harm.
    """

    def _index(self) -> None:
        texts = json_text.texts(self.path)
        spans = ((start, 0 if isinstance(text, Broken) else len(text)) for start, text in texts)
        self._spans = np.fromiter(itertools.chain.from_iterable(spans), np.int64).reshape(-1, 2)

    def __len__(self) -> int:
        return len(self._spans)

    def _row(self, index: int) -> dict[str, Any] | Broken:
        start, size = self._spans[index].tolist()
        return json_text.parse(base.span(self.path, start, size))


class ParquetSource(_FileSource):
    """Rows of a parquet file, by row group.

    The two row groups read last are kept, so that reading in order costs nothing extra; a shuffled
    run reads a whole row group for each record unless the groups are small. `unireason prepare`
    makes shards without this cost.
    """

    def _index(self) -> None:
        file = parquet.opened(self.path)
        self._columns = parquet.needed(file, self.reading.fields)
        self._ends = list(itertools.accumulate(parquet.group_sizes(file), initial=0))
        self._group = functools.lru_cache(maxsize=2)(self._read_group)

    def __len__(self) -> int:
        return self._ends[-1]

    def _row(self, index: int) -> dict[str, Any] | Broken:
        group = bisect.bisect_right(self._ends, index) - 1
        try:
            table = self._group(group).slice(index - self._ends[group], 1)
        except Exception as error:  # decoders raise whatever they like
            return Broken(f"row group {group} cannot be read: {said(error)}")
        return parquet.value(table)

    def _read_group(self, group: int):
        return parquet.opened(self.path).read_row_group(group, columns=self._columns)


class RowSource(_FileSource):
    """Rows of CSV files and samples of tar files, sought from their places on."""

    def _index(self) -> None:
        found = (place for place, _ in files.places(self.path))
        self._places = np.fromiter(itertools.chain.from_iterable(found), np.int64).reshape(-1, 2)

    def __len__(self) -> int:
        return len(self._places)

    def _row(self, index: int) -> dict[str, Any] | Broken:
        return next(files.read_rows(self.path, Place(*self._places[index].tolist()), 1))


class EntrySource(_FileSource):
    """ArrayRecord files without a manifest, one or a folder of them, as others write them.

    An entry is the JSON text of a row, or a record as `storage` keeps it.
    """

    def _index(self) -> None:
        folder = self.path.is_dir()
        files = sorted(self.path.glob("*.array_record*")) if folder else [self.path]
        self._digest = hashlib.sha256(
            "".join(f"{path.name}:{path.stat().st_size} " for path in files).encode()
        ).hexdigest()[:16]
        self._entries = _opened(files) if files else ()

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> Record:
        data = _entry(self._entries, self.path, _checked(index, len(self)))
        return (
            _stored(data, self.path, index)
            if serialization.is_stored(data)
            else super().__getitem__(index)
        )

    def _row(self, index: int) -> dict[str, Any] | Broken:
        return json_text.parse(_entry(self._entries, self.path, index))


class ArrayRecordSource:
    """Records of a folder that `prepare` wrote.

    Args:
      folder: with a manifest, ArrayRecord shards and a length index.

    Raises:
      FileNotFoundError: no manifest (not prepared, or interrupted), or a shard is missing.
      ValueError: the shards do not hold what the manifest says.
    """

    def __init__(self, folder: str | Path):
        self.folder = paths.of(folder)
        path = self.folder / MANIFEST
        if not path.is_file():
            raise FileNotFoundError(
                f"{self.folder} has no {MANIFEST}; run `unireason prepare` on it and name its "
                "--output instead (or run it again, if it was interrupted)"
            )
        self.manifest = _manifest(path)
        names = [shard["file"] for shard in self.manifest["shards"]]
        there = {path.name for path in self.folder.iterdir()}
        absent = [name for name in names if name not in there]
        if absent:
            raise FileNotFoundError(f"{self.folder} lacks its shard {absent[0]}; prepare it again")
        self._shards = _opened([self.folder / name for name in names])
        if len(self._shards) != self.manifest["records"]:
            raise ValueError(
                f"{self.folder} holds {len(self._shards)} records but its manifest says "
                f"{self.manifest['records']}; prepare it again"
            )

    def __len__(self) -> int:
        return self.manifest["records"]

    def __getitem__(self, index: int) -> Record:
        data = _entry(self._shards, self.folder, _checked(index, len(self)))
        return _stored(data, self.folder, index)

    def lengths(self) -> np.ndarray:
        """Tokens by stream as measured by `prepare`, int32 [records, 3] (text, vit, latent).

        Raises:
          FileNotFoundError, ValueError: the index is missing or damaged; it can be measured again.
        """
        path = self.folder / LENGTHS
        table = arrays.read(path)
        if not isinstance(table, np.ndarray):
            raise ValueError(f"{path} is damaged")
        if table.shape != (len(self), 3) or table.dtype.kind not in "iu" or table.min() < 0:
            raise ValueError(f"{path} is damaged")
        return table

    def __reduce__(self):
        return ArrayRecordSource, (self.folder,)

    def __repr__(self) -> str:
        return f"ArrayRecordSource({self.folder.name}, {len(self)}, {self.manifest['key']})"


def _manifest(path: Path) -> dict[str, Any]:
    """The manifest of a prepared folder. Raises ValueError naming the file."""
    try:
        found = json.loads(path.read_bytes().decode("utf-8"))
        names = [shard["file"] for shard in found["shards"]]
        whole = isinstance(found["records"], int) and isinstance(found["key"], str)
        if not whole or not names or any("/" in name for name in names):
            raise ValueError("its fields are not those of a manifest")
        return found
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({_said(error)}); prepare the folder again") from None


def _opened(files: list[Path]) -> ShardEntries:
    """The entries of ArrayRecord files. Raises ValueError naming the first that is damaged."""
    if not str(files[0]).startswith("gs://") and not paths.is_local(files[0]):
        raise ValueError(f"{files[0]}: shards are read from gs:// or a file system; copy them")
    try:
        return ShardEntries(list(map(str, files)))
    except RuntimeError:
        for file in files:
            try:
                ShardEntries([str(file)])
            except RuntimeError as error:
                raise ValueError(f"{file} is damaged ({_said(error)}); make it again") from None
        raise


def _entry(entries, path: Path, index: int) -> bytes:
    """One entry of ArrayRecord files; what is damaged is a record that cannot be used."""
    try:
        return entries[index]
    except RuntimeError as error:
        reason = f"its part of the file is damaged ({_said(error)}); make the shard again"
        raise RecordError(f"{path.name}:{index}", None, reason) from None


def _said(error: Exception) -> str:
    """The beginning of what a library says."""
    return str(error).split("\n")[0][:120] or type(error).__name__


def _stored(data: bytes, path: Path, index: int) -> Record:
    try:
        return serialization.from_bytes(data)
    except ValueError as error:
        raise RecordError(f"{path.name}:{index}", None, str(error)) from None


def _checked(index: int, size: int) -> int:
    if not 0 <= index < size:
        raise IndexError(f"record {index} of {size}")
    return int(index)


def is_prepared(path: Path) -> bool:
    """Whether `prepare` or `encode` wrote a folder, or has begun to."""
    return (path / MANIFEST).exists() or is_unfinished(path)


def should_be_prepared(path: Path) -> bool:
    """Whether a path is a prepared folder, or a folder that can be nothing else."""
    return path.is_dir() and (is_prepared(path) or not any(path.glob("*.array_record*")))


def open_source(path: str | Path, reading: Reading = AUTO) -> "Source":
    """The source for a prepared folder, for ArrayRecord, or for the files of `data.files`.

    Raises:
      FileNotFoundError, ValueError: as the source.
    """
    path = paths.of(path)
    if should_be_prepared(path):
        return ArrayRecordSource(path)
    if path.is_dir() or ".array_record" in path.name:
        return EntrySource(path, reading=reading)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; check the input")
    kinds = {files.json_text: JsonSource, files.parquet: ParquetSource}
    return kinds.get(files.kind_of(path), RowSource)(path, reading=reading)


Source = WorldSource | JsonSource | ParquetSource | RowSource | EntrySource | ArrayRecordSource
