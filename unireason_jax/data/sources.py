"""Where records come from: the embedded world, JSON files with an image folder, ArrayRecord shards.

Every source is random access, the same on every host and worker, picklable, and has a `repr` that
names its contents, because Grain and cached lengths are keyed by it.
"""

import bisect
import dataclasses
import hashlib
import itertools
import json
import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from unireason_jax.data import storage
from unireason_jax.data.records import Record, RecordError
from unireason_jax.data.templates import PLAIN, Example, Style, to_record
from unireason_jax.data.templates.official import read_row
from unireason_jax.world import tasks

MANIFEST = "manifest.json"
LENGTHS = "lengths.npy"
_GOLDEN = 0.6180339887498949


@dataclasses.dataclass(frozen=True)
class WorldSource:
    """Examples of the embedded world, made when they are asked for.

    Attributes:
      seed: of the examples; another seed is another data set.
      size: number of records.
      weights: share of each world task (`unireason_jax.world.tasks.TASKS`), any positive scale;
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
        unknown = [task for task in self.weights if task not in tasks.TASKS]
        if unknown:
            raise ValueError(f"unknown world task {unknown[0]!r}; use some of {tasks.TASKS}")
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


class JsonSource:
    """Rows of a JSON-lines file or a JSON array, with a folder of images.

    A row is a raw example or a row of a published data set (`templates.official`). Lines are read
    when they are asked for; a line that does not parse fails by itself, with its number.

    Args:
      path: the file; a byte order mark and blank lines do no harm.
      images: folder of relative image paths; by default the file's own.
      style: switches of the templates.

    Raises:
      FileNotFoundError: no such file or folder.
      ValueError: the file has no rows, or is neither JSON lines nor an array.
    """

    def __init__(self, path: str | Path, images: str | Path | None = None, style: Style = PLAIN):
        self.path = Path(path)
        self.images = Path(images) if images else self.path.parent
        self.style = style
        for place in (self.path, self.images):
            if not place.exists():
                raise FileNotFoundError(f"{place} does not exist; check the input")
        self._rows: list[Any] | None = None
        data = self.path.read_bytes()
        self._digest = hashlib.sha256(data).hexdigest()[:16]
        self._starts = _line_starts(data)
        if not len(self._starts):
            raise ValueError(f"{self.path} is empty; there is nothing to read")
        if data.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"[":
            self._rows = _array(self.path, data)
        elif len(self._starts) > 1 and _is_one_object(data):
            raise ValueError(
                f"{self.path} is one JSON object over several lines; write one object per line, "
                "or an array of objects"
            )

    def __len__(self) -> int:
        return len(self._starts if self._rows is None else self._rows)

    def __getitem__(self, index: int) -> Record:
        index = _checked(index, len(self))
        found = read_row(self._row(index))
        record = found if isinstance(found, Record) else to_record(found, self.style)
        return _rooted(record, self.images)

    def name(self, index: int) -> str:
        """File and row number of a record, for when its id cannot be read."""
        return f"{self.path.name}:{index + 1}"

    def _row(self, index: int) -> dict[str, Any]:
        if self._rows is not None:
            row = self._rows[index]
        else:
            start, end = self._starts[index]
            with self.path.open("rb") as file:
                file.seek(start)
                line = file.read(end - start)
            try:
                row = json.loads(line.decode("utf-8-sig"))
            except ValueError as error:
                raise RecordError(
                    self.name(index), None, f"the line is not JSON: {error}"
                ) from None
        if not isinstance(row, dict):
            kind = type(row).__name__
            raise RecordError(self.name(index), None, f"the row is a {kind}, not an object")
        return row if row.get("id") not in (None, "") else {**row, "id": self.name(index)}

    def __reduce__(self):
        return JsonSource, (self.path, self.images, self.style)

    def __repr__(self) -> str:
        return f"JsonSource({self.path.name}, {len(self)}, {self._digest}, {self.style})"


class ArrayRecordSource:
    """Records of a folder that `prepare` wrote.

    Args:
      folder: with a manifest, ArrayRecord shards and a length index.

    Raises:
      FileNotFoundError: no manifest (not prepared, or interrupted), or a shard is missing.
      ValueError: the shards do not hold what the manifest says.
    """

    def __init__(self, folder: str | Path):
        from array_record.python.array_record_data_source import ArrayRecordDataSource

        self.folder = Path(folder)
        path = self.folder / MANIFEST
        if not path.is_file():
            raise FileNotFoundError(
                f"{self.folder} has no {MANIFEST}; run `unireason prepare` (again, if it was "
                "interrupted)"
            )
        self.manifest = json.loads(path.read_text())
        names = [shard["file"] for shard in self.manifest["shards"]]
        absent = [name for name in names if not (self.folder / name).is_file()]
        if absent:
            raise FileNotFoundError(f"{self.folder} lacks its shard {absent[0]}; prepare it again")
        self._shards = ArrayRecordDataSource([str(self.folder / name) for name in names])
        if len(self._shards) != self.manifest["records"]:
            raise ValueError(
                f"{self.folder} holds {len(self._shards)} records but its manifest says "
                f"{self.manifest['records']}; prepare it again"
            )

    def __len__(self) -> int:
        return self.manifest["records"]

    def __getitem__(self, index: int) -> Record:
        data = self._shards[_checked(index, len(self))]
        try:
            return storage.from_bytes(data)
        except ValueError as error:
            raise RecordError(f"{self.folder.name}:{index}", None, str(error)) from None

    def lengths(self) -> np.ndarray:
        """Tokens by stream as measured by `prepare`, int32 [records, 3] (text, vit, latent)."""
        return np.load(self.folder / LENGTHS)

    def __reduce__(self):
        return ArrayRecordSource, (self.folder,)

    def __repr__(self) -> str:
        return f"ArrayRecordSource({self.folder.name}, {len(self)}, {self.manifest['key']})"


def _checked(index: int, size: int) -> int:
    if not 0 <= index < size:
        raise IndexError(f"record {index} of {size}")
    return int(index)


def _line_starts(data: bytes) -> np.ndarray:
    """(start, end) of every line that is not blank, int64 [n, 2]."""
    breaks = np.flatnonzero(np.frombuffer(data, np.uint8) == ord("\n"))
    starts = np.concatenate([[0], breaks + 1]).astype(np.int64)
    ends = np.concatenate([breaks, [len(data)]]).astype(np.int64)
    filled = [bool(data[a:b].strip(b"\xef\xbb\xbf \t\r")) for a, b in zip(starts, ends)]
    return np.stack([starts, ends], 1)[np.array(filled, bool)]


def _array(path: Path, data: bytes) -> list[Any]:
    try:
        rows = json.loads(data.decode("utf-8-sig"))
    except ValueError as error:
        raise ValueError(
            f"{path} starts with '[' but is not a JSON array: {error}; repair it, or write one "
            "object per line"
        ) from None
    if not rows:
        raise ValueError(f"{path} is an empty array; there is nothing to read")
    return rows


def _is_one_object(data: bytes) -> bool:
    first = data.lstrip(b"\xef\xbb\xbf \t\r\n").split(b"\n", 1)[0].strip()
    if first not in (b"{",) and first.endswith(b"}"):
        return False
    try:
        return isinstance(json.loads(data.decode("utf-8-sig")), dict)
    except ValueError:
        return False


def _rooted(record: Record, root: Path) -> Record:
    """The record with relative image paths below `root`."""
    segments = tuple(
        dataclasses.replace(segment, image=root / segment.image)
        if isinstance(segment.image, str | os.PathLike)
        else segment
        for segment in record.segments
    )
    return dataclasses.replace(record, segments=segments)
