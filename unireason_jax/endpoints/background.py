"""An event loop in a thread of its own, for callers that are not asynchronous."""

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any


def finish(work: Coroutine[Any, Any, Any]) -> Any:
    """What a coroutine returns or raises, also where a loop runs already, as in a notebook."""
    background = Background()
    try:
        return background.run(work)
    finally:
        background.close()


class Background:
    """Runs coroutines for any number of threads; ended by `close` or with the process."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True, name="endpoint")
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """What a coroutine returns or raises; waits for it, and ends it where waiting is ended."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def close(self, last: Coroutine[Any, Any, Any] | None = None) -> None:
        """Runs a last coroutine, then ends the thread."""
        if self._loop.is_closed():
            return
        if last is not None:
            self.run(last)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
