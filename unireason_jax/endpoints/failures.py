"""The one way in which a call fails, and the secrets that no message may carry."""

from collections.abc import Iterable
from typing import Any

HIDDEN = "[key]"
_SHOWN = 200


class CallFailure(Exception):
    """A call without a usable answer; the message holds no key.

    Attributes:
      kind: timeout, rate limit, refusal, server, request, connection, budget.
      cost: that was paid all the same.
      again: whether the same call may succeed later.
      pause: seconds that the endpoint asks to wait before that, 0 where it says nothing.
      status: of the HTTP answer, 0 where there was none.
    """

    def __init__(
        self,
        kind: str,
        message: str,
        cost: float = 0.0,
        *,
        again: bool = False,
        pause: float = 0.0,
        status: int = 0,
    ):
        super().__init__(message)
        self.kind, self.cost, self.again, self.pause = kind, cost, again, pause
        self.status = status


def scrub(value: Any, secrets: Iterable[str]) -> Any:
    """JSON-able values with every secret in their texts replaced, keys of objects included."""
    if isinstance(value, str):
        for secret in secrets:
            value = value.replace(secret, HIDDEN) if secret else value
        return value
    if isinstance(value, list):
        return [scrub(each, secrets) for each in value]
    if isinstance(value, dict):
        return {scrub(key, secrets): scrub(each, secrets) for key, each in value.items()}
    return value


def shown(text: Any, secrets: Iterable[str] = ()) -> str:
    """What a stranger sent, on one line of a message: without secrets, cut where it is long."""
    text = " ".join(str(scrub(str(text), secrets)).split())
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
