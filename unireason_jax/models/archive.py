"""Safetensors files as one mapping from names to tensors, read and written piece by piece.

Only the bytes that are asked for are read (no memory map), and a tensor is written as it is
produced, so neither direction holds more than one tensor. Element types include bfloat16.
Format: 8 bytes little-endian header length, a JSON header, the tensors back to back.
"""

import functools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from unireason_jax.models import archive_header
from unireason_jax.models.archive_header import DTYPES, shown
from unireason_jax.storage import atomic, paths

_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_PIECE = 1 << 24


class Entry(NamedTuple):
    """Where a tensor lies."""

    file: epath.Path
    dtype: str
    shape: tuple[int, ...]
    offset: int


class ArchiveError(ValueError):
    """A file of weights that is damaged, or not what it is taken for."""


class Archive:
    """Tensors of a .safetensors file, or of the shards that a .safetensors.index.json lists."""

    def __init__(self, path: epath.PathLike):
        """Reads the headers.

        Raises:
          FileNotFoundError: the file or a listed shard is missing.
          ArchiveError: a file is truncated or not safetensors, its header contradicts itself, or
            the index lists a tensor that its shard lacks; the message names the file.
        """
        self.path = epath.Path(path)
        self._entries: dict[str, Entry] = {}
        self.metadata: dict[str, str] = {}
        if not self.path.name.endswith(".index.json"):
            self._entries = self._header(self.path)
            return
        mapped = _weight_map(self.path)
        for name in sorted(set(mapped.values())):
            found = self._header(self.path.parent / name)
            if twice := sorted(set(found) & set(self._entries)):
                raise ArchiveError(f"{self.path}: tensor {shown(twice[0])} is in two of its files.")
            self._entries |= found
        for name, file in mapped.items():
            if name not in self._entries or self._entries[name].file.name != file:
                raise ArchiveError(
                    f"{self.path}: tensor {shown(name)} is listed, but {file} lacks it."
                )

    def _header(self, file: epath.Path) -> dict[str, Entry]:
        """The entries of one file, checked against its size."""
        if not file.exists():
            raise FileNotFoundError(f"{file}: missing (wanted by {self.path.name}).")
        if file.is_dir():
            raise ArchiveError(f"{file}: a folder, not a safetensors file.")
        size = file.stat().length
        if size < 8:
            raise ArchiveError(f"{file}: not a safetensors file, or cut off in its header.")
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > min(size - 8, archive_header.LIMIT):
                raise ArchiveError(f"{file}: not a safetensors file, or cut off in its header.")
            text = stream.read(length)
        start = 8 + length
        try:
            found, metadata = archive_header.parse(text, size - start)
        except ValueError as error:
            raise ArchiveError(f"{file}: {error}.") from None
        self.metadata |= metadata
        return {
            name: Entry(file, span.dtype, span.shape, start + span.begin)
            for name, span in found.items()
        }

    def __iter__(self) -> Iterator[str]:
        """Tensor names."""
        return iter(self._entries)

    def __contains__(self, name: str) -> bool:
        """Whether the archive holds a tensor."""
        return name in self._entries

    def shape(self, name: str, axes: int | None = None) -> tuple[int, ...]:
        """Shape of a tensor; nothing is read.

        Raises:
          ArchiveError: there is no such tensor, or it has not the number of `axes` asked for.
        """
        shape = self._entry(name).shape
        if axes is not None and len(shape) != axes:
            raise ArchiveError(
                f"{self.path}: tensor {name!r} has shape {list(shape)}, not {axes}-D."
            )
        return shape

    def dtype(self, name: str) -> str:
        """Element type of a tensor as the format spells it, such as BF16."""
        return self._entry(name).dtype

    def _entry(self, name: str) -> Entry:
        """Where a tensor lies. Raises ArchiveError where there is none."""
        if name not in self._entries:
            raise ArchiveError(f"{self.path}: tensor {name!r} is missing.")
        return self._entries[name]

    def read(self, name: str, window: tuple[slice, ...] = ()) -> np.ndarray:
        """A tensor, or the part that a tuple of slices selects.

        Beside the result, at most `_PIECE` bytes are held.
        """
        entry = self._entry(name)
        if not entry.shape:
            return self._run(entry, 0, 1, name).reshape(())
        window = (*window, *(slice(None),) * (len(entry.shape) - len(window)))
        ranges = [range(*w.indices(n)) for w, n in zip(window, entry.shape)]
        out = np.empty([len(r) for r in ranges], DTYPES[entry.dtype])
        self._fill(out, entry, name, 0, entry.shape, ranges)
        return out

    def _fill(
        self,
        out: np.ndarray,
        entry: Entry,
        name: str,
        start: int,
        shape: tuple[int, ...],
        ranges: list[range],
    ) -> None:
        """Reads a window of the block [*shape] that starts at element `start` into `out`.

        A few rows at a time are read and cut; of rows longer than a piece, parts.
        """
        low, step = ranges[0].start, math.prod(shape[1:])
        rows = _PIECE // max(1, step * out.itemsize)
        if not rows and len(shape) > 1:
            for i, row in enumerate(ranges[0]):
                self._fill(out[i], entry, name, start + row * step, shape[1:], ranges[1:])
            return
        cut = tuple(slice(r.start, r.stop) for r in ranges[1:])
        for i in range(0, len(out), rows):
            count = min(rows, len(out) - i)
            run = self._run(entry, start + (low + i) * step, count * step, name)
            out[i : i + count] = run.reshape(count, *shape[1:])[(slice(None), *cut)]

    def _run(self, entry: Entry, start: int, count: int, name: str) -> np.ndarray:
        """`count` elements of a tensor from element `start` on."""
        out = np.empty(count, DTYPES[entry.dtype])
        start = entry.offset + start * out.itemsize
        if not paths.is_local(entry.file):  # in one request
            data = paths.of(entry.file).read_span(start, out.nbytes)
            if len(data) != out.nbytes:
                raise ArchiveError(f"{entry.file}: truncated while reading {name!r}.")
            return np.frombuffer(data, DTYPES[entry.dtype])
        view, filled = memoryview(out.view(np.uint8)), 0
        with entry.file.open("rb") as stream:
            stream.seek(start)
            while filled < len(view):
                piece = stream.read(min(_PIECE, len(view) - filled))
                if not piece:
                    raise ArchiveError(f"{entry.file}: truncated while reading {name!r}.")
                view[filled : filled + len(piece)] = piece
                filled += len(piece)
        return out


def place(archive: Archive, targets: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
    """Tensors as arrays of a given shape, dtype and sharding; each device's part is read alone.

    Raises:
      ArchiveError: a tensor is missing or has another shape.
    """
    placed = {}
    for name, target in targets.items():
        if name not in archive or archive.shape(name) != target.shape:
            there = list(archive.shape(name)) if name in archive else "missing"
            raise ArchiveError(f"{archive.path}: {name!r} is {there}, not {list(target.shape)}.")
        read = functools.partial(_cast, archive, name, target.dtype)
        placed[name] = jax.make_array_from_callback(target.shape, target.sharding, read)
    return placed


def _cast(archive: Archive, name: str, dtype: Any, window: tuple[slice, ...]) -> np.ndarray:
    """A part of a tensor in another dtype."""
    return archive.read(name, window).astype(dtype)


def write_archive(
    folder: epath.PathLike,
    stem: str,
    tensors: Mapping[str, tuple[tuple[int, ...], str]],
    produce: Callable[[str], Iterable[np.ndarray]],
    *,
    shard_bytes: int,
    metadata: Mapping[str, str] | None = None,
) -> list[str]:
    """Writes tensors one after another: one file, or shards of about a size with an index.

    Args:
      folder: where to; must exist.
      stem: "ema" gives ema.safetensors, or ema-00001-of-00004.safetensors and so on, with
        ema.safetensors.index.json.
      tensors: shape and type ("F32", "BF16", ...) by name, in the order they are written.
      produce: the contents of a tensor, as pieces that follow each other in memory order.
      shard_bytes: a new file starts when this size would be passed.
      metadata: strings for the header.

    Returns:
      The names of the files written.

    Raises:
      ValueError: `produce` gave another type or number of elements than announced.
    """
    folder, groups, used = epath.Path(folder), [[]], 0
    for name, (shape, kind) in tensors.items():
        size = math.prod(shape) * DTYPES[kind].itemsize
        if groups[-1] and used + size > shard_bytes:
            groups.append([])
            used = 0
        groups[-1].append(name)
        used += size
    single = len(groups) == 1
    files, where = [], {}
    for i, names in enumerate(groups):
        file = f"{stem}.safetensors"
        if not single:
            file = f"{stem}-{i + 1:05d}-of-{len(groups):05d}.safetensors"
        _write_file(folder / file, {n: tensors[n] for n in names}, produce, metadata or {})
        files.append(file)
        where |= dict.fromkeys(names, file)
    if not single:
        total = sum(math.prod(s) * DTYPES[k].itemsize for s, k in tensors.values())
        index = {"metadata": {"total_size": total}, "weight_map": where}
        files.append(f"{stem}.safetensors.index.json")
        atomic.write_text(folder / files[-1], json.dumps(index, indent=1))
    return files


def _write_file(
    path: epath.Path,
    tensors: Mapping[str, tuple[tuple[int, ...], str]],
    produce: Callable[[str], Iterable[np.ndarray]],
    metadata: Mapping[str, str],
) -> None:
    """One safetensors file, under a temporary name until it is whole."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **metadata}}
    at = 0
    for name, (shape, kind) in tensors.items():
        size = math.prod(shape) * DTYPES[kind].itemsize
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with atomic.replacing(path) as part, part.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for name, (shape, kind) in tensors.items():
            written = 0
            for piece in produce(name):
                if piece.dtype != DTYPES[kind]:
                    raise ValueError(f"{path}: {name!r} is {piece.dtype}, announced as {kind}.")
                stream.write(memoryview(np.ascontiguousarray(piece).reshape(-1).view(np.uint8)))
                written += piece.size
            if written != math.prod(shape):
                raise ValueError(f"{path}: {name!r} has {written} elements, announced {shape}.")


def type_name(dtype: Any) -> str:
    """The format's name of a NumPy or JAX dtype, such as "BF16"."""
    return _NAMES[np.dtype(dtype)]


def _weight_map(path: epath.Path) -> dict[str, str]:
    """File by tensor of an index; files are beside it.

    Raises:
      FileNotFoundError: no such file.
      ArchiveError: it is no index, or names a file outside of its folder.
    """
    mapped = read_json(path).get("weight_map")
    if not isinstance(mapped, dict) or not all(isinstance(f, str) for f in mapped.values()):
        raise ArchiveError(f"{path}: field 'weight_map' is no table of file names.")
    for file in mapped.values():
        if not file or file in (".", "..") or "/" in file or "\\" in file or "\0" in file:
            raise ArchiveError(f"{path}: {shown(file)} is no file name; shards lie beside it.")
    return mapped


def read_json(path: epath.PathLike) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
      FileNotFoundError: no such file.
      ArchiveError: it is not UTF-8, not JSON, or no object; the message names the file.
    """
    path = epath.Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: missing.")
    try:
        values = json.loads(path.read_bytes().decode("utf-8"))
    except (ValueError, RecursionError, IsADirectoryError) as error:
        raise ArchiveError(f"{path}: not valid JSON ({error}).") from None
    if not isinstance(values, dict):
        raise ArchiveError(f"{path}: no JSON object.")
    return values
