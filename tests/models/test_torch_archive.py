"""PyTorch's checkpoints, read without PyTorch."""

import collections
import json
import pickle
import zipfile

import ml_dtypes
import numpy as np
import pytest

from unireason_jax.models.archive import ArchiveError
from unireason_jax.models.torch_archive import STORAGES, TorchArchive


class _Global:
    """Pickles as a name of another module."""

    def __init__(self, module, name):
        self.module, self.name = module, name


class _Call:
    """Pickles as a call of a name."""

    def __init__(self, function, *given):
        self.function, self.given = function, given


class _Storage:
    def __init__(self, kind, key, count):
        self.kind, self.key, self.count = kind, key, count


def written(path, tensors, *, function="_rebuild_tensor_v2", compression=zipfile.ZIP_STORED):
    """Writes a file as torch.save does: name -> (array, offset in its storage)."""
    import io

    storages, listed = {}, collections.OrderedDict()
    kinds = {np.dtype(np.float32): "FloatStorage", np.dtype(ml_dtypes.bfloat16): "BFloat16Storage"}
    for i, (name, (array, offset)) in enumerate(tensors.items()):
        padded = np.concatenate([np.zeros(offset, array.dtype), array.reshape(-1)])
        storages[str(i)] = padded.tobytes()
        storage = _Storage(kinds[array.dtype], str(i), len(padded))
        stride = tuple(s // array.itemsize for s in array.strides)
        call = (storage, offset, array.shape, stride, False, collections.OrderedDict())
        listed[name] = _Call(_Global("torch._utils", function), *call)
    text = io.BytesIO()
    _Pickler(text, protocol=2).dump(listed)
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("model/data.pkl", text.getvalue())
        for key, content in storages.items():
            archive.writestr(f"model/data/{key}", content)
    return path


class _Pickler(pickle._Pickler):
    """Writes names of modules that are not installed."""

    dispatch = pickle._Pickler.dispatch.copy()

    def persistent_id(self, value):
        if isinstance(value, _Storage):
            return ("storage", _Global("torch", value.kind), value.key, "cpu", value.count)
        return None

    def _global(self, value):
        self.write(pickle.GLOBAL + f"{value.module}\n{value.name}\n".encode())

    def _call(self, value):
        self.save(value.function)
        self.save(tuple(value.given))
        self.write(pickle.REDUCE)

    dispatch[_Global] = _global
    dispatch[_Call] = _call


def test_tensors_are_read_whole_and_in_part(tmp_path):
    a = np.arange(12, dtype=np.float32).reshape(3, 4)
    b = np.arange(5).astype(ml_dtypes.bfloat16)
    archive = TorchArchive(written(tmp_path / "pytorch_model.bin", {"a": (a, 7), "b": (b, 0)}))
    assert set(archive) == {"a", "b"} and "c" not in archive
    assert (archive.shape("a"), archive.dtype("a"), archive.dtype("b")) == ((3, 4), "F32", "BF16")
    assert archive.read("a").tobytes() == a.tobytes()
    assert archive.read("b").tobytes() == b.tobytes()
    assert archive.read("a", (slice(1, 3), slice(0, 2))).tolist() == a[1:3, :2].tolist()


def test_shards_are_one(tmp_path):
    x = np.ones(3, np.float32)
    for i in (1, 2):
        written(tmp_path / f"m-{i}.bin", {f"x{i}": (i * x, 0)})
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": {"x1": "m-1.bin", "x2": "m-2.bin"}}))
    assert TorchArchive(index).read("x2").tolist() == [2, 2, 2]


def test_nothing_but_tensors_is_unpickled(tmp_path):
    x = np.ones(3, np.float32)
    path = written(tmp_path / "a.bin", {"x": (x, 0)}, function="_import_dotted_name")
    with pytest.raises(ArchiveError, match=r"a\.bin: .*_import_dotted_name"):
        TorchArchive(path)
    assert "system" not in STORAGES


@pytest.mark.parametrize("content", [b"", b"\x80\x02}", b"PK\x03\x04garbage"])
def test_what_is_no_checkpoint_is_named(tmp_path, content):
    path = tmp_path / "a.bin"
    path.write_bytes(content)
    with pytest.raises(ArchiveError, match=r"a\.bin"):
        TorchArchive(path)


def test_columns_and_cut_storages_are_refused_by_name(tmp_path):
    x = np.ones((3, 2), np.float32).T
    with pytest.raises(ArchiveError, match=r"'x' is not stored row after row"):
        TorchArchive(written(tmp_path / "a.bin", {"x": (x, 0)}))
    whole = np.ones((3, 2), np.float32)
    packed = {"x": (whole, 0)}
    with pytest.raises(ArchiveError, match=r"'x' are missing"):
        TorchArchive(written(tmp_path / "b.bin", packed, compression=zipfile.ZIP_DEFLATED))
