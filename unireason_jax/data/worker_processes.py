"""Processes that work for another one: they live and end with it, and it alone stops them.

A preempted machine sends SIGTERM to every process of a job, and Ctrl-C reaches all of a terminal.
The process that trains saves and leaves on such a signal and needs its loader until then, so the
loader's workers do not hear it; and as nothing else would end them, they watch for their parent's
end, however it comes.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from multiprocessing import resource_tracker, shared_memory, util
from typing import Any

_UNHEARD = (signal.SIGTERM, signal.SIGINT)
_NAME = "grain-process-prefetch"  # how Grain names its workers
_making = threading.Lock()  # held while a block of shared memory is made and not yet registered


def processors() -> int:
    """How many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextlib.contextmanager
def born_deaf() -> Iterator[None]:
    """Processes started within it do not hear SIGTERM and SIGINT, from their first moment on.

    They inherit that the signals are held back. For this process another thread may take a signal,
    or it arrives at the end.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows has no such signals
        yield
        return
    resource_tracker.ensure_running()  # its start lets the thread that needs it first hear again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _UNHEARD)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def begin(number: int, count: int) -> None:
    """What each of the loader's workers does first; Grain gives its number and their count."""
    for unheard in _UNHEARD:
        signal.signal(unheard, signal.SIG_IGN)
    _make_whole_blocks()
    end_with_parent()


def end_with_parent() -> None:
    """Makes this process end at once when the one that started it has ended, killed or not.

    The parent holds the other end of a pipe that closes with it. (Linux could send a signal, but at
    the end of the parent's *thread*, and loaders start their workers in passing threads.)
    """
    parent = multiprocessing.parent_process()

    def watch() -> None:
        parent.join()
        with _making:
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _make_whole_blocks() -> None:
    """Has this process make no block of shared memory that nobody would remove after its end.

    Python registers a block with the process that removes what is left only once it exists, and a
    process that ends in between leaves it behind for good.
    """
    make = shared_memory.SharedMemory.__init__

    def whole(self: shared_memory.SharedMemory, *arguments: Any, **settings: Any) -> None:
        with _making:
            make(self, *arguments, **settings)

    shared_memory.SharedMemory.__init__ = whole


def kill_at_exit() -> None:
    """Has the loader's workers that are still there killed when this process exits.

    Python would tell them to end by a signal that they do not hear, and wait for them.
    """
    util.Finalize(None, _kill, exitpriority=0)  # Grain's own, which wait for them, come before


def _kill() -> None:
    for child in multiprocessing.active_children():
        if child.name.startswith(_NAME):
            child.kill()
