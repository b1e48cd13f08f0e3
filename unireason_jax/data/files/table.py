"""Rows of CSV and TSV files with a header: texts by the names of their columns.

An empty field is one that the row does not have; lists and objects are written in JSON.
"""

import contextlib
import csv
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from unireason_jax.data.files import base
from unireason_jax.data.files.base import Broken, Place, Row, said
from unireason_jax.data.records import cut

_DELIMITERS = ",\t;"
csv.field_size_limit(base.LONGEST)


def places(path: Path, _: int) -> Iterator[tuple[Place, int]]:
    """The place of every row behind the header, in order, each for itself.

    Raises:
      ValueError: there is a header, or what is taken for one, and nothing behind it.
    """
    row = -1
    for row, (start, _) in enumerate(_records(path)):
        yield Place(row, start), 1
    if row < 0 and path.stat().st_size:
        raise _without_rows(path)


def rows(path: Path, first: Place, count: int, _) -> Iterator[Row | Broken]:
    """`count` rows of a file, from `first` on; what is broken says why."""
    if not first.byte:  # there is the header
        raise _without_rows(path)
    for _, row in itertools.islice(_records(path, first.byte), count):
        yield row


def _without_rows(path: Path) -> ValueError:
    return ValueError(f"{path} has one line, which must be its header, and no row behind it")


def _records(path: Path, start: int | None = None) -> Iterator[tuple[int, Row | Broken]]:
    """(first byte, row) of every row from byte `start` on.

    Raises:
      ValueError: the header has the same name twice, or none.
    """
    reader = None
    try:
        with base.open_bytes(path) as file:
            reader = _Reader(file)
            names, delimiter = _header(path, reader)
            if start is not None:
                reader.end = start
                file.seek(start)
                reader = _Reader(file)
            for first, fields in reader.records(delimiter):
                yield first, _row(names, fields)
    except base.DAMAGE as error:
        reached = reader.end if reader else 0
        yield reached, Broken(f"the file is damaged from here on: {said(error)}")


class _Reader:
    """Hands lines to `csv` and knows where they start."""

    def __init__(self, file: BinaryIO):
        self._lines = base.lines(file)
        self.end = file.tell()  # of the last whole row
        self._start = self._broken = None

    def records(self, delimiter: str) -> Iterator[tuple[int, list[str] | Broken]]:
        """(first byte, fields or what is wrong with them) of every record that is not blank."""
        reader = csv.reader(self._texts(), delimiter=delimiter, strict=True)
        while True:
            self._start = self._broken = None
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                fields = Broken(f"the row is not CSV: {said(error)}")
            fields = self._broken or fields
            self.end = self._read
            if fields:
                yield self._start, fields

    def first_line(self) -> str:
        """The line that comes next, which `records` will not see; "" at the end."""
        return next(self._texts(), "")

    def _texts(self) -> Iterator[str]:
        size = 0
        for start, line in self._lines:
            if self._start is None:
                self._start, size = start, 0
            if isinstance(line, Broken):
                self._broken, line = line, b"\n"
            size += len(line)
            self._read = start + len(line)
            if size > base.LONGEST:  # a quote that is never closed
                self._broken = Broken(f"the row has more than {base.LONGEST:,} bytes")
                line = b'"\n'
            # What is not UTF-8 becomes half characters, which no record may have
            yield line.decode("utf-8-sig" if not start else "utf-8", "surrogateescape")


def _header(path: Path, reader: _Reader) -> tuple[list[str], str]:
    line = reader.first_line()
    delimiter = max(_DELIMITERS, key=line.count)
    try:
        names = next(csv.reader([line], delimiter=delimiter, strict=True), [])
    except csv.Error as error:
        raise ValueError(f"{path}: the header is not CSV: {said(error)}") from None
    names = [name.strip() for name in names]
    if not all(names) or len(set(names)) < len(names):
        raise ValueError(
            f"{path}: the first line must name every column once; it is {cut(line.strip())}"
        )
    return names, delimiter


def _row(names: list[str], fields: list[str] | Broken) -> Row | Broken:
    if isinstance(fields, Broken):
        return fields
    if len(fields) != len(names):
        return Broken(f"the row has {len(fields)} fields, the header names {len(names)}")
    return {name: _value(field) for name, field in zip(names, fields) if field}


def _value(field: str) -> Any:
    """The text of a field, or the list or object that it writes in JSON."""
    if field[0] in "[{":
        with contextlib.suppress(ValueError, RecursionError):
            return json.loads(field)
    return field
