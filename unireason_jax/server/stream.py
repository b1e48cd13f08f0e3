"""Answers that end when the one who asked has gone."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from starlette.responses import Response

from unireason_jax.server.guards import Message, Receive, Send


async def until_gone(receive: Receive, work: Coroutine[Any, Any, Any]) -> Any:
    """What `work` returns, or None where the client leaves before."""
    done, gone = asyncio.create_task(work), asyncio.create_task(_gone(receive))
    try:
        await asyncio.wait({done, gone}, return_when=asyncio.FIRST_COMPLETED)
        return done.result() if done.done() else None
    finally:
        for task in (done, gone):
            task.cancel()
        for task in (done, gone):
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class Events(Response):
    """A stream of server-sent events.

    Args:
      events: encoded, one after the other.
      leave: is called at the end, whatever it is.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[bytes], leave: Callable[[], None]):
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self.events, self.leave = events, leave

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Sends until there is no more, or nobody listens."""
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}

        async def flow() -> None:
            await send(start)
            async for chunk in self.events:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})

        try:
            await until_gone(receive, flow())
        finally:
            self.leave()
