"""A journal whose rows stay on the disk: memory holds where each begins, and nothing else."""

import hashlib
import json
import os
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from etils import epath

from unireason_jax.storage import atomic, lines, paths, sealed
from unireason_jax.storage.journal import belongs, cut_off, header_of

_LENGTH = 1 << 40  # a row's place is offset * _LENGTH + length, one number a row


class IndexedJournal:
    """Rows by key, as in `Journal`, for millions of rows; the last row of a key counts.

    A last line that a crash cut off is removed; damaged rows are passed over and counted in
    `damaged`. One process writes at a time, from any of its threads. Rows in a bucket are read from
    a copy on this machine's disk, made when the journal is opened.

    Args:
      path: the file, made where it does not exist.
      settings: what the rows depend on, JSON-able.

    Raises:
      ValueError: the file belongs to other settings, or is no journal; the message names it.
    """

    def __init__(self, path: epath.PathLike, settings: Mapping[str, Any]):
        self.path, self.damaged = paths.of(path), 0
        self._file = self.path if isinstance(self.path, Path) else self._copied()
        self._places: dict[bytes, int] = {}
        self._lock = threading.Lock()
        header = header_of(settings)
        if not self.path.exists() or not self._read(header):
            for file in {self.path, self._file}:
                atomic.write_text(file, json.dumps(header) + "\n")

    def _copied(self) -> Path:
        """A copy of the rows in a bucket."""
        self._kept = tempfile.TemporaryDirectory()
        file = Path(self._kept.name) / "rows"
        with file.open("wb") as out:
            for part in lines.parts(self.path):
                out.write(part.read_bytes())
        return file

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: str) -> bool:
        return _name(key) in self._places

    def get(self, key: str) -> dict[str, Any] | None:
        """The row of a key, None where there is none or it can no longer be read."""
        place = self._places.get(_name(key))
        if place is None:
            return None
        with open(self._file, "rb") as file:
            return _at(file, place)

    def rows(self) -> Iterator[dict[str, Any]]:
        """All rows in the order of their first writing, one in memory at a time."""
        with open(self._file, "rb") as file:
            for place in list(self._places.values()):
                row = _at(file, place)
                if row is not None:
                    yield row

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Appends rows, each with its "key", and forces them to the disk."""
        rows = [(row["key"], (sealed.seal(row) + "\n").encode()) for row in rows]
        with self._lock:
            start = self._file.stat().st_size
            text = b"".join(line for _, line in rows).decode()
            lines.append(self.path, text, durable=True)
            if self._file != self.path:
                atomic.append(self._file, text)
            for key, line in rows:
                self._places[_name(key)] = start * _LENGTH + len(line)
                start += len(line)

    def _read(self, header: Mapping[str, Any]) -> bool:
        """Finds the rows of an earlier run; False where not even the header is whole."""
        try:
            file = open(self._file, "rb")  # closed below
        except OSError as error:
            raise ValueError(f"{self.path}: cannot be read ({error.strerror}).") from None
        with file:
            first = file.readline()
            if not first.endswith(b"\n"):
                cut_off(self.path, first, header)
                return False
            belongs(self.path, first, header)
            offset = len(first)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                try:
                    key = sealed.unseal(line.strip(), always=True)["key"]
                    self._places[_name(key)] = offset * _LENGTH + len(line)
                except (ValueError, KeyError, TypeError, AttributeError):
                    self.damaged += bool(line.strip())
                offset += len(line)
        if self.damaged:
            print(f"{self.path}: {self.damaged} damaged rows are passed over and made again")
        if offset < self._file.stat().st_size:
            os.truncate(self._file, offset)
        return True


def _at(file: BinaryIO, place: int) -> dict[str, Any] | None:
    """The row at a place, None where it can no longer be read."""
    offset, length = divmod(place, _LENGTH)
    file.seek(offset)
    try:
        return sealed.unseal(file.read(length).strip(), always=True)
    except ValueError:
        return None


def _name(key: str) -> bytes:
    return hashlib.blake2b(key.encode(), digest_size=16).digest()
