"""Arrays of files: read or mapped, and a damaged file is told from a missing one."""

import numpy as np
import pytest

from unireason_jax.storage import arrays

ARRAYS = {
    "first": np.arange(1000, dtype=np.int32).reshape(-1, 2),
    "by_column": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "empty": np.zeros((0, 3), np.int64),
    "a number": np.float64(2.5),
}


def test_mapped_arrays_are_those_that_were_saved(tmp_path):
    path = tmp_path / "some.npz"
    np.savez(path, **ARRAYS)
    for checked in (False, True):
        found = arrays.mapped(path, checked=checked)
        assert found.keys() == ARRAYS.keys()
        for name, array in ARRAYS.items():
            np.testing.assert_array_equal(found[name], array)
            assert found[name].dtype == array.dtype
    assert isinstance(found["first"], np.memmap) and not found["first"].flags.writeable


def test_what_cannot_be_mapped_is_named(tmp_path):
    path = tmp_path / "some.npz"
    with pytest.raises(FileNotFoundError):
        arrays.mapped(path)
    np.savez_compressed(path, **ARRAYS)
    with pytest.raises(ValueError, match=r"some.npz: damaged .*compressed"):
        arrays.mapped(path)
    np.savez(path, **ARRAYS)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"some.npz: damaged"):
        arrays.mapped(path)
    at = whole.index(np.arange(400, 410, dtype=np.int32).tobytes())
    path.write_bytes(whole[:at] + b"\xff" + whole[at + 1 :])
    with pytest.raises(ValueError, match=r"some.npz: damaged"):
        arrays.mapped(path, checked=True)
