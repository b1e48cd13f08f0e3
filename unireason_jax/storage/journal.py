"""A journal of finished items, written as they finish: a killed run repeats at most a batch."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from unireason_jax.storage import atomic


class Journal:
    """Rows by key in a JSON-lines file whose first line says what the rows are rows of.

    A last line that a crash cut off is removed.

    Args:
      path: the file, made where it does not exist.
      settings: what the rows depend on, JSON-able.

    Raises:
      ValueError: the file belongs to other settings, or is no journal.
    """

    def __init__(self, path: str | Path, settings: Mapping[str, Any]):
        self.path, self.rows = Path(path), {}
        header = {"journal": json.loads(json.dumps(settings))}
        if not self.path.exists() or not self._read(header):
            atomic.write_text(self.path, _lines([header]))

    def __contains__(self, key: str) -> bool:
        return key in self.rows

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Appends rows, each with its "key"."""
        rows = list(rows)
        atomic.append(self.path, _lines(rows), durable=True)
        self.rows |= {row["key"]: row for row in rows}

    def _read(self, header: Mapping[str, Any]) -> bool:
        """Takes over the rows of an earlier run; False where not even the header is whole."""
        data = self.path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        lines = whole.splitlines()
        if not lines:
            return False
        try:
            first, *rows = (json.loads(line) for line in lines)
            self.rows = {row["key"]: row for row in rows}
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{self.path}: not a journal ({error}); move it away.") from None
        if first != header:
            raise ValueError(
                f"{self.path} belongs to {first}, not {header}; give another folder, or remove it."
            )
        if len(whole) < len(data):
            os.truncate(self.path, len(whole))
        return True


def _lines(rows: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)
