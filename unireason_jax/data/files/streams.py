"""Rows of files as records, in pieces that processes can share."""

import concurrent.futures
import contextlib
import dataclasses
import functools
import itertools
import os
import posixpath
import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from unireason_jax.data import files, images
from unireason_jax.data.files import captioned
from unireason_jax.data.files.base import Broken, Place, said
from unireason_jax.data.records import Record, RecordError, cut
from unireason_jax.data.templates import PLAIN, Style, to_record
from unireason_jax.data.templates.official import (
    DRAWN,
    checked_format,
    fields_of,
    read_row,
    recognised,
)
from unireason_jax.storage import paths

_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_ASKED = 16  # files of a bucket at a time
_LOOK = 256  # rows of a file that tell its format
_DEEPEST = 6  # lists and objects in which an image may stand


@dataclasses.dataclass(frozen=True)
class Reading:
    """How rows become records.

    Attributes:
      form: format of the rows (`templates.official.FORMATS`).
      style: switches of the templates.
      licence: of rows that name none.
      allow_outside: read images that are not inside the folder of images, too.
    """

    form: str = "auto"
    style: Style = PLAIN
    licence: str = ""
    allow_outside: bool = False

    def __post_init__(self):
        checked_format(self.form)

    def fields(self, names: Sequence[str]) -> list[str] | None:
        """Those of the fields of a file that are needed; None for all."""
        return fields_of(self.form, names)

    def record(
        self, row: dict[str, Any] | Broken, name: str, folder: Path, visit: int = 0
    ) -> Record:
        """The record of a row.

        Args:
          row: one row of a file.
          name: id for a row that brings none.
          folder: of relative image paths.
          visit: see `templates.official.read_row`.

        Raises:
          RecordError: the row cannot be used.
        """
        if isinstance(row, Broken):
            raise RecordError(name, None, row.reason)
        own = row.get("id")
        if not isinstance(own, str | int | float | None):
            raise RecordError(name, None, f"field 'id' is {cut(own)}; give a text or a number")
        given = {"id": name} | ({"licence": self.licence} if self.licence else {})
        missing = {key: value for key, value in given.items() if row.get(key) in (None, "")}
        name = str(missing.get("id", own))
        try:
            found = read_row({**_plain(row), **missing}, self.form, visit)
            record = found if isinstance(found, Record) else to_record(found, self.style)
            return self._with_paths(record, folder)
        except RecordError:
            raise
        except Exception as error:  # one odd row must not end the work on all others
            raise RecordError(name, None, f"{type(error).__name__}: {said(error)}") from error

    def _with_paths(self, record: Record, folder: Path) -> Record:
        segments = list(record.segments)
        for number, segment in enumerate(segments):
            if isinstance(segment.image, str):
                try:
                    image = self._image(segment.image, folder)
                except ValueError as error:
                    raise RecordError(record.id, number, str(error)) from None
                segments[number] = dataclasses.replace(segment, image=image)
        return dataclasses.replace(record, segments=tuple(segments))

    def _image(self, image: str, folder: Path) -> bytes | Path:
        """What the text in the place of an image stands for.

        Raises:
          ValueError: an address, a path that leaves the folder, or a damaged data URI.
        """
        data = images.embedded(image)
        if data is not None:
            return data
        if (found := _ADDRESS.match(image)) and found.group(1).lower() not in paths.DRIVERS:
            raise ValueError(f"image {cut(image)} is an address; download it and give its path")
        path = paths.of(image) if found else _spelled(folder, image)
        try:
            inside = self.allow_outside or _is_inside(path, folder)
        except ValueError as error:
            raise ValueError(f"image {cut(image)} is no path: {said(error)}") from None
        if not inside:
            raise ValueError(
                f"image {cut(image)} is outside of the image folder {folder}; check --images or "
                "give --allow_outside"
            )
        return path


def _units(path: Path | paths.Bucket, most: int) -> Iterator[tuple[Place, int]]:
    """`files.places`; a file that cannot be opened counts as one row."""
    try:
        yield from files.places(path, most)
    except ValueError:
        yield Place(0, 0), 1


def _plain(value: Any, depth: int = 0) -> Any:
    """A row in which an image is its bytes or path, where the hub has {bytes, path}."""
    if depth > _DEEPEST:
        return value
    if isinstance(value, list):
        return [_plain(one, depth + 1) for one in value]
    if not isinstance(value, dict):
        return value
    if value and value.keys() <= {"bytes", "path"}:
        return value.get("path") if value.get("bytes") is None else value["bytes"]
    return {key: _plain(one, depth + 1) for key, one in value.items()}


def _spelled(folder: Path, image: str) -> Path | paths.Bucket:
    """A relative path; with its accents kept the other way where only that is there."""
    path = paths.of(folder / image)
    if image.isascii() or not isinstance(path, Path) or os.path.lexists(path):
        return path
    others = (folder / unicodedata.normalize(form, image) for form in ("NFC", "NFD"))
    return next((other for other in others if os.path.lexists(other)), path)


def _is_inside(path: Path, folder: Path) -> bool:
    """Whether a path, all links followed, is in a folder. Raises ValueError for what is no path."""
    if not isinstance(path, Path):
        return posixpath.normpath(str(path)).startswith(f"{posixpath.normpath(str(folder))}/")
    if not isinstance(folder, Path):
        return False
    above, name = os.path.split(path)
    is_plain = name not in ("", ".", "..") and not os.path.islink(path)
    real = os.path.join(_real(above), name) if is_plain else os.path.realpath(path)
    return os.path.join(real, "").startswith(os.path.join(_real(folder), ""))


@functools.lru_cache(maxsize=4096)
def _real(folder: str | Path) -> str:
    return os.path.realpath(folder)


AUTO = Reading()
"""Every row by its own keys, with the plain templates."""


class Piece(NamedTuple):
    """Neighbouring rows of one file (number `file` of the input)."""

    file: int
    first: Place
    rows: int


@dataclasses.dataclass(frozen=True)
class FileRecords:
    """The records of files, readable from any row on.

    Attributes:
      paths: the files, in order.
      reading: how rows become records.
      images: folder of relative image paths; None for each file's own folder.
      visits: records that are drawn from a row, for formats whose rows hold many.

    Raises:
      ValueError: several visits of a format whose rows hold one record.
    """

    paths: tuple[Path, ...]
    reading: Reading = AUTO
    images: Path | None = None
    visits: int = 1

    def __post_init__(self):
        if self.visits != 1 and self.reading.form not in DRAWN:
            raise ValueError(f"several visits are for the formats {' and '.join(DRAWN)} only")

    def places(self, most: int) -> Iterator[tuple[int, Place, int]]:
        """(file, place, rows) of neighbours, no more than `most` rows together.

        A file that cannot be opened counts as one row.
        """
        with concurrent.futures.ThreadPoolExecutor(_ASKED) as pool:
            asked = {
                path: pool.submit(list, _units(path, most))
                for path in self.paths
                if isinstance(path, paths.Bucket) and path.suffix == ".parquet"
            }  # a footer there is some requests
            for number, path in enumerate(self.paths):
                units = asked.pop(path).result() if path in asked else _units(path, most)
                yield from ((number, place, rows) for place, rows in units)

    def records(self, piece: Piece) -> Iterator[tuple[str, str, Record | RecordError, int]]:
        """(file name, row number and id, record or what is wrong with it, records) of every row.

        The last is the number of records that the entry stands for: more than one where several
        rows are lost together.
        """
        path = self.paths[piece.file]
        row = piece.first.row
        try:
            for content in files.read_rows(path, piece.first, piece.rows, self.reading.fields):
                if isinstance(content, Broken):
                    lost = RecordError(f"{path.name}:{row + 1}", None, content.reason)
                    count = content.rows * self.visits
                    yield path.name, f"{row}: {lost.record_id}", lost, count
                    row += content.rows
                    continue
                for visit in range(self.visits):
                    yield path.name, *self._record(path, row, content, visit), 1
                row += 1
        except ValueError as error:
            lost = (piece.first.row + piece.rows - row) * self.visits
            yield (
                path.name,
                f"{row}: {path.name}",
                RecordError(path.name, None, str(error)),
                lost,
            )

    def recognised(self) -> str | None:
        """The format of the first row that has one, of the first of every file; None for none."""
        for path in self.paths:
            with contextlib.suppress(ValueError, StopIteration):
                place, rows = next(files.places(path, _LOOK))
                for row in files.read_rows(path, place, max(rows, _LOOK), self.reading.fields):
                    if isinstance(row, dict) and (form := recognised(row)):
                        return form
        return None

    def stamps(self) -> Sequence[tuple[str, int, int]]:
        """Name, size and time of change of every file: an interrupted run must find the same."""
        members = (captioned.texts(path) if path.is_dir() else [path] for path in self.paths)
        stats = ((path, path.stat()) for path in itertools.chain(*members))
        return [(str(path), stat.st_size, stat.st_mtime_ns) for path, stat in stats]

    def _record(
        self, path: Path, row: int, content: dict[str, Any], visit: int
    ) -> tuple[str, Record | RecordError]:
        folder = path if path.is_dir() else path.parent
        try:
            found = self.reading.record(
                content, f"{path.name}:{row + 1}", self.images or folder, visit
            )
        except RecordError as error:
            return f"{row}: {error.record_id}", error
        if self.visits > 1:
            found = dataclasses.replace(found, id=f"{found.id}@{visit}")
        return f"{row}: {found.id}", found

    @property
    def name(self) -> str:
        """The files in a few words."""
        names = ", ".join(path.name for path in self.paths[:3])
        return names + (f" and {len(self.paths) - 3} more" if len(self.paths) > 3 else "")

    def __repr__(self) -> str:
        return f"FileRecords({self.name}, {self.reading}, visits={self.visits})"


@dataclasses.dataclass(frozen=True)
class IndexedRecords:
    """The same for a random-access source, such as the embedded world."""

    source: Any
    visits = 1

    def places(self, most: int) -> Iterator[tuple[int, Place, int]]:
        """Every index, each for itself."""
        return ((0, Place(index, 0), 1) for index in range(len(self.source)))

    def records(self, piece: Piece) -> Iterator[tuple[str, str, Record | RecordError, int]]:
        """As `FileRecords.records`."""
        for index in range(piece.first.row, piece.first.row + piece.rows):
            try:
                record = self.source[index]
                yield "source", f"{index}: {record.id}", record, 1
            except RecordError as error:
                yield "source", f"{index}: {error.record_id}", error, 1

    def stamps(self) -> Sequence[tuple[str, int, int]]:
        """Nothing: the name says all."""
        return []

    @property
    def name(self) -> str:
        """The source's own name."""
        return repr(self.source)

    def __repr__(self) -> str:
        return self.name


def in_shards(
    records: FileRecords | IndexedRecords, rows: int
) -> Iterator[tuple[tuple[Piece, ...], int]]:
    """The pieces of every shard, and the records that they make.

    A shard has `rows` rows, fewer at the end and where neighbours that belong together (a row group
    of parquet) would be torn.
    """
    pieces: list[Piece] = []
    filled = 0
    for file, place, count in records.places(rows):
        if filled and filled + count > rows:
            yield tuple(pieces), filled * records.visits
            pieces, filled = [], 0
        if pieces and pieces[-1].file == file:
            pieces[-1] = pieces[-1]._replace(rows=pieces[-1].rows + count)
        else:
            pieces.append(Piece(file, place, count))
        filled += count
    if filled:
        yield tuple(pieces), filled * records.visits
