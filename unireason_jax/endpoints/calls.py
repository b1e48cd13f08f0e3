"""Finished calls by their content: what was paid for once is never asked for again."""

import asyncio
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from unireason_jax.endpoints.pictures import kind_of
from unireason_jax.storage import atomic, paths
from unireason_jax.storage.indexed import IndexedJournal

CALLS, PICTURES = "calls.jsonl", "pictures"  # in a journal's folder
_SETTINGS = {"calls": 1}


class CallJournal:
    """Every finished call, written to the disk before anyone sees its answer.

    Args:
      folder: gets `calls.jsonl` and `pictures/`, named by their content.
      name: of the journal's file, where several processes share the folder.

    Raises:
      ValueError: the file is no journal of calls.
    """

    def __init__(self, folder: Path, name: str = "calls"):
        self.folder = paths.of(folder)
        self._journal = IndexedJournal(self.folder / f"{name}.jsonl", _SETTINGS)
        self._waiting: list[tuple[Mapping[str, Any], asyncio.Future]] = []
        self._writer: asyncio.Task | None = None

    def get(self, key: str) -> dict[str, Any] | None:
        """The row of a call whose pictures are all there, else None."""
        row = self._journal.get(key)
        if row is not None and all(self.place(name).is_file() for name in row.get("images", ())):
            return row
        return None

    def rows(self) -> Iterator[dict[str, Any]]:
        """All rows, one in memory at a time."""
        return self._journal.rows()

    async def add(self, row: Mapping[str, Any]) -> None:
        """Writes a row and returns when it is on the disk; rows that wait go in one write."""
        done = asyncio.get_running_loop().create_future()
        self._waiting.append((row, done))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write())
        await done

    async def _write(self) -> None:
        while self._waiting:
            part, self._waiting = self._waiting, []
            try:
                await asyncio.to_thread(self._journal.add, [row for row, _ in part])
            except Exception as error:  # a full disk: whoever waits is told
                for _, done in part:
                    done.done() or done.set_exception(error)
                continue
            for _, done in part:
                done.done() or done.set_result(None)

    async def keep(self, picture: bytes) -> str:
        """Writes a picture and returns its name: the hash of its content, and its kind."""
        name = f"{hashlib.sha256(picture).hexdigest()}.{kind_of(picture)}"
        place = self.place(name)
        if not place.is_file():
            await asyncio.to_thread(atomic.write_bytes, place, picture, shared=True)
        return name

    async def picture(self, name: str) -> bytes:
        """The bytes of a kept picture."""
        return await asyncio.to_thread(self.place(name).read_bytes)

    def place(self, name: str) -> Path:
        """Where the picture of this name lies."""
        return self.folder / PICTURES / name[:2] / name


def content_key(*parts: Any) -> str:
    """A name for JSON-able values and bytes: the same for the same content."""
    return hashlib.sha256(_CONTENT.encode(parts).encode("utf-8", "surrogatepass")).hexdigest()


def _hashed(value: bytes) -> str:
    return hashlib.sha256(value).hexdigest()


_CONTENT = json.JSONEncoder(sort_keys=True, default=_hashed, ensure_ascii=False)
