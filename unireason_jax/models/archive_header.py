"""The header of a safetensors file, every field checked before a byte of a tensor is read.

A file from elsewhere may say anything: the checks are those of the format's own description. Its
tensors lie back to back, in any order, from the end of the header to the end of the file.
"""

import json
import math
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

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
LIMIT = 100_000_000
"""Most bytes of a header, as the format says."""
_MOST_AXES, _MOST_BYTES = 32, 2**63 - 1


class Span(NamedTuple):
    """Type, shape, and the bytes of a tensor, counted from the end of the header."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def parse(text: bytes, size: int) -> tuple[dict[str, Span], dict[str, str]]:
    """Tensors by name, and the metadata.

    Args:
      text: the header.
      size: bytes that follow it in the file.

    Raises:
      ValueError: what is wrong, and with which tensor; the caller knows the file.
    """
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the safetensors header is damaged ({error})") from None
    if not isinstance(header, dict):
        raise ValueError("the safetensors header is damaged (it is no JSON object)")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ValueError("the safetensors header is damaged (__metadata__ is no table of texts)")
    found = {name: _span(name, value) for name, value in header.items()}
    _check_places(found, size)
    return found, metadata


def shown(name: str) -> str:
    """A tensor's name in a message: quoted, printable, and cut where it is long."""
    quoted = ascii(name)
    return quoted if len(quoted) <= 120 else f"{quoted[:117]}..."


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose keys stand once each."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{shown(name)} stands there twice")
        found[name] = value
    return found


def _span(name: str, value: Any) -> Span:
    """One entry. Raises ValueError naming the tensor and the field."""
    tensor = f"tensor {shown(name)}"
    if not isinstance(value, dict):
        raise ValueError(f"{tensor}: its entry in the header is damaged")
    if lost := {"dtype", "shape", "data_offsets"} - value.keys():
        raise ValueError(f"{tensor}: its entry in the header is damaged (no {min(lost)})")
    kind, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(kind, str) or kind not in DTYPES:
        raise ValueError(
            f"{tensor} has type {shown(str(kind))[1:-1]}; known are {', '.join(DTYPES)}"
        )
    if not _counts(shape) or len(shape) > _MOST_AXES:
        raise ValueError(f"{tensor}: field shape is no list of at most {_MOST_AXES} whole numbers")
    if not _counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ValueError(f"{tensor}: field data_offsets is no pair of whole numbers, begin and end")
    bytes_each, (begin, end) = DTYPES[kind].itemsize, offsets
    if math.prod(shape) * bytes_each != end - begin:
        raise ValueError(f"{tensor} has {end - begin} bytes for {tuple(shape)} of {kind}")
    if math.prod(max(n, 1) for n in shape) * bytes_each > _MOST_BYTES:
        raise ValueError(f"{tensor}: field shape {tuple(shape)} is too large")
    return Span(kind, tuple(shape), begin, end)


def _counts(value: Any) -> bool:
    """Whether a value is a list of whole numbers from 0 to what a file can hold."""
    return isinstance(value, list) and all(type(n) is int and 0 <= n <= _MOST_BYTES for n in value)


def _check_places(found: dict[str, Span], size: int) -> None:
    """Raises ValueError where tensors overlap, leave a gap, or do not end with the file."""
    at = 0
    for name, span in sorted(found.items(), key=lambda item: item[1][2:]):
        if span.end > size:
            raise ValueError(
                f"truncated; tensor {shown(name)} ends at byte {span.end} of {size} after the "
                "header"
            )
        if span.begin != at:
            how = "overlaps the one before it" if span.begin < at else "leaves a gap before it"
            raise ValueError(f"tensor {shown(name)} {how} (field data_offsets)")
        at = span.end
    if at < size:
        raise ValueError(f"{size - at} bytes at the end belong to no tensor")
