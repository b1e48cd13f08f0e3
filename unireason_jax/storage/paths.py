"""Paths that a user gives: of this machine's file systems, or of a bucket (`gs://bucket/run`).

`of` stands at the border where a text becomes a path. What it returns behaves like `pathlib.Path`
in either case, so that nothing behind the border asks which it is; what a bucket cannot do at all
(rename, append) only `atomic` and `lines` have to know.
"""

import contextlib
import importlib.util
import io
import os
import shutil
import stat as kinds
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import fsspec.config
from etils import epath

DRIVERS = {"gs": "gcsfs", "s3": "s3fs", "az": "adlfs"}
"""Kinds of buckets, and the package that reaches each."""

_SIP = 1 << 20  # bytes

for _kind in ("gcs", *DRIVERS):  # what other machines write has to be seen at once
    fsspec.config.conf.setdefault(_kind, {}).setdefault("use_listings_cache", False)


class Facts(NamedTuple):
    """What `os.stat` tells, of an object; a folder of a bucket has no size and no time."""

    st_size: int
    st_mtime_ns: int
    st_mode: int

    @property
    def length(self) -> int:
        """Its bytes, by the name that `epath` has for them."""
        return self.st_size


class Bucket(type(epath.Path("gs://bucket"))):
    """A path in a bucket, with what `pathlib.Path` has and `epath.Path` lacks."""

    def stat(self) -> Facts:
        """Size, time of change and kind."""
        found = super().stat()
        kind = kinds.S_IFDIR if found.is_directory else kinds.S_IFREG
        return Facts(found.length or 0, found.mtime * 10**9, kind)

    def is_file(self) -> bool:
        """Whether there is such an object, which may be a folder's name at once."""
        return files(self).isfile(str(self))

    def open(self, mode: str = "r", **text: Any) -> IO:
        """A file of the object's bytes, or of its text (UTF-8 unless `encoding` says another)."""
        file = files(self).open(str(self), f"{mode.replace('b', '')}b")
        if "r" in mode:  # its own lines are cut in Python
            file = io.BufferedReader(file, _SIP)
        return file if "b" in mode else io.TextIOWrapper(file, **{"encoding": "utf-8"} | text)

    def read_span(self, start: int, size: int) -> bytes:
        """`size` bytes from `start` on, in one request."""
        return files(self).cat_file(str(self), start, start + size)

    def resolve(self, strict: bool = False) -> "Bucket":
        """Itself: it begins at the root, and follows no links."""
        return self

    absolute = expanduser = resolve

    def read_bytes(self) -> bytes:
        """The whole object, in one request."""
        return files(self).cat_file(str(self))

    def read_text(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """The whole object as text."""
        return self.read_bytes().decode(encoding, errors)

    def write_bytes(self, data: bytes) -> int:
        """Replaces the object, in one request."""
        files(self).pipe_file(str(self), bytes(data))
        return len(data)

    def write_text(self, data: str, encoding: str = "utf-8") -> int:
        """Replaces the object with text."""
        return self.write_bytes(data.encode(encoding))

    def rglob(self, pattern: str) -> Iterator["Bucket"]:
        """All objects below this folder whose name fits a pattern."""
        for found in sorted(files(self).find(str(self))):
            path = of(files(self).unstrip_protocol(found))
            if path.match(pattern):
                yield path

    def touch(self, **_: Any) -> None:
        """Makes an empty object where there is none."""
        if not self.exists():
            self.write_bytes(b"")


def is_local(path: epath.PathLike) -> bool:
    """Whether a path is one of this machine's file systems (a mounted one too), not a bucket's."""
    return "://" not in os.fspath(path)


def of(path: epath.PathLike) -> Path | Bucket:
    """The path that a user's text means; the user's home may be written `~`.

    Raises:
      ValueError: a bucket of a kind that is not read, or whose package is not installed.
    """
    text = os.fspath(path)
    if is_local(text):
        return Path(text)
    kind = text.partition("://")[0]
    if kind not in DRIVERS:
        known = ", ".join(f"{name}://" for name in DRIVERS)
        raise ValueError(f"{text}: addresses of this kind are not read; give a path, or {known}")
    if importlib.util.find_spec(DRIVERS[kind]) is None:
        extra = "install unireason-jax with the extra 'gcs'"
        how = extra if kind == "gs" else f"pip install {DRIVERS[kind]}"
        raise ValueError(f"{text}: {kind}:// needs the package {DRIVERS[kind]}; {how}")
    return Bucket(text)


def absolute(path: epath.Path) -> epath.Path:
    """A path as Orbax wants it, from the root on; `resolve` would spoil that of a bucket."""
    return path.resolve() if is_local(path) else path


def files(path: Bucket) -> Any:
    """The fsspec file system of a path in a bucket."""
    return path._backend.fs(path)


def below(folder: Bucket) -> dict[str, tuple[int, str | None]]:
    """[bytes, checksum that the store keeps, if any] of all objects below a folder, by their path
    in it, in one request."""
    start = len(str(folder).partition("://")[2]) + 1
    found = files(folder).find(str(folder), detail=True)
    return {
        name[start:]: (info["size"], info.get("crc32c"))
        for name, info in found.items()
        if not name.endswith("/")
    }


def may_write(folder: Path | Bucket) -> bool:
    """Whether one may write into a folder; of a bucket that is believed."""
    return not isinstance(folder, Path) or os.access(folder, os.W_OK)


@contextlib.contextmanager
def here(given: Iterable[Path | Bucket]) -> Iterator[list[Path]]:
    """Files as local ones, for libraries that open nothing else: those of a bucket are copied."""
    with tempfile.TemporaryDirectory() as folder:
        found = []
        for path in given:
            if not isinstance(path, Path):
                copy = Path(folder) / path.name
                files(path).get_file(str(path), str(copy))
                path = copy
            found.append(path)
        yield found


def matching(pattern: epath.PathLike) -> list[Path | Bucket]:
    """The files whose path fits a pattern of names with `*`, `?` and `[...]`."""
    path = of(pattern)
    if isinstance(path, Path):
        inner = path.relative_to(path.anchor) if path.anchor else path
        return [file for file in Path(path.anchor or ".").glob(str(inner)) if file.is_file()]
    store = files(path)
    found = [of(store.unstrip_protocol(name)) for name in store.glob(str(path))]
    return [file for file in found if file.is_file()]


def sizes(folder: Path | Bucket, pattern: str) -> dict[str, int]:
    """Bytes by name of the files in a folder whose names fit a pattern."""
    if isinstance(folder, Path):
        return {path.name: path.stat().st_size for path in folder.glob(pattern)}
    store = files(folder)
    found = store.glob(str(folder / pattern), detail=True)
    return {name.rpartition("/")[2]: info["size"] for name, info in found.items()}


def remove_tree(path: epath.PathLike) -> None:
    """Deletes a folder and all in it; nothing happens where there is none."""
    path = of(path)
    if isinstance(path, Path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.rmtree(missing_ok=True)


def copy(source: epath.PathLike, target: epath.PathLike) -> None:
    """Copies one file, in pieces, whichever of the two is in a bucket."""
    with of(source).open("rb") as read, of(target).open("wb") as write:
        shutil.copyfileobj(read, write, 1 << 24)


def copy_tree(source: epath.PathLike, target: epath.PathLike) -> None:
    """Copies the files below a folder into another one, whichever of them is in a bucket."""
    source, target = of(source), of(target)
    for path in source.rglob("*"):
        if path.is_file():
            to = target / path.relative_to(source)
            to.parent.mkdir(parents=True, exist_ok=True)
            copy(path, to)
