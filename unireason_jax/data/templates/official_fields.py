"""Fields of published rows, read with errors that name row, field and remedy."""

import json
from collections.abc import Mapping
from typing import Any

from unireason_jax.data.records import RecordError

Row = Mapping[str, Any]


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
        raise problem(row, f"field 'licence' is {value!r}; give a text")
    return value


def one_image(row: Row, key: str) -> Any:
    """One image: a path or encoded bytes, alone or as the only entry of a list.

    Raises:
      RecordError: there is none, or more than one.
    """
    image = row.get(key)
    if isinstance(image, list) and len(image) == 1:
        image = image[0]
    if not image or not isinstance(image, str | bytes):
        raise problem(row, f"field '{key}' is {image!r}; give one image")
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
            raise problem(row, f"field '{key}', entry {number} is {image!r}; give an image")
    return images


def reasoning(row: Row, *keys: str) -> str | None:
    """The first of `keys` that the row has; None where it has none.

    Raises:
      RecordError: its value is not a text with words.
    """
    found = [row[key] for key in keys if key in row]
    if found and (not isinstance(found[0], str) or not found[0].strip()):
        raise problem(row, f"field '{keys[0]}' is {found[0]!r}; give a reasoning text")
    return found[0] if found else None


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
