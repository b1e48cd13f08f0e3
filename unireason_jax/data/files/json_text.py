"""Rows of JSON lines and of JSON arrays, one after the other in constant memory.

A file is read from any row on, given the place of that row, so that several processes can share it
and an interrupted run can go on. A row that is broken fails alone: JSON lines end at the line, and
the elements of an array are found again behind a broken one.
"""

import codecs
import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from unireason_jax.data.files import base
from unireason_jax.data.files.base import BLANK, LONGEST, Broken, Place, Row, said

_CHUNK = 1 << 20  # bytes of a JSON array read at a time
_LOOK = 64  # lines that tell an array from JSON lines
_GAP = re.compile(r"[\s,]*")
_OPENING = re.compile(r'\{\s*"[^"]*"')
_PARTIAL = 16  # an error so near to the end of what was read may be the end's fault


def places(path: Path, _: int) -> Iterator[tuple[Place, int]]:
    """The place of every row of a file, in order, each for itself."""
    return ((Place(row, start), 1) for row, (start, _) in enumerate(texts(path)))


def rows(path: Path, first: Place, count: int, _) -> Iterator[Row | Broken]:
    """`count` rows of a file, from `first` on; what is broken says why."""
    for _, data in itertools.islice(texts(path, first.byte), count):
        yield data if isinstance(data, Broken) else parse(data)


def parse(data: bytes) -> Row | Broken:
    """One row from its JSON text."""
    try:
        row = json.loads(data.decode("utf-8-sig"), object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        quotes = data.lstrip().startswith(b"{'")
        hint = "; this is Python, write JSON with double quotes" if quotes else ""
        hint = "; write one object per line" if str(error).startswith("Extra data") else hint
        return Broken(f"the row is not JSON: {said(error)}{hint}")
    return row if isinstance(row, dict) else Broken(f"the row is a {type(row).__name__}")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key '{twice[:50]}' is there twice")
    return found


def texts(path: Path, start: int | None = None) -> Iterator[tuple[int, bytes | Broken]]:
    """(first byte, text) of every line that is not blank, or of every element of an array.

    Args:
      path: JSON lines, or one array; a byte order mark does no harm.
      start: byte of the row to start with.

    Raises:
      ValueError: the file is one object over several lines.
    """
    reached = start or 0
    try:
        with base.open_bytes(path) as file:
            file.seek(len(codecs.BOM_UTF8) if file.read(3) == codecs.BOM_UTF8 else 0)
            begin = file.tell()
            head = base.head(file, _CHUNK).lstrip(BLANK)
            if head.split(b"\n", 1)[0].strip(BLANK) == b"{":
                raise ValueError(
                    f"{path} is one JSON object over several lines; write one object per line, "
                    "or an array of objects"
                )
            if _is_array(head):
                found = _elements(file, begin, start)
            else:
                file.seek(begin if start is None else start)
                found = _lines(file)
            for first, text in found:
                yield first, text
                reached = first + (1 if isinstance(text, Broken) else len(text))
    except base.DAMAGE as error:
        yield reached, Broken(f"the file is damaged from here on: {said(error)}")


def _is_array(head: bytes) -> bool:
    """Whether a text that may begin with a bracket is an array, not JSON lines.

    The first of JSON lines may be broken and begin with a bracket, too. What tells is the lines
    behind it: those of an array are joined by commas, JSON lines are whole objects side by side.
    """
    if not head.startswith(b"["):
        return False
    later = (line.strip(BLANK) for line in head.split(b"\n", _LOOK)[1:_LOOK])
    found = [line for line in later if line]
    joined = sum(line.endswith(b",") or line[:1] in (b",", b"]") for line in found)
    apart = sum(
        one[:1] == b"{" and one[-1:] == b"}" and two[:1] in (b"{", b"")
        for one, two in zip(found, [*found[1:], b""])
    )
    return apart <= joined


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes | Broken]]:
    for start, line in base.lines(file):
        if isinstance(line, Broken) or line.strip(BLANK):
            yield start, line


def _elements(file: BinaryIO, begin: int, start: int | None) -> Iterator[tuple[int, bytes]]:
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
            if found is None and not ended and len(text) - place < LONGEST:
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
