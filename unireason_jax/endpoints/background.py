"""An event loop in a thread of its own, for callers that are not asynchronous."""

import asyncio
import gc
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

_SELDOM = 100_000  # objects that come before those that are not needed are looked for


def finish(work: Coroutine[Any, Any, Any]) -> Any:
    """What a coroutine returns or raises, also where a loop runs already, as in a notebook."""
    background = Background()
    try:
        with _seldom_collected():
            return background.run(work)
    finally:
        background.close()


@contextmanager
def _seldom_collected() -> Iterator[None]:
    """Hundreds of calls in flight are thousands of objects in use, in vain looked through by Python
    hundreds of times a second: a third of a call's processor time."""
    before = gc.get_threshold()
    if 0 < before[0] < _SELDOM:
        gc.set_threshold(_SELDOM, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


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
