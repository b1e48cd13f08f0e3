"""`images/generations` and `images/edits` of the OpenAI form."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any

import aiohttp

from unireason_jax.endpoints.failures import CallFailure, shown
from unireason_jax.endpoints.pictures import decoded, kind_of, opened
from unireason_jax.endpoints.settings import Endpoint


@dataclasses.dataclass(frozen=True)
class Request:
    """What is to be drawn.

    Attributes:
      prompt: the words.
      pictures: encoded pictures to be edited, in order.
      size: (width, height); None leaves it to the endpoint. An answer of another size fails.
      seed: sent where it is given; OpenAI's own models do not know it.
      count: pictures of one call.
    """

    prompt: str
    pictures: tuple[bytes, ...] = ()
    size: tuple[int, int] | None = None
    seed: int | None = None
    count: int = 1

    def content(self) -> dict[str, Any]:
        """All of it, as what a call is known by."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


def wire(kind: str, endpoint: Endpoint, request: Request) -> tuple[str, Callable[[], Any]]:
    """Path and maker of the body of a request: JSON, or a form where pictures go in."""
    fields: dict[str, Any] = {"model": endpoint.model, "prompt": request.prompt}
    fields |= {"n": request.count, "response_format": "b64_json"}
    if request.size:
        fields["size"] = "{}x{}".format(*request.size)
    if request.seed is not None:
        fields["seed"] = request.seed
    # an empty extra field takes one away that an endpoint refuses, as some do response_format
    fields = {k: v for k, v in {**fields, **endpoint.extra}.items() if v != ""}
    if kind == "generate":
        data = json.dumps(fields, sort_keys=True).encode()
        return "/images/generations", lambda: data

    def form() -> aiohttp.FormData:
        found = aiohttp.FormData()
        for name, value in fields.items():
            found.add_field(name, value if isinstance(value, str) else json.dumps(value))
        field = "image" if len(request.pictures) == 1 else "image[]"
        for number, picture in enumerate(request.pictures):
            suffix = kind_of(picture)
            found.add_field(
                field, picture, filename=f"{number}.{suffix}", content_type=f"image/{suffix}"
            )
        return found

    return "/images/edits", form


def read(found: Any, request: Request) -> list[bytes]:
    """The encoded pictures of an answer.

    Raises:
      CallFailure: there are none or too few, or one is no picture of the size asked for.
    """
    rows = found.get("data") if isinstance(found, Mapping) else None
    if not isinstance(rows, list) or len(rows) < request.count:
        raise CallFailure("server", f"no {request.count} pictures in {shown(found)}")
    made = []
    for row in rows[: request.count]:
        data = decoded(row.get("b64_json") if isinstance(row, Mapping) else None)
        opened(data, request.size)
        made.append(data)
    return made
