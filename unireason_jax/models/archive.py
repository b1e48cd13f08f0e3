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
import ml_dtypes
import numpy as np
from etils import epath

DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_PIECE = 1 << 24


class Entry(NamedTuple):
    """Where a tensor lies."""

    file: epath.Path
    dtype: str
    shape: tuple[int, ...]
    offset: int


class Archive:
    """Tensors of a .safetensors file, or of the shards that a .safetensors.index.json lists."""

    def __init__(self, path: epath.PathLike):
        """Reads the headers.

        Raises:
          FileNotFoundError: the file or a listed shard is missing.
          ValueError: a file is truncated or not safetensors, or the index lists a tensor that
            its shard lacks; the message names the file.
        """
        self.path = epath.Path(path)
        self._entries: dict[str, Entry] = {}
        self.metadata: dict[str, str] = {}
        mapped: Mapping[str, str] = {}
        files = [self.path]
        if self.path.name.endswith(".index.json"):
            mapped = read_json(self.path).get("weight_map", {})
            files = [self.path.parent / name for name in sorted(set(mapped.values()))]
        for file in files:
            self._entries |= self._header(file)
        if lost := sorted(set(mapped) - set(self._entries)):
            raise ValueError(
                f"{self.path}: tensor {lost[0]!r} is listed, but {mapped[lost[0]]} lacks it."
            )

    def _header(self, file: epath.Path) -> dict[str, Entry]:
        """The entries of one file, checked against its size."""
        if not file.exists():
            raise FileNotFoundError(f"{file}: missing (wanted by {self.path.name}).")
        size = file.stat().length
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or length > size - 8:
                raise ValueError(f"{file}: not a safetensors file, or cut off in its header.")
            try:
                header = json.loads(stream.read(length))
            except ValueError as error:
                raise ValueError(f"{file}: the safetensors header is damaged ({error}).") from error
        self.metadata |= header.pop("__metadata__", {})
        found = {}
        for name, value in header.items():
            try:
                kind, shape = value["dtype"], tuple(value["shape"])
                begin, end = value["data_offsets"]
            except (KeyError, TypeError, ValueError):
                raise ValueError(f"{file}: the header's entry of {name!r} is damaged.") from None
            if kind not in DTYPES:
                raise ValueError(
                    f"{file}: tensor {name!r} has type {kind}; known are {', '.join(DTYPES)}."
                )
            if 8 + length + end > size:
                raise ValueError(
                    f"{file}: truncated; tensor {name!r} ends at byte {8 + length + end} of {size}."
                )
            if math.prod(shape) * DTYPES[kind].itemsize != end - begin:
                raise ValueError(f"{file}: tensor {name!r} has {end - begin} bytes for {shape}.")
            found[name] = Entry(file, kind, shape, 8 + length + begin)
        return found

    def __iter__(self) -> Iterator[str]:
        """Tensor names."""
        return iter(self._entries)

    def __contains__(self, name: str) -> bool:
        """Whether the archive holds a tensor."""
        return name in self._entries

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor; nothing is read."""
        return self._entries[name].shape

    def dtype(self, name: str) -> str:
        """Element type of a tensor as the format spells it, such as BF16."""
        return self._entries[name].dtype

    def read(self, name: str, window: tuple[slice, ...] = ()) -> np.ndarray:
        """A tensor, or the part that a tuple of slices selects.

        Beside the result, at most `_PIECE` bytes are held.
        """
        entry = self._entries[name]
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
        view, filled = memoryview(out.view(np.uint8)), 0
        with entry.file.open("rb") as stream:
            stream.seek(entry.offset + start * out.itemsize)
            while filled < len(view):
                piece = stream.read(min(_PIECE, len(view) - filled))
                if not piece:
                    raise ValueError(f"{entry.file}: truncated while reading {name!r}.")
                view[filled : filled + len(piece)] = piece
                filled += len(piece)
        return out


def place(archive: Archive, targets: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
    """Tensors as arrays of a given shape, dtype and sharding; each device's part is read alone.

    Raises:
      ValueError: a tensor is missing or has another shape.
    """
    placed = {}
    for name, target in targets.items():
        if name not in archive or archive.shape(name) != target.shape:
            there = list(archive.shape(name)) if name in archive else "missing"
            raise ValueError(f"{archive.path}: {name!r} is {there}, not {list(target.shape)}.")
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
        (folder / files[-1]).write_text(json.dumps(index, indent=1))
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
    temporary = path.parent / (path.name + ".tmp")
    with temporary.open("wb") as stream:
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
    temporary.replace(path)


def type_name(dtype: Any) -> str:
    """The format's name of a NumPy or JAX dtype, such as "BF16"."""
    return _NAMES[np.dtype(dtype)]


def read_json(path: epath.PathLike) -> dict[str, Any]:
    """A JSON object from a file. FileNotFoundError and ValueError name the file."""
    path = epath.Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: missing.")
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not valid JSON ({error}).") from error
