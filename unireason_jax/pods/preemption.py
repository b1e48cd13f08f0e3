"""Being told to stop: a preempted machine, or `kill`, and when to act on it."""

import os
import signal
import threading
from collections.abc import Callable

import jax
from jax.experimental import multihost_utils


class StopSignal:
    """Notices SIGTERM (a preempted machine, `kill`) so that the loop can save and leave.

    With one process a Python handler sets a flag. With several, JAX's preemption service makes all
    of them agree on one step, and `reached` must be called once a step in each of them.

    Args:
      tell: a line to print when the signal comes: with one process at once, whatever the main
        thread is waiting for, with several in the first one when they have agreed.
    """

    def __init__(self, tell: Callable[[], str] | None = None):
        self._told, self._tell = False, tell
        self._before: Callable | int | None = None

    def __enter__(self) -> "StopSignal":
        if jax.process_count() == 1:
            self._before = signal.signal(signal.SIGTERM, self._hear)
            # Python's handler waits for the main thread, which may wait for a slow step; the
            # number of the signal is written into a pipe at once.
            self._ears, self._mouth = os.pipe()
            os.set_blocking(self._mouth, False)
            self._wakeup = signal.set_wakeup_fd(self._mouth, warn_on_full_buffer=False)
            threading.Thread(target=self._listen, name="SIGTERM", daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
            signal.set_wakeup_fd(self._wakeup)
            os.close(self._mouth)  # which ends the listener

    def _hear(self, *_: object) -> None:
        self._told = True

    def _listen(self) -> None:
        """Says that the signal has come, in a thread of its own."""
        while number := os.read(self._ears, 1):
            if number[0] == signal.SIGTERM:
                self._told = True
                self._say()
        os.close(self._ears)

    def _say(self) -> None:
        if self._tell is not None:
            print(self._tell(), flush=True)
            self._tell = None  # once is enough

    def reached(self, step: int) -> bool:
        """Whether to save and stop now; the same answer in every process."""
        if jax.process_count() == 1:
            return self._told
        found = multihost_utils.reached_preemption_sync_point(step)
        if found and jax.process_index() == 0:
            self._say()
        return found
