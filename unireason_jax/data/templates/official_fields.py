"""Fields of published rows, read with errors that name row, field and remedy."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from unireason_jax.data.records import RecordError, cut

Row = Mapping[str, Any]
IMAGES = ("image_path", "image", "file_name", "img", "jpg", "jpeg", "png", "webp")
"""Fields in which the image of a captioned row may be."""


def row_id(row: Row) -> str:
    """The row's name; "?" where it has none."""
    return str(row.get("id", "?"))


def problem(row: Row, reason: str) -> RecordError:
    """The error for a row that cannot be used."""
    return RecordError(row_id(row), None, reason)


def origin(row: Row) -> dict[str, Any]:
    """The part of an example that says where it comes from."""
    return {"id": row_id(row), "licence": licence(row)}


def licence(row: Row) -> str:
    """The row's licence, "" where none is given. Raises RecordError when it is not a text."""
    value = row.get("licence") or ""
    if not isinstance(value, str):
        raise problem(row, f"field 'licence' is {cut(value)}; give a text")
    return value


def words(row: Row, key: str) -> str:
    """A text of the row. Raises RecordError where it is none, or has no words."""
    text = row.get(key)
    if not isinstance(text, str):
        raise problem(row, f"field '{key}' is {cut(text)}; give a text")
    if not text.strip():
        raise problem(row, f"field '{key}' is empty; leave the record out")
    return text


def first_of(row: Row, keys: Sequence[str]) -> str:
    """The first of `keys` that is not null in the row, else that is in it; else the first."""
    there = [key for key in keys if key in row]
    return next((key for key in there if row[key] is not None), (there or keys)[0])


def one_image(row: Row, *keys: str) -> str | bytes:
    """One image of the first of `keys` that the row has: a path or encoded bytes, or a list of one.

    Raises:
      RecordError: there is none, or more than one.
    """
    key = first_of(row, keys)
    image = row.get(key)
    if isinstance(image, list) and len(image) == 1:
        image = image[0]
    if not image or not isinstance(image, str | bytes):
        raise problem(row, f"field '{key}' is {cut(image)}; give one image")
    return image


def images_of(row: Row, key: str) -> list[Any]:
    """The images of a field that holds one, a list, or none.

    Raises:
      RecordError: an entry is neither a path nor encoded bytes, or empty.
    """
    value = row.get(key)
    images = value if isinstance(value, list) else [] if value is None else [value]
    for number, image in enumerate(images):
        if not image or not isinstance(image, str | bytes):
            raise problem(row, f"field '{key}', entry {number} is {cut(image)}; give an image")
    return images


def reasoning(row: Row, *keys: str) -> str | None:
    """The first of `keys` that the row has; None where it has none.

    Raises:
      RecordError: its value is not a text with words.
    """
    key = next((key for key in keys if key in row), None)
    return key and words(row, key)


def entries(row: Row, key: str) -> list[Row]:
    """The objects of a field that is a list of them, or the JSON text of one.

    Raises:
      RecordError: it is something else, or empty.
    """
    value = row.get(key)
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise problem(row, f"field '{key}' is not JSON: {error}") from None
    if not isinstance(value, list) or not value or not all(isinstance(e, dict) for e in value):
        raise problem(row, f"field '{key}' must be a list of objects that is not empty")
    return value
