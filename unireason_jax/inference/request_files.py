"""What a file of requests holds: text lines, JSON lines, a JSON array or a table, told apart.

Every item keeps the line it begins on and, where it cannot be read, the reason: one damaged item
says nothing about the others.
"""

import codecs
import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before the mark of UTF-16, with which it begins
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_TABLES = (".csv", ".tsv")
_TOKEN = re.compile(r'"(?:[^"\\\n]|\\.)*+"|["\[\]{},]')
_BEGINS_ARRAY = re.compile(r'\[\s*[{"\]]')
_BRACKETED_WORD = re.compile(r"\[\s*[^\W\d_]")
_QUOTED = re.compile(r"\"[^\"]*\"|'[^']*'|“[^“”]*”|„[^„“”]*[“”]|«[^«»]*»")
_UNDECODED = re.compile("[\udc80-\udcff]")
_LONGEST_NUMBER = _LONGEST_NAME = 40


class Item(NamedTuple):
    """One item of a file.

    Attributes:
      line: number of the line it begins on, from 1.
      text: as it stands there.
      value: a text, or fields by name; None where it cannot be read.
      fault: why it cannot be read.
    """

    line: int
    text: str
    value: str | dict[str, Any] | None = None
    fault: str | None = None


def read(path: Path, check_columns: Callable[[list[str]], None]) -> list[Item]:
    """The items of a file, blank lines passed over.

    A table is known by its first line, which names its columns, `prompt` among them; .csv and .tsv
    must begin so. Its empty cells are fields that are not given. Text is UTF-8, or begins with the
    mark of another Unicode encoding.

    Args:
      path: the file.
      check_columns: raises ValueError for columns that nobody knows.

    Raises:
      FileNotFoundError: no such file.
      ValueError: not a text, a table without known columns, or nothing in it.
    """
    text = _text(path)
    mark = _separator(text, path)
    if mark:
        found = list(_rows(text, mark, path, check_columns))
    elif (values := _array(text)) is not None:
        found = [_item(line, value, inside=True) for line, value in values]
    else:
        lines = _objects(text) or list(enumerate(text.split("\n"), 1))
        found = [_item(line, value, inside=False) for line, value in lines if value.strip()]
    if not found:
        raise ValueError(f"--prompts {path}: there is nothing in it; write one prompt a line.")
    return found


def _text(path: Path) -> str:
    """The file's text with plain line ends; bytes that are no UTF-8 stay as half surrogates."""
    if path.is_dir():
        raise FileNotFoundError(f"--prompts {path}: a folder; name the file of prompts.")
    if not path.is_file():
        raise FileNotFoundError(f"--prompts {path}: no such file.")
    data = path.read_bytes()
    name = next((name for mark, name in _MARKS.items() if data.startswith(mark)), "utf-8")
    if name.startswith("utf-8"):
        if b"\0" in data:
            raise ValueError(
                f"--prompts {path}: holds zero bytes, so it is no text; save it as UTF-8."
            )
        text = data.decode(name, errors="surrogateescape")
    else:
        try:
            text = data.decode(name, errors="surrogatepass")
        except UnicodeDecodeError:
            raise ValueError(f"--prompts {path}: damaged {name.upper()}; save it again.") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _item(line: int, text: str, *, inside: bool) -> Item:
    """A line, or a value `inside` an array."""
    try:
        return Item(line, text, _value(text.strip(), inside=inside))
    except ValueError as error:
        return Item(line, text, fault=str(error))


def _value(text: str, *, inside: bool) -> str | dict[str, Any]:
    """A text, or the fields of a JSON object. Raises ValueError saying why it is neither."""
    if found := _UNDECODED.search(text):
        raise ValueError(f"not UTF-8 (byte {ord(found[0]) - 0xDC00:#x}).")
    listed = text.startswith("[") and not _BRACKETED_WORD.match(text)
    if not inside and not listed and not text.startswith("{"):
        if _QUOTED.fullmatch(text):
            raise ValueError("the line is in quotation marks; leave them out, or write JSON lines.")
        if text in ("null", "true", "false"):
            raise ValueError(f"a request is a text or an object with `prompt`, not {text}.")
        return text
    value = _json(text)
    if isinstance(value, dict) or (inside and isinstance(value, str)):
        return value
    kind = "a list" if isinstance(value, list) else json.dumps(value)
    raise ValueError(f"a request is a text or an object with `prompt`, not {kind}.")


def _json(text: str) -> Any:
    """A JSON value. Raises ValueError, also for what other readers would not agree on."""
    try:
        return json.loads(
            text, parse_constant=_not_a_number, parse_int=_int, object_pairs_hook=_once
        )
    except RecursionError:
        raise ValueError("not JSON (brackets within brackets without end).") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg}, character {error.pos + 1}).") from None


def _not_a_number(name: str) -> None:
    raise ValueError(f"not JSON ({name} is no number there).")


def _int(digits: str) -> int:
    if len(digits) > _LONGEST_NUMBER:
        raise ValueError(f"a number of {len(digits)} digits is of no use here.")
    return int(digits)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"field {named(twice)} is there twice.")
    return found


def named(name: str) -> str:
    """A field's name in quotation marks, on one short line whatever it is."""
    short = name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}..."
    return f"'{short}'" if short.isprintable() else ascii(short)


def _array(text: str) -> list[tuple[int, str]] | None:
    """The values of a file that is one JSON array, with their lines; None for another file.

    What follows the last value that can be told apart, where the array is damaged, is one more.
    """
    start = len(text) - len(text.lstrip())
    if not text.startswith("[", start):
        return None
    found, depth, begin = [], 0, start + 1
    for token in _TOKEN.finditer(text, start + 1):
        mark = token[0]
        if mark in ("[", "{"):
            depth += 1
        elif mark == "," and not depth:
            found.append((begin, text[begin : token.start()]))
            begin = token.end()
        elif mark in ("]", "}"):
            if not depth:
                if mark == "}" or text[token.end() :].strip():
                    break
                found.append((begin, text[begin : token.start()]))
                return _placed(text, found)
            depth -= 1
        elif mark == '"':
            break
    if not _BEGINS_ARRAY.match(text, start) or _objects(text[start:].partition("\n")[2]):
        return None
    return _placed(text, [*found, (begin, text[begin:])])


def _objects(text: str) -> list[tuple[int, str]] | None:
    """The values of a file of JSON objects one after another, each over one line or several."""
    found, depth, begin, end = [], 0, 0, 0
    for token in _TOKEN.finditer(text):
        mark = token[0]
        if not depth:
            if mark != "{" or text[end : token.start()].strip():
                return None
            begin = token.start()
        if mark == '"':
            return None
        depth += (mark in ("[", "{")) - (mark in ("]", "}"))
        if not depth:
            end = token.end()
            found.append((begin, text[begin:end]))
    return None if depth or text[end:].strip() else _placed(text, found)


def _placed(text: str, values: list[tuple[int, str]]) -> list[tuple[int, str]]:
    """Line numbers instead of offsets; an empty last value, after a comma, is none."""
    if values and not values[-1][1].strip():
        values = values[:-1]
    out, line, at = [], 1, 0
    for begin, value in values:
        begin += len(value) - len(value.lstrip())
        line, at = line + text.count("\n", at, begin), begin
        out.append((line, value))
    return out


def _separator(text: str, path: Path) -> str | None:
    """What separates the columns of a table; None for another file."""
    first, is_table = text.lstrip("\n").partition("\n")[0], path.suffix.lower() in _TABLES
    for mark in "\t,;":
        columns = _columns(first, mark)
        named = all(re.fullmatch(r"\w+", name) for name in columns)
        if "prompt" in columns and named and (len(columns) > 1 or is_table):
            return mark
    if is_table:
        raise ValueError(
            f"--prompts {path}: the first line of a table names its columns, `prompt` among them; "
            f"this one is {first[:80]!r}."
        )
    return None


def _columns(line: str, mark: str) -> list[str]:
    return [cell.strip().strip('"').lower() for cell in line.split(mark)]


def _rows(
    text: str, mark: str, path: Path, check_columns: Callable[[list[str]], None]
) -> Iterator[Item]:
    """The rows of a table below its first."""
    reader = csv.reader(io.StringIO(text.lstrip("\n")), delimiter=mark, strict=True)
    skipped = len(text) - len(text.lstrip("\n"))
    try:
        columns = [name.strip().lower() for name in next(reader)]
        check_columns(columns)
        if len(set(columns)) < len(columns):
            raise ValueError("a column is there twice.")
    except (ValueError, csv.Error) as error:
        raise ValueError(f"--prompts {path}: {error}") from None
    while True:
        line = skipped + reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Item(line, "", fault=f"a table's row that cannot be read ({error}).")
            continue
        if any(cell.strip() for cell in cells):
            yield _row(line, cells, columns, mark)


def _row(line: int, cells: list[str], columns: list[str], mark: str) -> Item:
    """A row of a table; whole numbers stay text, since an id may look like one."""
    shown = mark.join(cells)
    if found := _UNDECODED.search(shown):
        return Item(line, shown, fault=f"not UTF-8 (byte {ord(found[0]) - 0xDC00:#x}).")
    if len(cells) != len(columns):
        fault = (
            f"{len(cells)} cells for {len(columns)} columns; put a text with {mark!r} in quotes."
        )
        return Item(line, shown, fault=fault)
    return Item(line, shown, {n: c.strip() for n, c in zip(columns, cells) if c.strip()})
