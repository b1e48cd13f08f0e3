"""Safetensors files from elsewhere: whatever a header says, one line names the file."""

import json

import numpy as np
import pytest

from unireason_jax.models import archive, archive_header
from unireason_jax.models.archive import Archive, ArchiveError, read_json

GOOD = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}


def written(path, header, data=bytes(16), length=None):
    """A file of a header (anything JSON, or bytes) and the bytes behind it."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = len(text) if length is None else length
    path.write_bytes(size.to_bytes(8, "little") + text + data)
    return path


def one(**changes):
    return {"a": GOOD | changes}


def two(first, second):
    entry = {"dtype": "U8", "shape": [8]}
    return {
        "a": entry | {"data_offsets": first},
        "b": entry | {"shape": [second[1] - second[0]], "data_offsets": second},
    }


HEADERS = {
    "negative begin": (one(data_offsets=[-16, 0]), "data_offsets is no pair"),
    "negative end": (one(data_offsets=[0, -16]), "data_offsets is no pair"),
    "backwards": (one(data_offsets=[16, 0]), "data_offsets is no pair"),
    "three offsets": (one(data_offsets=[0, 8, 16]), "data_offsets is no pair"),
    "fractions": (one(data_offsets=[0.0, 16.0]), "data_offsets is no pair"),
    "booleans": (one(data_offsets=[False, 16]), "data_offsets is no pair"),
    "texts": (one(data_offsets=["0", "16"]), "data_offsets is no pair"),
    "null": (one(data_offsets=None), "data_offsets is no pair"),
    "huge offsets": (one(data_offsets=[2**70, 2**70 + 16]), "data_offsets is no pair"),
    "past the end": (one(data_offsets=[16, 32]), "truncated; tensor 'a' ends at byte 32 of 16"),
    "gap before": (one(data_offsets=[4, 12], shape=[2]), "leaves a gap before it"),
    "rest behind": (one(data_offsets=[0, 8], shape=[2]), "8 bytes at the end belong to no tensor"),
    "overlap": (two([0, 8], [4, 16]), "tensor 'b' overlaps the one before it"),
    "same bytes": (two([0, 8], [0, 16]), "overlaps the one before it"),
    "negative axis": (one(shape=[-2, -2]), "shape is no list"),
    "fractional axis": (one(shape=[2.0, 2]), "shape is no list"),
    "boolean axis": (one(shape=[True, 4]), "shape is no list"),
    "shape is a number": (one(shape=4), "shape is no list"),
    "shape is a text": (one(shape="22"), "shape is no list"),
    "huge axis": (one(shape=[2**70]), "shape is no list"),
    "nothing of much": (one(shape=[0, 2**62], data_offsets=[0, 0]), "shape (0, 4611"),
    "many axes": (one(shape=[1] * 64 + [4]), "shape is no list of at most 32"),
    "too few bytes": (one(shape=[2, 3]), "has 16 bytes for (2, 3) of F32"),
    "another type": (one(dtype="F64"), "has 16 bytes for (2, 2) of F64"),
    "unknown type": (one(dtype="F8_X"), "has type F8_X; known are"),
    "type is a list": (one(dtype=["F32"]), "has type"),
    "no shape": ({"a": {"dtype": "F32", "data_offsets": [0, 16]}}, "(no shape)"),
    "entry is a list": ({"a": [1]}, "tensor 'a': its entry"),
    "entry is null": ({"a": None}, "tensor 'a': its entry"),
    "a list": ([GOOD], "no JSON object"),
    "a number": (b"7", "no JSON object"),
    "metadata is a list": ({"__metadata__": [1], "a": GOOD}, "__metadata__ is no table"),
    "metadata of numbers": ({"__metadata__": {"n": 1}, "a": GOOD}, "__metadata__ is no table"),
    "not JSON": (b'{"a": ', "header is damaged"),
    "not UTF-8": (b'{"\xff": 1}', "header is damaged"),
    "UTF-16": (json.dumps(one()).encode("utf-16"), "header is damaged"),
    "deep": (b'{"a":' + b"[" * 100_000, "header is damaged"),
    "digits": (b'{"a":' + b"9" * 5000 + b"}", "header is damaged"),
    "twice": (b'{"a": %b, "a": %b}' % ((json.dumps(GOOD).encode(),) * 2), "'a' stands there twice"),
    "surrogate": ({"\ud800": GOOD | {"dtype": "?"}}, "tensor '\\ud800' has type"),
    "long name": ({"n" * 10**5: GOOD | {"shape": [3]}}, "..."),
    "empty": (b"", "header is damaged"),
    "no tensor": ({}, "16 bytes at the end belong to no tensor"),
}


@pytest.mark.parametrize("case", HEADERS)
def test_a_hostile_header_is_one_line_with_the_files_name(tmp_path, case):
    header, message = HEADERS[case]
    path = written(tmp_path / "x.safetensors", header)
    with pytest.raises(ArchiveError) as caught:
        Archive(path)
    told = str(caught.value)
    assert str(path) in told and message in told
    assert "\n" not in told and len(told) < 600 and told.isprintable()


@pytest.mark.parametrize("length", [19, 2**31, 2**62, 2**64 - 1])
def test_a_header_longer_than_its_file_is_not_read(tmp_path, length):
    path = written(tmp_path / "x.safetensors", b"{}", length=length)
    with pytest.raises(ArchiveError, match=r"x\.safetensors: not a safetensors file"):
        Archive(path)


def test_a_header_above_the_formats_limit_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(archive_header, "LIMIT", 10)
    with pytest.raises(ArchiveError, match="not a safetensors file"):
        Archive(written(tmp_path / "x.safetensors", one()))


def test_what_is_no_file_is_named(tmp_path):
    (tmp_path / "x.safetensors").mkdir()
    with pytest.raises(ArchiveError, match=r"x\.safetensors: a folder"):
        Archive(tmp_path / "x.safetensors")
    (tmp_path / "y.safetensors").write_bytes(b"1234567")
    with pytest.raises(ArchiveError, match=r"y\.safetensors: not a safetensors file"):
        Archive(tmp_path / "y.safetensors")


def test_unusual_files_that_are_right_are_read(tmp_path):
    """Tensors in another order than their bytes, empty ones, none at all."""
    entries = {
        "b": {"dtype": "U8", "shape": [2], "data_offsets": [2, 4]},
        "none": {"dtype": "F32", "shape": [0, 3], "data_offsets": [2, 2]},
        "a": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]},
        "scalar": {"dtype": "U8", "shape": [], "data_offsets": [4, 5]},
    }
    found = Archive(written(tmp_path / "x.safetensors", entries, bytes([1, 2, 3, 4, 5])))
    assert found.read("a").tolist() == [1, 2] and found.read("b").tolist() == [3, 4]
    assert found.read("none").shape == (0, 3) and found.read("scalar") == 5
    assert list(Archive(written(tmp_path / "y.safetensors", {}, b""))) == []
    with pytest.raises(ArchiveError, match=r"x\.safetensors: tensor 'c' is missing"):
        found.read("c")
    with pytest.raises(ArchiveError, match=r"tensor 'a' has shape \[2\], not 2-D"):
        found.shape("a", 2)


def test_a_file_that_shrinks_after_it_was_opened_is_named(tmp_path):
    found = Archive(written(tmp_path / "x.safetensors", one()))
    (tmp_path / "x.safetensors").write_bytes(b"")
    with pytest.raises(ArchiveError, match="truncated while reading 'a'"):
        found.read("a")


INDEXES = {
    "no map": ({}, "'weight_map' is no table"),
    "map is a list": ({"weight_map": ["x"]}, "'weight_map' is no table"),
    "a number": ({"weight_map": {"a": 1}}, "'weight_map' is no table"),
    "outside": ({"weight_map": {"a": "../x.safetensors"}}, "is no file name"),
    "absolute": ({"weight_map": {"a": "/etc/passwd"}}, "is no file name"),
    "the folder": ({"weight_map": {"a": "."}}, "is no file name"),
    "null byte": ({"weight_map": {"a": "x\0"}}, "is no file name"),
    "lost tensor": ({"weight_map": {"z": "x.safetensors"}}, "'z' is listed, but x.safetensors"),
    "other file": ({"weight_map": {"a": "y.safetensors", "b": "x.safetensors"}}, "is listed, but"),
    "twice": ({"weight_map": {"a": "x.safetensors", "b": "z.safetensors"}}, "in two of its files"),
    "a list": ([1], "no JSON object"),
    "not JSON": (None, "not valid JSON"),
}


@pytest.mark.parametrize("case", INDEXES)
def test_a_hostile_index_is_one_line_with_its_name(tmp_path, case):
    values, message = INDEXES[case]
    written(tmp_path / "x.safetensors", one())
    written(tmp_path / "y.safetensors", {"b": GOOD})
    written(
        tmp_path / "z.safetensors", {"a": GOOD, "b": GOOD | {"data_offsets": [16, 32]}}, bytes(32)
    )
    path = tmp_path / "m.safetensors.index.json"
    path.write_text("{" if values is None else json.dumps(values))
    with pytest.raises(ArchiveError) as caught:
        Archive(path)
    assert str(path) in str(caught.value) and message in str(caught.value)


@pytest.mark.parametrize("data", [b"\xff\xfe{\0}\0", b"[" * 10**5, b"", b"nul", b"[]", b"\x80"])
def test_a_json_file_that_is_none_is_named(tmp_path, data):
    (tmp_path / "config.json").write_bytes(data)
    with pytest.raises(ArchiveError, match=r"config\.json: no"):
        read_json(tmp_path / "config.json")


def test_the_format_is_what_others_write(tmp_path):
    """The official library's file reads back, and reads ours."""
    numpy = pytest.importorskip("safetensors.numpy")
    values = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array([], np.int64)}
    numpy.save_file(values, tmp_path / "x.safetensors", metadata={"format": "pt"})
    found = Archive(tmp_path / "x.safetensors")
    assert found.metadata == {"format": "pt"}
    announced = {name: (found.shape(name), found.dtype(name)) for name in found}
    archive.write_archive(
        tmp_path, "y", announced, lambda name: [found.read(name)], shard_bytes=1 << 20
    )
    for name, value in numpy.load_file(tmp_path / "y.safetensors").items():
        np.testing.assert_array_equal(value, values[name])
