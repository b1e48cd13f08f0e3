"""What stands before the routes: who may come in, and with how much."""

import hmac
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from unireason_jax.server.errors import Refusal
from unireason_jax.server.metrics import Metrics

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Guard:
    """Refuses requests without the key, bodies that are too large, and more than memory holds.

    Args:
      app: what follows.
      key: of all under /v1; empty for none. Compared in constant time, never shown.
      most: bytes of one body.
      memory: bytes of all bodies at a time.
      metrics: are kept.
    """

    def __init__(self, app: Any, *, key: str, most: int, memory: int, metrics: Metrics):
        self.app, self.key, self.metrics = app, key.encode(), metrics
        self.most, self.memory, self.held = most, memory, 0

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Passes a request on, or answers it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        own = {"held": 0, "answered": False}

        async def counted() -> Message:
            message = await receive()
            if message["type"] == "http.request":
                count = len(message.get("body", b""))
                own["held"] += count
                self.held += count
                self._check(own["held"])
            return message

        async def sent(message: Message) -> None:
            own["answered"] = True
            await send(message)

        try:
            self._enter(scope)
            await self.app(scope, counted, sent)
        except Refusal as refusal:
            if not own["answered"]:
                await _answer(refusal, send)
        finally:
            self.held -= own["held"]

    def _enter(self, scope: Message) -> None:
        """Raises Refusal unless the request may come in."""
        headers = dict(scope["headers"])
        if self.key and scope["path"].startswith("/v1"):
            given = headers.get(b"authorization", b"")
            if not hmac.compare_digest(given, b"Bearer " + self.key):
                self.metrics.refused.labels("key").inc()
                told = "the key is wrong or missing; send the header Authorization: Bearer KEY."
                raise Refusal(401, told, code="invalid_api_key")
        length = headers.get(b"content-length", b"")
        self._check(int(length) if length.isdigit() else 0)

    def _check(self, count: int) -> None:
        if count > self.most:
            self.metrics.refused.labels("body").inc()
            told = f"the body has more than the {self.most:,} bytes that this server takes."
            raise Refusal(413, told, code="body_too_large")
        if self.held > self.memory:
            self.metrics.refused.labels("memory").inc()
            told = "the server holds too many large requests; try again."
            raise Refusal(503, told, code="busy", retry_after=2)


async def _answer(refusal: Refusal, send: Send) -> None:
    """The error, after which the connection ends: what is left of the body is not read."""
    body = json.dumps(refusal.body).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body))}
    headers |= {"connection": "close"} | {k.lower(): v for k, v in refusal.headers.items()}
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": refusal.status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})
