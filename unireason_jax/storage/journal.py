"""A journal of finished items, written as they finish: a killed run repeats at most a batch."""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from etils import epath

from unireason_jax.storage import atomic, lines, paths, sealed

_SHOWN, _MOST = 80, 5  # characters of a setting in a message, and settings
_SEALED = "sealed"  # in the first line: whether every row has its checksum; earlier versions: none


class Journal:
    """Rows by key in a JSON-lines file whose first line says what the rows are rows of.

    Every row has its checksum. A last line that a crash cut off is removed; rows that are damaged
    are passed over and counted in `damaged`: who finds no row for a key makes it again.

    Args:
      path: the file, made where it does not exist.
      settings: what the rows depend on, JSON-able.

    Raises:
      ValueError: the file belongs to other settings, or is no journal; the message names it.
    """

    def __init__(self, path: epath.PathLike, settings: Mapping[str, Any]):
        self.path, self.rows, self.damaged = paths.of(path), {}, 0
        header = header_of(settings)
        if not self.path.exists() or not self._read(header):
            atomic.write_text(self.path, json.dumps(header) + "\n")

    def __contains__(self, key: str) -> bool:
        return key in self.rows

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Appends rows, each with its "key"."""
        rows = list(rows)
        text = "".join(sealed.seal(row) + "\n" for row in rows)
        lines.append(self.path, text, durable=True)
        self.rows |= {row["key"]: row for row in rows}

    def _read(self, header: Mapping[str, Any]) -> bool:
        """Takes over the rows of an earlier run; False where not even the header is whole."""
        try:
            data = b"".join(part.read_bytes() for part in lines.parts(self.path))
        except OSError as error:
            raise ValueError(f"{self.path}: cannot be read ({error.strerror}).") from None
        whole = data[: data.rfind(b"\n") + 1]
        found = whole.split(b"\n")[:-1]
        if not found:
            cut_off(self.path, data, header)
            return False
        is_sealed = belongs(self.path, found[0], header)
        for line in found[1:]:
            try:
                row = sealed.unseal(line, always=is_sealed)
                self.rows[row["key"]] = row
            except (ValueError, KeyError, TypeError):
                self.damaged += bool(line.strip())
        if self.damaged:
            print(f"{self.path}: {self.damaged} damaged rows are passed over and made again")
        if len(whole) < len(data) and paths.is_local(self.path):
            os.truncate(self.path, len(whole))
        return True


def header_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The first line of a journal whose rows depend on `settings`."""
    return {"journal": json.loads(json.dumps(settings)), _SEALED: True}


def belongs(path: Path, line: bytes, header: Mapping[str, Any]) -> bool:
    """Whether all rows of a journal with this first line are sealed.

    Raises:
      ValueError: it is no journal, or one of other settings; the message names it.
    """
    try:
        first = json.loads(line.decode("utf-8"))
        if not isinstance(first, dict):
            raise ValueError
    except (ValueError, RecursionError):
        raise ValueError(f"{path}: not a journal (line 1); move it away.") from None
    if first not in _headers(header):
        found = list(_differences(first.get("journal"), header["journal"]))[:_MOST]
        told = (
            "; ".join(f"{name} {one}, not {two}" for name, one, two in found) or "another version"
        )
        raise ValueError(f"{path} belongs to {told}; give another folder, or remove it.")
    return _SEALED in first


def cut_off(path: Path, start: bytes, header: Mapping[str, Any]) -> None:
    """Raises ValueError where what has no whole line is not the beginning of a header either."""
    if not any(json.dumps(each).encode().startswith(start) for each in _headers(header)):
        raise ValueError(f"{path}: not a journal (line 1); move it away.")


def _headers(header: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """A header, and as earlier versions wrote it."""
    return header, {key: value for key, value in header.items() if key != _SEALED}


def shared(
    folder: epath.PathLike,
    name: str,
    settings: Mapping[str, Any],
    number: int,
    *,
    lacks: Callable[[Mapping[str, Any]], bool] = lambda row: False,
) -> Journal:
    """The journal of one process of a job, which also knows the rows in those of all others.

    No process may write while another one opens it.

    Args:
      folder: of all journals: `{name}.jsonl` of the first process, `{name}.{number}.jsonl`.
      name: of the journals.
      settings: see `Journal`.
      number: of the process.
      lacks: whether a row of one's own is worth less than another process's.
    """
    folder = paths.of(folder)
    own = Journal(folder / (f"{name}.{number}.jsonl" if number else f"{name}.jsonl"), settings)
    for path in [folder / f"{name}.jsonl", *sorted(folder.glob(f"{name}.[0-9]*.jsonl"))]:
        if path != own.path and path.exists():
            for key, row in Journal(path, settings).rows.items():
                if key not in own.rows or lacks(own.rows[key]):
                    own.rows[key] = row
    return own


def _differences(one: Any, two: Any, name: str = "") -> Iterator[tuple[str, str, str]]:
    """(name, one's value, two's value) of every setting that differs, inner ones as a.b, cut."""
    if isinstance(one, dict) and isinstance(two, dict):
        for key in {**one, **two}:
            yield from _differences(one.get(key), two.get(key), f"{name}.{key}".lstrip("."))
    elif one != two:
        texts = ["none" if value is None else json.dumps(value) for value in (one, two)]
        same = next((n for n, (a, b) in enumerate(zip(*texts)) if a != b), min(map(len, texts)))
        start = max(same - _SHOWN // 2, 0)
        yield name or "another kind of file", *(_cut(text, start) for text in texts)


def _cut(text: str, start: int) -> str:
    """A text from a place on, or near it, with dots where it goes on."""
    start = start if len(text) > _SHOWN else 0
    end = start + _SHOWN
    return f"{'...' * (start > 0)}{text[start:end]}{'...' * (end < len(text))}"
