"""Checksums of arrays: made of every chunk while it is written, compared whenever it is read.

Orbax keeps arrays as zarr3 in an OCDBT database (https://google.github.io/tensorstore/kvstore/
ocdbt), with a checksum of the tree and of the index of a shard, none of what is in a chunk. Here
every chunk ends in a CRC-32C as well, by a codec that is part of zarr3: whoever loads the arrays
compares it, and no save has to be read back to know what was written. What no load reads, such as
nodes of the tree that newer ones replaced, is not compared.
"""

import collections
import contextlib
import functools
import itertools
import re
from collections.abc import Iterator
from typing import Any

import tensorstore as ts
from etils import epath

from unireason_jax.storage import paths

MARK = "crc32c of chunks"
"""What a manifest says in the place of such a file's checksum."""

_DATA = re.compile(r"[^/]+/ocdbt\.process_\d+/d/[^/]+")
_SMALL = 1 << 20  # bytes of a file that is rather read
_AT_ONCE = 1 << 31  # bytes of the chunks that are being read
_KEY = re.compile(r'"([^"]+)" in OCDBT')
_FAULTS = (ValueError, OSError, KeyError, NotImplementedError)


def _with_checksums(build: Any) -> Any:
    """Orbax's maker of the metadata of an array, with a checksum after its other codecs."""

    @functools.wraps(build)
    def checked(*arguments: Any, **options: Any) -> dict[str, Any]:
        made = build(*arguments, **options)
        _codecs(made).append({"name": "crc32c"})
        return made

    return checked


def _codecs(metadata: dict[str, Any]) -> list[dict[str, Any]]:
    """The codecs of a chunk in an array's metadata; those of the shards' chunks where it has."""
    codecs = metadata["codecs"]
    if codecs and codecs[0]["name"] == "sharding_indexed":
        codecs = codecs[0]["configuration"]["codecs"]
    return codecs


@functools.cache
def install() -> None:
    """From now on Orbax writes chunks with checksums, in this process.

    Its codecs have no public name; where a version has it elsewhere, saves are read back.
    """
    with contextlib.suppress(ImportError, AttributeError):
        from orbax.checkpoint._src.serialization import tensorstore_utils

        build = tensorstore_utils._build_zarr3_metadata
        tensorstore_utils._build_zarr3_metadata = _with_checksums(build)


def are_in(name: str, size: int) -> bool:
    """Whether a file, by its path in a step's directory, holds chunks, and enough to matter."""
    return size >= _SMALL and _DATA.fullmatch(name) is not None


def are_checked(part: epath.Path) -> bool:
    """Whether all arrays of a part of a step (`params`, ...) have checksums in their chunks."""
    arrays = list(map(functools.partial(_array, part), _names(part)))
    described = [array.spec(retain_context=False).to_json()["metadata"] for array in arrays]
    return all({"name": "crc32c"} in _codecs(metadata) for metadata in described)


def faults(part: epath.Path, share: slice = slice(None)) -> list[str]:
    """What is wrong with the arrays of a part of a step, one sentence per fault.

    Args:
      part: its directory.
      share: the arrays to read, of all of them in the order of their names.
    """
    found: list[str] = []
    reading: collections.deque[tuple[int, ts.Future]] = collections.deque()

    def settle(most: int) -> None:
        while reading and sum(size for size, _ in reading) > most:
            try:
                reading.popleft()[1].result()
            except _FAULTS as error:
                found.append(_told(part, error))

    try:
        for name in _names(part)[share]:
            for chunk in _chunks(_array(part, name)):
                settle(_AT_ONCE)
                reading.append((chunk.size * chunk.dtype.numpy_dtype.itemsize, chunk.read()))
    except _FAULTS as error:
        found.append(_told(part, error))
    settle(0)
    return list(dict.fromkeys(found))


def _chunks(array: ts.TensorStore) -> Iterator[ts.TensorStore]:
    """The parts of an array that are read as a whole."""
    shape = array.chunk_layout.read_chunk.shape or ()  # None of a scalar
    starts = [range(0, size, step or 1) for size, step in zip(array.shape, shape)]
    for first in itertools.product(*starts):
        ends = [min(a + step, size) for a, step, size in zip(first, shape, array.shape)]
        yield array[tuple(map(slice, first, ends))]


def _told(part: epath.Path, error: Exception) -> str:
    """A fault as a sentence; it names the file where the chunk's place is known."""
    text, key = str(error).partition("\n")[0], _KEY.search(str(error))
    if "DATA_LOSS" in text and key and (file := _file_of(part, key[1])):
        return f"{part / file}: the content changed (checksum of {key[1]} differs)."
    return f"{part}: its arrays cannot be read ({text[:300]})."


def _base(part: epath.Path) -> Any:
    """The store of a part's files, as tensorstore names it."""
    if paths.is_local(part):
        return {"driver": "file", "path": f"{paths.absolute(part)}/"}
    return f"{part}/"


def _names(part: epath.Path) -> list[str]:
    """Names of the arrays in the database of a part, ascending."""
    store = ts.KvStore.open({"driver": "ocdbt", "base": _base(part)}).result()
    keys = [key.decode() for key in store.list().result()]
    return sorted(key.removesuffix("/zarr.json") for key in keys if key.endswith("/zarr.json"))


def _array(part: epath.Path, name: str) -> ts.TensorStore:
    """An array of the database of a part."""
    store = {"driver": "ocdbt", "base": _base(part), "path": f"{name}/"}
    return ts.open({"driver": "zarr3", "kvstore": store}, read=True, open=True).result()


def _file_of(part: epath.Path, key: str) -> str | None:
    """The file in a part that holds a value of its database; None if it is not told."""
    base = ts.KvStore.open(_base(part)).result()
    nodes = [ts.ocdbt.dump(base).result()["versions"][-1]["root"]["location"]]
    try:
        while nodes:
            for entry in ts.ocdbt.dump(base, nodes.pop()).result()["entries"]:
                if entry.get("key") == key.encode() and "indirect_value" in entry:
                    _, folder, file, *_ = entry["indirect_value"].split(":")
                    return f"{folder}{file}"
                nodes += [entry["location"]] if "location" in entry else []
    except _FAULTS:
        return None
    return None
