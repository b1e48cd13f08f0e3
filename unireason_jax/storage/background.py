"""Files that are written on a thread while the next ones are made."""

import collections
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Self

from absl import logging


class Background:
    """One thread that does what it is given, in that order.

        with Background(waiting=8) as background:
            background.do(trace.save, place)

    When something fails nothing behind it is begun, and the error is raised by the next `do`, or at
    the end of the block: it is as if everything had been done at once, only later. An error of the
    block itself is raised there, and that of the thread is logged. The block ends when all is done.

    Args:
      waiting: most calls that wait; whoever gives more waits too, so that memory is bounded.
    """

    def __init__(self, waiting: int):
        self.waiting, self.failed = waiting, False
        self._calls: collections.deque[Future] = collections.deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="background")

    def do(self, work: Callable, *args: Any) -> None:
        """Does `work(*args)` later. Raises what an earlier call has raised."""
        while self._calls and (self._calls[0].done() or len(self._calls) > self.waiting):
            self._calls.popleft().result()
        self._calls.append(self._thread.submit(self._work, work, args))

    def _work(self, work: Callable, args: tuple) -> None:
        if self.failed:
            return
        try:
            work(*args)
        except BaseException:
            self.failed = True
            raise

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        """Waits until all is done."""
        self._thread.shutdown()
        errors = [call.exception() for call in self._calls if call.exception()]
        if errors and error is None:
            raise errors[0]
        if errors:
            logging.error("%s", errors[0])
