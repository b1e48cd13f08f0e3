"""A record as bytes, for ArrayRecord shards: a JSON header, then images and latents.

Layout: 4 bytes magic, uint32 little-endian length of the header, the header, then each segment's
image and moments in order. Encoded images keep their bytes; arrays are stored raw, in their own
dtype, so that nothing is lost.
"""

import dataclasses
import json
import math
from typing import Any

import ml_dtypes  # names bfloat16 to NumPy
import numpy as np

from unireason_jax.data.records import Record, RecordError, Segment

MAGIC = b"URR1"
DTYPES = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
"""How moments can be stored."""
_BLOBS = ("image", "moments")
_FLAGS = [field.name for field in dataclasses.fields(Segment) if field.name not in _BLOBS]
_HEADER = {"id": str, "source": str, "licence": str, "metadata": dict, "segments": list}
_TEXT, _SWITCH = (str, type(None)), (bool,)
_KINDS = {"kind": (str,), "role": (str,), "text": _TEXT, "tag": _TEXT, "loss": (str,)}
_KINDS |= {"next": (str,), "und": _SWITCH, "gen": _SWITCH, "drop": _SWITCH, "weight": (int, float)}
_DEFAULTS = {
    field.name: field.default
    for field in dataclasses.fields(Segment)
    if field.name in _FLAGS and field.default is not dataclasses.MISSING
}


def to_bytes(record: Record) -> bytes:
    """A record whose images are arrays or encoded bytes, as bytes.

    Raises:
      RecordError: an image is a path (read the file first), or the metadata is not JSON.
    """
    blobs: list[bytes] = []
    segments = [_described(record, n, blobs) for n, _ in enumerate(record.segments)]
    header = {
        "id": record.id,
        "source": record.source,
        "licence": record.licence,
        "metadata": record.metadata,
        "segments": segments,
    }
    try:
        text = json.dumps(header).encode()
    except TypeError as error:
        raise RecordError(record.id, None, f"field 'metadata' cannot be stored: {error}") from None
    return b"".join([MAGIC, len(text).to_bytes(4, "little"), text, *blobs])


def is_stored(data: bytes) -> bool:
    """Whether bytes are a record of `to_bytes`."""
    return data[:4] == MAGIC


def from_bytes(data: bytes) -> Record:
    """The record that `to_bytes` wrote.

    Raises:
      ValueError: the bytes are something else, or cut off.
    """
    if not is_stored(data):
        raise ValueError(f"not a stored record: it starts with {data[:4]!r} instead of {MAGIC!r}")
    end = 8 + int.from_bytes(data[4:8], "little")
    try:
        header = json.loads(data[8:end].decode("utf-8"))
        if not isinstance(header, dict) or set(header) != set(_HEADER):
            raise ValueError("its fields are others")
        if wrong := [name for name, kind in _HEADER.items() if type(header[name]) is not kind]:
            raise ValueError(f"field '{wrong[0]}' is of another type")
        segments = []
        for entry in header["segments"]:
            segment, end = _segment(entry, data, end)
            segments.append(segment)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"the stored record is damaged ({error}): prepare its shard again"
        ) from None
    if end != len(data):
        more = len(data) - end
        raise ValueError(f"the record is damaged ({more} bytes more): prepare its shard again")
    return Record(
        header["id"], tuple(segments), header["source"], header["licence"], header["metadata"]
    )


def _segment(entry: Any, data: bytes, at: int) -> tuple[Segment, int]:
    """A segment and where its images and moments end, which begin at byte `at`."""
    if not isinstance(entry, dict) or not {"kind", "role"} <= entry.keys():
        raise ValueError("a segment is none")
    blobs = {}
    for name in _BLOBS:
        if name in entry:
            about = entry.pop(name)
            if not isinstance(about, list) or len(about) not in (2, 3) or not _is_count(about[0]):
                raise ValueError(f"field '{name}' is not where it lies")
            size, shape, *dtype = about
            blobs[name] = _blob(name, data[at : at + size], size, shape, *dtype)
            at += size
    for name, value in entry.items():
        if name not in _KINDS or type(value) not in _KINDS[name]:
            raise ValueError(f"field '{name[:20]}' is unknown or of another type")
    return Segment(**entry, **blobs), at


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 40


def _blob(name: str, blob: bytes, size: int, shape: Any, dtype: Any = "uint8"):
    """An encoded image (no shape) or an array."""
    if len(blob) != size:
        raise ValueError("it is cut off")
    if shape is None:
        return blob
    kind = np.dtype(np.uint8) if dtype == "uint8" else DTYPES.get(str(dtype))
    if kind is None:
        raise ValueError(f"field '{name}' is of type {str(dtype)[:20]!r}")
    if not isinstance(shape, list) or len(shape) > 8 or not all(map(_is_count, shape)):
        raise ValueError(f"field '{name}' has no shape")
    if math.prod(shape) * kind.itemsize != size:
        raise ValueError(f"field '{name}' has {size} bytes for {shape}")
    return np.frombuffer(blob, kind).reshape(shape)


def _described(record: Record, number: int, blobs: list[bytes]) -> dict[str, Any]:
    segment = record.segments[number]
    entry = {
        name: value
        for name in _FLAGS
        if (value := getattr(segment, name)) != _DEFAULTS.get(name, dataclasses.MISSING)
    }
    image, moments = segment.image, segment.moments
    if isinstance(image, np.ndarray):
        blobs.append(np.ascontiguousarray(image).tobytes())
        entry["image"] = [len(blobs[-1]), list(image.shape)]
    elif isinstance(image, bytes):
        blobs.append(image)
        entry["image"] = [len(image), None]
    elif image is not None:
        raise RecordError(record.id, number, f"image {image} is a path; read it before storing")
    if moments is not None:
        blobs.append(np.ascontiguousarray(moments).tobytes())
        entry["moments"] = [len(blobs[-1]), list(moments.shape), moments.dtype.name]
    return entry
