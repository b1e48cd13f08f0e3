"""Samples of tar files, as WebDataset writes them: neighbours with one name and several endings.

    000.jpg 000.txt 000.json 001.jpg ...

A sample becomes a row with `id` (its name), `image` (the bytes of its image), `text` (of .txt) and
what its .json says. Where a sample has several images, each has its ending as its field, and texts
of the .json that name a member stand for its bytes.
"""

import itertools
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from unireason_jax.data.files import base
from unireason_jax.data.files.base import Broken, Place, Row, said
from unireason_jax.data.files.json_text import parse

MAGIC, MAGIC_AT = b"ustar", 257
_LARGEST = 256 << 20  # bytes of a sample
_CHUNK = 1 << 20
_IMAGES = frozenset("jpg jpeg png webp gif bmp tif tiff avif jp2 ppm image img".split())
_TEXTS = frozenset(("txt", "text", "caption"))


def places(path: Path, _: int) -> Iterator[tuple[Place, int]]:
    """The place of every sample, in order, each for itself."""
    found = _samples(path, None, contents=False)
    return ((Place(row, start), 1) for row, (start, _) in enumerate(found))


def rows(path: Path, first: Place, count: int, _) -> Iterator[Row | Broken]:
    """`count` samples of a file, from `first` on; what is broken says why."""
    for _, sample in itertools.islice(_samples(path, first.byte, contents=True), count):
        yield sample if isinstance(sample, Broken) else _row(sample)


class _Member:
    """A regular file of the archive."""

    def __init__(self, name: str, data: bytes):
        self.data = data
        self.file_name = PurePosixPath(name).name
        self.ending = _split(name)[1].lower()


def _split(name: str) -> tuple[str, str]:
    """Name of the sample and ending: "a/b.c.jpg" is ("a/b", "c.jpg")."""
    folder, slash, file = name.rpartition("/")
    stem, _, ending = file.partition(".")
    return f"{folder}{slash}{stem}", ending


def _samples(
    path: Path, start: int | None, *, contents: bool
) -> Iterator[tuple[int, tuple[str, list[_Member]] | Broken]]:
    """(first byte, (name, members)) of every sample from byte `start` on."""
    at, name, members, size, broken = start or 0, None, [], 0, None
    try:
        with base.open_bytes(path) as file:
            file.seek(at)
            for info in _members(file):
                sample = _split(info.name)[0]
                if sample != name:
                    if name is not None:
                        yield at, broken or (name, members)
                    at, name, members, size, broken = info.offset, sample, [], 0, None
                size += info.size
                if not info.isreg() or info.issparse():
                    broken = Broken(f"member '{info.name[:100]}' is a link or a device, not a file")
                elif size > _LARGEST:
                    broken = Broken(f"the sample has {size:,} bytes; {_LARGEST:,} are read")
                elif contents and not broken:
                    members.append(_Member(info.name, _read(file, info)))
    except Exception as error:  # damaged archives raise whatever they like
        broken = Broken(f"the archive is damaged from here on: {said(error)}")
    if broken or name is not None:
        yield at, broken or (name, members)


def _members(file: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """Every member that is no folder.

    Raises:
      tarfile.TarError: the archive does not end as archives do.
    """
    with tarfile.open(fileobj=_Bounded(file), mode="r:") as archive:
        while info := archive.next():
            archive.members = []  # it keeps all it has seen
            if archive.offset <= info.offset:
                raise tarfile.ReadError("a header has a negative length")
            if not info.isdir():
                yield info
        file.seek(archive.offset)
        while rest := file.read(_CHUNK):
            if rest.strip(b"\0"):
                raise tarfile.ReadError("there is something behind its end, or a spoilt header")


class _Bounded:
    """A file that reads no more than a sample may have at once: headers name their own lengths."""

    def __init__(self, file: BinaryIO):
        self.seek, self.tell, self._file = file.seek, file.tell, file

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _LARGEST:
            raise tarfile.ReadError(f"a header asks for {size:,} bytes")
        return self._file.read(size)


def _read(file: BinaryIO, info: tarfile.TarInfo) -> bytes:
    file.seek(info.offset_data)
    data = file.read(info.size)
    if len(data) < info.size:
        raise tarfile.ReadError("it ends in the middle of a member")
    return data


def _row(sample: tuple[str, list[_Member]]) -> Row | Broken:
    name, members = sample
    row: Row = {}
    named: dict[str, bytes] = {}
    for member in members:
        if member.ending == "json":
            found = parse(member.data)
            if isinstance(found, Broken):
                return Broken(f"member '{member.file_name[:100]}': {found.reason}")
            row = {**found, **row}
        elif member.ending in _TEXTS:
            row["text"] = member.data.decode("utf-8-sig", "surrogateescape").strip()
        elif member.ending.rpartition(".")[2] in _IMAGES:
            named[member.ending] = member.data
    if len(named) == 1:
        row["image"] = next(iter(named.values()))
    if not row and not named:
        endings = ", ".join(f".{member.ending[:20]}" for member in members[:5])
        return Broken(f"the sample has no image, text or JSON, but {endings}")
    files = {m.file_name: m.data for m in members if m.ending in named}
    row = {key: _filled(value, named | files) for key, value in row.items()}
    return {"id": name, **named, **row} if len(named) > 1 else {"id": name, **row}


def _filled(value: Any, images: dict[str, bytes]) -> Any:
    if isinstance(value, list):
        return [_filled(one, images) for one in value]
    return images.get(value, value) if isinstance(value, str) else value
