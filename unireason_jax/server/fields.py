"""Fields of a request's body, each read with its own check."""

import json
import re
from collections.abc import Collection, Mapping
from typing import Any

from unireason_jax.data import images
from unireason_jax.inference.requests import check_names
from unireason_jax.inference.settings import OPTIONS
from unireason_jax.inference.values import whole
from unireason_jax.server.errors import Refusal, wrong

OURS = (*OPTIONS, "rounds", "id")
"""What a body may hold beside the fields of OpenAI's protocol: how to sample."""
MOST_IMAGES = 8
_SIZE = re.compile(r"(\d{1,5})x(\d{1,5})")


def body(raw: bytes) -> dict[str, Any]:
    """A JSON object.

    Raises:
      Refusal: it is none.
    """
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError) as error:
        reason = str(error) if len(str(error)) < 100 else type(error).__name__
        raise wrong(f"the body is not JSON ({reason}).", code="invalid_json") from None
    if not isinstance(found, dict):
        raise wrong("the body is not a JSON object.", code="invalid_json")
    return found


def check(given: Mapping[str, Any], known: Collection[str]) -> None:
    """Raises Refusal for fields that nobody knows, with the one that may be meant."""
    unknown = [name for name in given if name not in known]
    if unknown:
        try:
            check_names(unknown, list(known))
        except ValueError as error:
            raise wrong(str(error), unknown[0], "unknown_parameter") from None


def neutral(given: Mapping[str, Any], values: Mapping[str, Collection[Any]]) -> None:
    """Raises Refusal for fields that are not supported, unless their value asks for nothing."""
    for name, allowed in values.items():
        if given.get(name) is not None and given[name] not in allowed:
            told = f"'{name}' is not supported by this server; leave it out."
            raise wrong(told, name, "unsupported_parameter")


def text(given: Mapping[str, Any], name: str) -> str:
    """A text that must be there."""
    if not isinstance(given.get(name), str):
        has = "is missing" if given.get(name) is None else "is not a text"
        raise wrong(f"'{name}' {has}.", name)
    return given[name]


def number(given: Mapping[str, Any], name: str, usual: int, least: int, most: int) -> int:
    """A whole number within its range."""
    value = given.get(name)
    if value is None:
        return usual
    try:
        return whole(name, value, least=least, most=most)
    except ValueError as error:
        raise wrong(str(error), name) from None


def flag(given: Mapping[str, Any], name: str) -> bool:
    """Yes or no; no where it is not given."""
    value = given.get(name)
    if value is not None and not isinstance(value, bool):
        raise wrong(f"'{name}' must be true or false.", name)
    return bool(value)


def size(value: Any) -> tuple[int, int] | None:
    """(height, width) of "WIDTHxHEIGHT"; None for "auto" and where it is not given."""
    if value in (None, "auto"):
        return None
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if not match:
        raise wrong('\'size\' must be WIDTHxHEIGHT in pixels, as "1024x768", or "auto".', "size")
    return int(match[2]), int(match[1])


def options(given: Mapping[str, Any]) -> dict[str, Any]:
    """How to sample, as `Reasoner.prepare` takes it."""
    found = {name: given[name] for name in OURS if given.get(name) is not None}
    if "id" in found:
        found["name"] = found.pop("id")
    found["size"] = size(given.get("size"))
    if given.get("seed") is not None:
        found["seed"] = number(given, "seed", 0, 0, 2**64 - 1)
    return {name: value for name, value in found.items() if value is not None}


def picture(url: Any, param: str, most: int) -> bytes:
    """The bytes of an image written as a data URI, which holds at most `most` pixels.

    Raises:
      Refusal: an address, which this server never opens; not base64, damaged, or too large.
    """
    if not isinstance(url, str):
        raise wrong(f"'{param}' is not a text; give data:image/png;base64,...", param)
    if url[:5].lower() != "data:":
        told = "this server opens no addresses and no files; give data:image/png;base64,..."
        raise wrong(f"'{param}': {told}", param, "invalid_image_url")
    try:
        data = images.embedded(url)
    except ValueError as error:
        raise wrong(f"'{param}': {error}", param, "invalid_image") from None
    return checked(data, param, most)


def checked(data: bytes | None, param: str, most: int) -> bytes:
    """The bytes of an image that can be decoded and is not too large.

    Raises:
      Refusal: it is damaged, or too large.
    """
    try:
        width, height = images.size(data or b"")
        if width * height > most:
            told = f"it has {width * height:,} pixels, more than this server's {most:,}; shrink it."
            raise wrong(f"'{param}': {told}", param, "image_too_large")
        images.load(data)
    except ValueError as error:
        raise wrong(f"'{param}': {error}.", param, "invalid_image") from None
    except Refusal:
        raise
    return data
