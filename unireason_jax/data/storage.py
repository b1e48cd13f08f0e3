"""A record as bytes, for ArrayRecord shards: a JSON header, then images and latents.

Layout: 4 bytes magic, uint32 little-endian length of the header, the header, then each segment's
image and moments in order. Encoded images keep their bytes; arrays are stored raw, in their own
dtype, so that nothing is lost.
"""

import dataclasses
import json
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
    header = json.loads(data[8:end])
    segments = []
    for entry in header["segments"]:
        blobs = {}
        for name in _BLOBS:
            if name in entry:
                size, shape, *dtype = entry.pop(name)
                blobs[name] = _blob(header["id"], data[end : end + size], size, shape, *dtype)
                end += size
        segments.append(Segment(**entry, **blobs))
    return Record(
        header["id"], tuple(segments), header["source"], header["licence"], header["metadata"]
    )


def _blob(name: str, blob: bytes, size: int, shape: list[int] | None, dtype: str = "uint8"):
    """An encoded image (no shape) or an array."""
    if len(blob) != size:
        raise ValueError(f"record '{name}' is cut off: prepare its shard again")
    if shape is None:
        return blob
    return np.frombuffer(blob, DTYPES.get(dtype, np.dtype(np.uint8))).reshape(shape)


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
