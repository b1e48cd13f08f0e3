"""PyTorch's `pytorch_model.bin` as a mapping from names to tensors, without PyTorch.

Such a file is a zip of raw storages and a pickle that says which tensor is where. The pickle is
read by an unpickler that knows tensors and dictionaries and nothing else, so that no file can run
code. Reads like `archive.Archive`.
"""

import collections
import math
import pickle
import zipfile
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from unireason_jax.models.archive import ArchiveError, read_json
from unireason_jax.models.archive_header import DTYPES, shown

STORAGES = {
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
}
_LOCAL_HEADER = 30


class _Storage(NamedTuple):
    """A run of numbers of one file."""

    dtype: str
    key: str


class _Tensor(NamedTuple):
    """Where a tensor lies in a storage."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class _Placed(NamedTuple):
    """Where a tensor lies in a file; `offset` in bytes."""

    file: epath.Path
    dtype: str
    shape: tuple[int, ...]
    offset: int


class TorchArchive:
    """Tensors of a pytorch_model.bin, or of the shards that a .bin.index.json lists."""

    def __init__(self, path: epath.PathLike):
        """Reads the directories of all files.

        Raises:
          FileNotFoundError: the file or a listed shard is missing.
          ArchiveError: a file is damaged, or holds other things than tensors; it is named.
        """
        self.path = epath.Path(path)
        files = [self.path]
        if self.path.name.endswith(".index.json"):
            mapped = read_json(self.path).get("weight_map", {})
            files = [self.path.parent / name for name in sorted(set(mapped.values()))]
        self._entries: dict[str, _Placed] = {}
        for file in files:
            self._entries |= _entries(file)

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
        """Element type of a tensor as safetensors spells it, such as BF16."""
        return self._entries[name].dtype

    def read(self, name: str, window: tuple[slice, ...] = ()) -> np.ndarray:
        """A tensor, or the part that a tuple of slices selects."""
        entry = self._entries[name]
        out = np.empty(math.prod(entry.shape), DTYPES[entry.dtype])
        with entry.file.open("rb") as stream:
            stream.seek(entry.offset)
            if stream.readinto(memoryview(out.view(np.uint8))) != out.nbytes:
                raise ArchiveError(f"{entry.file}: truncated while reading {shown(name)}.")
        return out.reshape(entry.shape)[window]


def _entries(file: epath.Path) -> dict[str, _Placed]:
    """The tensors of one file."""
    if not file.exists():
        raise FileNotFoundError(f"{file}: missing.")
    try:
        with file.open("rb") as stream, zipfile.ZipFile(stream) as archive:
            index = next((n for n in archive.namelist() if n.endswith("/data.pkl")), None)
            if index is None:
                raise ArchiveError(f"{file}: no PyTorch checkpoint (it has no data.pkl).")
            folder = index.removesuffix("data.pkl")
            with archive.open(index) as text:
                tensors = _Unpickler(text).load()
            places = {info.filename: info for info in archive.infolist()}
            return _placed(file, stream, tensors, folder, places)
    except zipfile.BadZipFile:
        raise ArchiveError(
            f"{file}: not a zip, so no checkpoint of PyTorch 1.6 or newer; save it again."
        ) from None
    except (pickle.UnpicklingError, EOFError, TypeError, IndexError, AttributeError) as error:
        raise ArchiveError(f"{file}: its list of tensors cannot be read ({error}).") from None


def _placed(
    file: epath.Path, stream: Any, tensors: Any, folder: str, places: dict[str, zipfile.ZipInfo]
) -> dict[str, _Placed]:
    """Tensors by name with their places in the file, checked against the sizes of the storages."""
    if not isinstance(tensors, dict):
        raise ArchiveError(f"{file}: not a dictionary of tensors.")
    found, starts = {}, {}
    for name, tensor in tensors.items():
        if not isinstance(tensor, _Tensor):
            raise ArchiveError(f"{file}: {shown(str(name))} is no tensor.")
        info = places.get(f"{folder}data/{tensor.storage.key}")
        size = DTYPES[tensor.storage.dtype].itemsize
        contiguous = tuple(math.prod(tensor.shape[i + 1 :]) for i in range(len(tensor.shape)))
        end = (tensor.offset + math.prod(tensor.shape)) * size
        if info is None or info.compress_type != zipfile.ZIP_STORED or end > info.file_size:
            raise ArchiveError(f"{file}: the numbers of {shown(name)} are missing or cut off.")
        if tensor.stride != contiguous:
            raise ArchiveError(f"{file}: {shown(name)} is not stored row after row.")
        if info.filename not in starts:
            stream.seek(info.header_offset)
            header = stream.read(_LOCAL_HEADER)
            extra = sum(int.from_bytes(header[i : i + 2], "little") for i in (26, 28))
            starts[info.filename] = info.header_offset + _LOCAL_HEADER + extra
        offset = starts[info.filename] + tensor.offset * size
        found[name] = _Placed(file, tensor.storage.dtype, tensor.shape, offset)
    return found


class _Unpickler(pickle.Unpickler):
    """Knows dictionaries and tensors, and refuses everything else."""

    def find_class(self, module: str, name: str) -> Any:
        """What a name of the pickle stands for."""
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuilt
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda tensor, *_: tensor
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        raise pickle.UnpicklingError(f"it wants {module}.{name}, which is no tensor")

    def persistent_load(self, given: Any) -> _Storage:
        """A storage of the zip."""
        _, dtype, key, *_ = given
        return _Storage(dtype, str(key))


def _rebuilt(storage: _Storage, offset: int, shape: Any, stride: Any, *_: Any) -> _Tensor:
    """A tensor of a storage."""
    return _Tensor(storage, int(offset), tuple(shape), tuple(stride))
