"""Logs that grow by whole lines, on a file system and in a bucket, where nothing can grow.

    gs://bucket/run/metrics.parts/00001.jsonl   what the first process that wrote has appended
    gs://bucket/run/metrics.parts/00002.jsonl   what was appended after its restart, and so on

In a bucket `metrics.jsonl` is such parts. A process has its own, which is written anew whenever it
grows, and begins another one before it gets large; `parts` and `read` join them (so does `gcloud
storage cat gs://bucket/run/metrics.parts/*`). A folder of parts that was copied to a file system
is read and grows in the same way.
"""

import threading
from collections.abc import Iterator
from pathlib import Path

from etils import epath

from unireason_jax.storage import atomic, paths

LARGEST = 1 << 18  # bytes of a part, so that writing one anew stays cheap


def append(path: epath.PathLike, text: str, *, durable: bool = False) -> None:
    """Adds whole lines to a log; arguments as those of `atomic.append`."""
    if paths.is_local(path) and not _folder(path).is_dir():
        atomic.append(path, text, durable=durable)
    else:
        _own(path).add(text.encode())


def parts(path: epath.PathLike) -> list[Path | paths.Bucket]:
    """The files that make up a log, in order: itself, and those of its folder of parts."""
    path = paths.of(path)
    return [file for file in (path,) if file.is_file()] + _numbered(path)


def read(path: epath.PathLike) -> Iterator[str]:
    """The lines of a log without their ends, the last perhaps torn; none where there is none."""
    for part in parts(path):
        yield from part.read_text("utf-8", errors="replace").splitlines()


def remove(path: epath.PathLike) -> None:
    """Deletes a log."""
    for part in parts(path):
        part.unlink(missing_ok=True)
    _parts.pop(str(path), None)


def _folder(path: epath.PathLike) -> Path | paths.Bucket:
    return paths.of(path).with_suffix(".parts")


def _numbered(path: epath.PathLike) -> list[Path | paths.Bucket]:
    return sorted(_folder(path).glob("[0-9]*"))


class _Part:
    """What this process has appended to a log in a bucket, up to `LARGEST` bytes."""

    def __init__(self, path: epath.PathLike):
        self._folder, self._suffix = _folder(path), paths.of(path).suffix
        self._number = max((int(part.stem) for part in _numbered(path)), default=0)
        self._lock, self._content, self._is_full = threading.Lock(), b"", True

    def add(self, data: bytes) -> None:
        with self._lock:
            if self._is_full:
                self._number, self._content = self._number + 1, b""
            self._content += data
            atomic.write_bytes(self._folder / f"{self._number:05}{self._suffix}", self._content)
            self._is_full = len(self._content) >= LARGEST


_parts: dict[str, _Part] = {}
_making = threading.Lock()


def _own(path: epath.PathLike) -> _Part:
    """This process's part of a log."""
    with _making:
        if str(path) not in _parts:
            _parts[str(path)] = _Part(path)
        return _parts[str(path)]
