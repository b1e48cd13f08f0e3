"""Being told to stop: a preempted machine, or `kill`, and when to act on it."""

import signal
from collections.abc import Callable

import jax
from jax.experimental import multihost_utils


class StopSignal:
    """Notices SIGTERM (a preempted machine, `kill`) so that the loop can save and leave.

    With one process a Python handler sets a flag. With several, JAX's preemption service makes all
    of them agree on one step, and `reached` must be called once a step in each of them.
    """

    def __init__(self):
        self._told = False
        self._before: Callable | int | None = None

    def __enter__(self) -> "StopSignal":
        if jax.process_count() == 1:
            self._before = signal.signal(signal.SIGTERM, self._tell)
        return self

    def __exit__(self, *error: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _tell(self, *_: object) -> None:
        self._told = True

    def reached(self, step: int) -> bool:
        """Whether to save and stop now; the same answer in every process."""
        if jax.process_count() == 1:
            return self._told
        return multihost_utils.reached_preemption_sync_point(step)
