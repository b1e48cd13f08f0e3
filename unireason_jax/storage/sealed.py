"""JSON objects that know their own checksum, so that a damaged one is not taken for another.

The last key of a sealed object is the CRC-32 of its text without that key.
"""

import json
import re
import zlib
from collections.abc import Mapping
from typing import Any

KEY = "crc32"
_SEAL = re.compile(rb', "crc32": (\d{1,10})\}$')


def seal(values: Mapping[str, Any]) -> str:
    """One line of JSON, not empty, with its checksum."""
    text = json.dumps(values)
    return f'{text[:-1]}, "{KEY}": {zlib.crc32(text.encode())}}}'


def unseal(data: bytes, *, always: bool = False) -> dict[str, Any]:
    """The object that `seal` wrote; one that was never sealed is believed, unless all are.

    Args:
      data: its text.
      always: whether all such objects are sealed.

    Raises:
      ValueError: it is no JSON object, or another than was sealed.
    """
    found = _SEAL.search(data)
    if always and not found:
        raise ValueError("it has no checksum")
    if found and zlib.crc32(data[: found.start()] + b"}") != int(found.group(1)):
        raise ValueError("the content changed (checksum differs)")
    try:
        values = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError):
        raise ValueError("not readable as JSON") from None
    if not isinstance(values, dict):
        raise ValueError("no JSON object")
    if (values.pop(KEY, None) is None) == bool(found):
        raise ValueError("the content changed (its checksum is not where it was written)")
    return values
