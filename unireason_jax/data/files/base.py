"""What the kinds of files share: where a row starts, a row that cannot be read, opened bytes."""

import contextlib
import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from unireason_jax.storage import paths

LONGEST = 64 << 20  # bytes of a row of text
BLANK = b" \t\r\n"
DAMAGE = (OSError, EOFError, zlib.error)  # what reading a damaged file or archive raises
GZIP = b"\x1f\x8b"
_SHOWN = 200
_SIP = 1 << 13  # bytes; what is behind damage is lost by so much at most


class Place(NamedTuple):
    """Where a row starts: its number in the file, and its byte (0 where that says nothing)."""

    row: int
    byte: int


class Broken(NamedTuple):
    """A row, or `rows` rows in a line, that cannot be read."""

    reason: str
    rows: int = 1


Row = dict[str, Any]


def open_bytes(path: Path) -> BinaryIO:
    """The bytes of a file, unpacked where it is gzipped, with `seek` and `tell`."""
    file = path.open("rb")
    packed = file.read(len(GZIP)) == GZIP
    if packed and isinstance(path, Path):
        file.close()
        return gzip.open(path, "rb")
    file.seek(0)
    return gzip.GzipFile(fileobj=file) if packed else file


def span(path: Path | paths.Bucket, start: int, size: int) -> bytes:
    """`size` bytes of a file from `start` on, unpacked where it is gzipped."""
    if isinstance(path, paths.Bucket) and not path.name.lower().endswith(".gz"):
        return path.read_span(start, size)
    with open_bytes(path) as file:
        file.seek(start)
        return file.read(size)


def head(file: BinaryIO, size: int) -> bytes:
    """The next bytes of a file, up to `size` or to where it is damaged."""
    found = b""
    with contextlib.suppress(*DAMAGE):
        while len(found) < size and (more := file.read(min(_SIP, size - len(found)))):
            found += more
    return found


def lines(file: BinaryIO) -> Iterator[tuple[int, bytes | Broken]]:
    """(first byte, text) of every line from here on; one that is too long is broken."""
    start = file.tell()
    while line := file.readline(LONGEST + 1):
        size = len(line)
        if size > LONGEST:
            while not line.endswith(b"\n") and (line := file.readline(1 << 20)):
                size += len(line)
            line = Broken(f"the row has {size:,} bytes; {LONGEST:,} are read")
        yield start, line
        start += size


def said(error: Exception) -> str:
    """What an error says in one short line, or its kind where it says nothing."""
    return " ".join(str(error).split())[:_SHOWN] or type(error).__name__
