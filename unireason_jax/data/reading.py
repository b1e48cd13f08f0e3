"""Rows of published files as records, in pieces that processes can share."""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from unireason_jax.data import readers
from unireason_jax.data.readers import Broken, Place
from unireason_jax.data.records import Record, RecordError
from unireason_jax.data.templates import PLAIN, Style, to_record
from unireason_jax.data.templates.official import DRAWN, checked_format, read_row


@dataclasses.dataclass(frozen=True)
class Reading:
    """How rows become records.

    Attributes:
      form: format of the rows (`templates.official.FORMATS`).
      style: switches of the templates.
      licence: of rows that name none.
    """

    form: str = "auto"
    style: Style = PLAIN
    licence: str = ""

    def __post_init__(self):
        checked_format(self.form)

    def record(
        self, row: dict[str, Any] | Broken, name: str, images: Path, visit: int = 0
    ) -> Record:
        """The record of a row.

        Args:
          row: one row of a file.
          name: id for a row that brings none.
          images: folder of relative image paths.
          visit: see `templates.official.read_row`.

        Raises:
          RecordError: the row cannot be used.
        """
        if isinstance(row, Broken):
            raise RecordError(name, None, row.reason)
        given = {"id": name} | ({"licence": self.licence} if self.licence else {})
        missing = {key: value for key, value in given.items() if row.get(key) in (None, "")}
        found = read_row({**row, **missing}, self.form, visit)
        record = found if isinstance(found, Record) else to_record(found, self.style)
        segments = tuple(
            dataclasses.replace(segment, image=images / segment.image)
            if isinstance(segment.image, str | os.PathLike)
            else segment
            for segment in record.segments
        )
        return dataclasses.replace(record, segments=segments)


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

    def places(self) -> Iterator[tuple[int, Place]]:
        """(file, place) of every row; a file that cannot be opened counts as one row."""
        for number, path in enumerate(self.paths):
            try:
                for place in readers.places(path):
                    yield number, place
            except ValueError:
                yield number, Place(0, 0)

    def records(self, piece: Piece) -> Iterator[tuple[str, str, Record | RecordError]]:
        """(file name, row number and id, record or what is wrong with it) of every row."""
        path = self.paths[piece.file]
        row = piece.first.row
        try:
            for content in readers.read_rows(path, piece.first, piece.rows):
                for visit in range(1 if isinstance(content, Broken) else self.visits):
                    yield path.name, *self._record(path, row, content, visit)
                row += content.rows if isinstance(content, Broken) else 1
        except ValueError as error:
            yield path.name, f"{row}: {path.name}", RecordError(path.name, None, str(error))

    def stamps(self) -> Sequence[tuple[str, int, int]]:
        """Name, size and time of change of every file: an interrupted run must find the same."""
        stats = ((path, path.stat()) for path in self.paths)
        return [(str(path), stat.st_size, stat.st_mtime_ns) for path, stat in stats]

    def _record(
        self, path: Path, row: int, content: dict[str, Any] | Broken, visit: int
    ) -> tuple[str, Record | RecordError]:
        try:
            found = self.reading.record(
                content, f"{path.name}:{row + 1}", self.images or path.parent, visit
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

    def places(self) -> Iterator[tuple[int, Place]]:
        """Every index."""
        return ((0, Place(index, 0)) for index in range(len(self.source)))

    def records(self, piece: Piece) -> Iterator[tuple[str, str, Record | RecordError]]:
        """As `FileRecords.records`."""
        for index in range(piece.first.row, piece.first.row + piece.rows):
            try:
                record = self.source[index]
                yield "source", f"{index}: {record.id}", record
            except RecordError as error:
                yield "source", f"{index}: {error.record_id}", error

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
    """The pieces of every shard of `rows` rows (the last has what is left), and their rows."""
    pieces: list[Piece] = []
    filled = 0
    for file, place in records.places():
        if filled == rows:
            yield tuple(pieces), filled
            pieces, filled = [], 0
        if pieces and pieces[-1].file == file:
            pieces[-1] = pieces[-1]._replace(rows=pieces[-1].rows + 1)
        else:
            pieces.append(Piece(file, place, 1))
        filled += 1
    if filled:
        yield tuple(pieces), filled
