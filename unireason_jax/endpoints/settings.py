"""What is known of an endpoint before it is called."""

import os
import re
from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import urlsplit

import pydantic

_LOOKS_SECRET = re.compile(r"(?i)[/;](sk-|[^/;]*(key|token|secret)=)")
_PATH = re.compile(r"/(chat/completions|images/(generations|edits)|models)/*$")
_KEYS = ("key", "api_key", "apikey", "authorization", "bearer", "token", "api_token")
_TOLD = 3


class Endpoint(pydantic.BaseModel):
    """An address that a model answers at, its limits and its prices.

    Attributes:
      url: base address, up to and with `/v1`; that of a reward service as it is served.
      model: name at the endpoint; may be empty for a reward service.
      key: name of the environment variable that holds the key, never the key; empty for none.
      concurrency: most calls in flight.
      per_minute: most calls begun in a minute, 0 for no limit.
      timeout: seconds of one call from its connection to the last byte of its answer.
      retries: further calls after a timeout, a lost connection, 429 or a server's fault.
      wait: seconds before the first retry; doubles every time, with jitter.
      max_bytes: of an answer.
      prices: per million tokens read and written.
      price_image: per picture made.
      extra: further fields of a request's body.
      structured: how the shape of an answer is asked for: by `response_format` with a JSON schema,
        as any JSON object, or by words alone.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    url: str
    model: str = ""
    key: str = ""
    concurrency: int = pydantic.Field(8, ge=1, le=4096)
    per_minute: float = pydantic.Field(0.0, ge=0, allow_inf_nan=False)
    timeout: float = pydantic.Field(120.0, gt=0, allow_inf_nan=False)
    retries: int = pydantic.Field(5, ge=0)
    wait: float = pydantic.Field(1.0, ge=0, allow_inf_nan=False)
    max_bytes: int = pydantic.Field(64 << 20, ge=1)
    prices: tuple[float, float] = (0.0, 0.0)
    price_image: float = pydantic.Field(0.0, ge=0, allow_inf_nan=False)
    extra: dict[str, Any] = {}
    structured: Literal["json_schema", "json_object", "words"] = "json_schema"

    @pydantic.field_validator("url")
    @classmethod
    def _is_an_address(cls, url: str) -> str:
        try:
            parts = urlsplit(url)
            good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
            good = good and parts.hostname.encode("idna") and not re.search(r"[\s\x00-\x1f]", url)
        except ValueError:  # a port that is no number, a host that none can have
            good = False
        if not good:
            raise ValueError("give an address like http://127.0.0.1:8000/v1")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError(
                "an address holds no user, password, query or '#'; name the variable of the key as "
                "'key'"
            )
        if _LOOKS_SECRET.search(parts.path):
            raise ValueError("an address holds no key; name the variable of the key as 'key'")
        if _PATH.search(url):
            raise ValueError("give the base address, up to /v1; what is asked for is added to it")
        return url.rstrip("/")

    @pydantic.field_validator("extra")
    @classmethod
    def _holds_no_key(cls, extra: dict[str, Any]) -> dict[str, Any]:
        for name in extra:
            if name.lower().replace("-", "_") in _KEYS:
                raise ValueError(f"'{name}' is no field for a key; name its variable as 'key'")
        return extra

    @pydantic.field_validator("key")
    @classmethod
    def _is_a_variable(cls, key: str) -> str:
        if key and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", key):
            raise ValueError("give the name of an environment variable, not the key itself")
        return key

    @pydantic.field_validator("prices")
    @classmethod
    def _are_prices(cls, prices: tuple[float, float]) -> tuple[float, float]:
        if not all(0 <= price < float("inf") for price in prices):
            raise ValueError("prices are numbers from 0 on")
        return prices


def secret_of(endpoint: Endpoint, environment: Mapping[str, str] | None = None) -> str:
    """The key that an endpoint's variable holds, "" for none.

    Raises:
      ValueError: the variable is not set, or what it holds fits into no header.
    """
    if not endpoint.key:
        return ""
    found = (os.environ if environment is None else environment).get(endpoint.key, "").strip()
    if not found:
        # what is in small letters, or long, may be a key in the place of its variable's name
        named = re.fullmatch(r"[A-Z][A-Z0-9_]{0,31}", endpoint.key)
        which = endpoint.key if named else "(not shown: 'key' names a variable, never holds a key)"
        raise ValueError(f"the environment variable {which} for {endpoint.url} is not set.")
    return checked_secret(found, f"the environment variable {endpoint.key}")


def checked_secret(secret: str, whose: str) -> str:
    """The key. Raises ValueError, without showing it, where no header can carry it."""
    if not secret.isascii() or not secret.isprintable():
        raise ValueError(f"{whose} holds characters that no header can carry; check the key.")
    return secret


def faults(error: pydantic.ValidationError) -> str:
    """What is wrong with settings, in one line: field and reason; values are not repeated."""
    told = []
    for each in error.errors(include_url=False, include_input=False, include_context=False):
        place = ".".join(str(part) for part in each["loc"]) or "it"
        told.append(f"{place}: {each['msg'].removeprefix('Value error, ')}")
    more = [f"and {len(told) - _TOLD} more"] if len(told) > _TOLD else []
    return "; ".join(told[:_TOLD] + more)
