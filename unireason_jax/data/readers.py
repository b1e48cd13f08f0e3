"""Rows of JSON lines, JSON arrays and parquet files, one after the other in constant memory.

A file is read from any row on, given the place of that row, so that several processes can share it
and an interrupted run can go on. A row that is broken fails alone: JSON lines end at the line, the
elements of an array are found again behind a broken one, and parquet fails by batch.
"""

import codecs
import itertools
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

SUFFIXES = (".jsonl", ".json", ".parquet")
_BLANK = b" \t\r\n"
_CHUNK = 1 << 20  # bytes of a JSON array read at a time
_LONGEST = 256 << 20  # bytes after which an element of an array counts as broken
_BATCH = 16  # parquet rows in memory at a time
_GAP = re.compile(r"[\s,]*")
_OPENING = re.compile(r'\{\s*"[^"]*"')
_PARTIAL = 16  # an error so near to the end of what was read may be the end's fault


class Place(NamedTuple):
    """Where a row starts: its number in the file, and its byte (JSON) or 0 (parquet)."""

    row: int
    byte: int


class Broken(NamedTuple):
    """A row, or `rows` rows in a line, that cannot be read."""

    reason: str
    rows: int = 1


def find_files(inputs: Iterable[str | Path]) -> list[Path]:
    """Files of SUFFIXES named by paths, folders (all of them inside) and patterns, sorted.

    Raises:
      FileNotFoundError: an input names nothing.
    """
    found = []
    for given in inputs:
        path = Path(given)
        if path.is_dir():
            files = [file for file in path.rglob("*") if file.suffix in SUFFIXES]
        elif path.is_file():
            files = [path]
        else:
            pattern = path.relative_to(path.anchor) if path.anchor else path
            files = [file for file in Path(path.anchor or ".").glob(str(pattern)) if file.is_file()]
        if not files:
            raise FileNotFoundError(f"{given} does not exist or holds no file; check the input")
        found += sorted(files)
    return list(dict.fromkeys(found))


def places(path: Path) -> Iterator[Place]:
    """The place of every row of a file, in order.

    Raises:
      ValueError: the file is no parquet, or one JSON object over several lines.
    """
    if path.suffix == ".parquet":
        yield from (Place(row, 0) for row in range(open_parquet(path).metadata.num_rows))
    else:
        yield from (Place(row, start) for row, (start, _) in enumerate(json_rows(path)))


def read_rows(path: Path, first: Place, count: int) -> Iterator[dict[str, Any] | Broken]:
    """`count` rows of a file, from `first` on; what is broken says why."""
    if path.suffix == ".parquet":
        yield from _parquet_rows(path, first.row, count)
        return
    for _, data in itertools.islice(json_rows(path, first.byte), count):
        yield parse(data)


def parse(data: bytes) -> dict[str, Any] | Broken:
    """One row from its JSON text."""
    try:
        row = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        return Broken(f"the row is not JSON: {error}")
    return row if isinstance(row, dict) else Broken(f"the row is a {type(row).__name__}")


def json_rows(path: Path, start: int | None = None) -> Iterator[tuple[int, bytes]]:
    """(first byte, text) of every line that is not blank, or of every element of an array.

    Args:
      path: JSON lines, or one array; a byte order mark does no harm.
      start: byte of the row to start with.

    Raises:
      ValueError: the file is one object over several lines.
    """
    with path.open("rb") as file:
        file.seek(len(codecs.BOM_UTF8) if file.read(3) == codecs.BOM_UTF8 else 0)
        begin = file.tell()
        head = file.read(_CHUNK).lstrip(_BLANK)
        if head.split(b"\n", 1)[0].strip(_BLANK) == b"{":
            raise ValueError(
                f"{path} is one JSON object over several lines; write one object per line, "
                "or an array of objects"
            )
        if head.startswith(b"["):
            yield from _elements(file, begin, start)
        else:
            file.seek(begin if start is None else start)
            yield from _lines(file)


def _lines(file) -> Iterator[tuple[int, bytes]]:
    start = file.tell()
    for line in file:
        if line.strip(_BLANK):
            yield start, line
        start += len(line)


def _elements(file, begin: int, start: int | None) -> Iterator[tuple[int, bytes]]:
    """Elements of the array at byte `begin`, from `start` on or all.

    The text is held as Latin-1, so that characters count as bytes. An element behind a broken one
    is found by the way objects open. What is left behind the array, or a missing bracket, comes as
    a broken element. Where elements start does not depend on where the reading starts.
    """
    decode = json.JSONDecoder().raw_decode
    file.seek(begin)
    text = file.read(_CHUNK).decode("latin-1")
    first = text.index("[") + 1
    next_row = _boundary(text, first)
    base, place, ended = begin, first, False

    def refill() -> None:
        nonlocal base, text, ended, place
        more = file.read(max(_CHUNK, len(text) - place)).decode("latin-1")
        base, text, ended, place = base + place, text[place:] + more, not more, 0

    if start is not None:
        file.seek(start)
        base, text, place = start, "", 0
    while True:
        place = _GAP.match(text, place).end()
        over = text[place : place + 1] in ("", "]") and not text[place + 1 :].strip()
        if over and not ended:
            refill()
            continue
        if over and text[place:]:
            return
        try:
            end = decode(text, place)[1]
            if end == len(text) and not ended:
                refill()  # a number may go on
                continue
        except (json.JSONDecodeError, RecursionError) as error:
            found = None if _may_go_on(error, text, ended) else next_row.search(text, place)
            if found is None and not ended and len(text) - place < _LONGEST:
                refill()
                continue
            end = found.start() if found else len(text)
        yield base + place, text[place:end].encode("latin-1")
        if over:
            return
        place = end


def _boundary(text: str, place: int) -> re.Pattern:
    """What ends an element of an array: a comma, if what follows opens as one of the first does.

    An opening is a bracket and a first key, so that objects inside a broken element are not taken
    for elements.
    """
    openings = set()
    try:
        while opening := _OPENING.match(text, _GAP.match(text, place).end()):
            openings.add(opening.group())
            place = json.JSONDecoder().raw_decode(text, opening.start())[1]
    except (json.JSONDecodeError, RecursionError):
        pass  # broken, or not read to its end
    likely = "|".join(map(re.escape, sorted(openings))) or r"\{"
    return re.compile(rf",\s*(?={likely})")


def _may_go_on(error: Exception, text: str, ended: bool) -> bool:
    """Whether the element may be whole, had more of the file been read."""
    if ended or isinstance(error, RecursionError):
        return False
    return error.msg.startswith("Unterminated string") or error.pos > len(text) - _PARTIAL


def open_parquet(path: Path):
    """The `pyarrow.parquet.ParquetFile` of a path.

    Raises:
      ValueError: pyarrow is not installed, or the file is no parquet.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ValueError(
            f"{path}: parquet needs pyarrow; install unireason-jax with the extra 'parquet'"
        ) from None
    try:
        return pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path} is not a readable parquet file: {error}") from None


def _parquet_rows(path: Path, first: int, count: int) -> Iterator[dict[str, Any] | Broken]:
    import pyarrow

    file, end, row = open_parquet(path), first + count, 0
    for group in range(file.num_row_groups):
        group_end = row + file.metadata.row_group(group).num_rows
        try:
            wanted = group_end > first and row < end
            for batch in file.iter_batches(_BATCH, row_groups=[group]) if wanted else ():
                inside = slice(max(first - row, 0), max(min(end - row, len(batch)), 0))
                yield from batch.to_pylist()[inside]
                row += len(batch)
        except (pyarrow.ArrowException, OSError) as error:
            lost = min(end, group_end) - max(first, row)
            if lost > 0:
                yield Broken(f"{lost} rows of row group {group} cannot be read: {error}", lost)
        row = group_end
