"""A record as bytes, for ArrayRecord shards: a JSON header, then the images.

Layout: 4 bytes magic, uint32 little-endian length of the header, the header, the images one after
the other. Encoded images keep their bytes; arrays are stored raw, so that nothing is lost.
"""

import dataclasses
import json
from typing import Any

import numpy as np

from unireason_jax.data.records import Record, RecordError, Segment

MAGIC = b"URR1"
_FLAGS = [field.name for field in dataclasses.fields(Segment) if field.name != "image"]
_DEFAULTS = {
    field.name: field.default
    for field in dataclasses.fields(Segment)
    if field.default is not dataclasses.MISSING
}


def to_bytes(record: Record) -> bytes:
    """A record whose images are arrays or encoded bytes, as bytes.

    Raises:
      RecordError: an image is a path (read the file first), or the metadata is not JSON.
    """
    images: list[bytes] = []
    segments = [_described(record, n, images) for n, _ in enumerate(record.segments)]
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
    return b"".join([MAGIC, len(text).to_bytes(4, "little"), text, *images])


def from_bytes(data: bytes) -> Record:
    """The record that `to_bytes` wrote.

    Raises:
      ValueError: the bytes are something else, or cut off.
    """
    if data[:4] != MAGIC:
        raise ValueError(f"not a stored record: it starts with {data[:4]!r} instead of {MAGIC!r}")
    end = 8 + int.from_bytes(data[4:8], "little")
    header = json.loads(data[8:end])
    segments = []
    for entry in header["segments"]:
        image = entry.pop("image", None)
        if image is not None:
            size, shape = image
            blob = data[end : end + size]
            if len(blob) != size:
                raise ValueError(f"record '{header['id']}' is cut off: prepare its shard again")
            end += size
            image = blob if shape is None else np.frombuffer(blob, np.uint8).reshape(shape)
        segments.append(Segment(**entry, image=image))
    return Record(
        header["id"], tuple(segments), header["source"], header["licence"], header["metadata"]
    )


def _described(record: Record, number: int, images: list[bytes]) -> dict[str, Any]:
    segment = record.segments[number]
    entry = {
        name: value
        for name in _FLAGS
        if (value := getattr(segment, name)) != _DEFAULTS.get(name, dataclasses.MISSING)
    }
    image = segment.image
    if isinstance(image, np.ndarray):
        images.append(np.ascontiguousarray(image).tobytes())
        entry["image"] = [len(images[-1]), list(image.shape)]
    elif isinstance(image, bytes):
        images.append(image)
        entry["image"] = [len(image), None]
    elif image is not None:
        raise RecordError(record.id, number, f"image {image} is a path; read it before storing")
    return entry
