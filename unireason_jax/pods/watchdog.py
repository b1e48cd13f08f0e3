"""Notices a loop that no longer moves: prints the stacks of all threads, ends what stays hung."""

import faulthandler
import sys
import threading
import time
from collections.abc import Callable
from typing import TextIO

import jax

REPORTS = 3  # how often a hung phase is shown before the job is given up


class Watchdog:
    """Watches that something new happens at least every so many seconds.

    A step that hangs (a lost host, a storage that does not answer, a deadlock in a loader) shows
    nothing by itself. After `limit` seconds in one phase every thread's stack goes to stderr, again
    after each further `limit`, and the third time the job ends with an error, so that whatever
    started it can start it again from the newest checkpoint. Time in which the whole process stood
    still (suspended, SIGSTOP) does not count.

    Args:
      limit: seconds that one phase may take; 0 watches nothing.
      give_up: called with the reason at the last report; it should not return.
      file: where stacks go; it needs a file descriptor. stderr by default.
    """

    def __init__(self, limit: float, *, give_up: Callable[[str], None], file: TextIO | None = None):
        self._limit, self._give_up, self._file = limit, give_up, file or sys.stderr
        self._done = threading.Event()
        self._now: tuple[str] | None = None  # what runs; another object for every `note`

    def __enter__(self) -> "Watchdog":
        if self._limit > 0:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()

    def note(self, phase: str) -> None:
        """Says what begins now: "step 12", "checkpoint of step 12"."""
        self._now = (phase,)

    def pause(self) -> None:
        """Watches nothing until the next `note`."""
        self._now = None

    def _watch(self) -> None:
        reports, seen, spent, before = 0, None, 0.0, time.monotonic()
        while not self._done.wait(min(self._limit / 10, 5.0)):
            gap, before = time.monotonic() - before, time.monotonic()
            if self._now is not seen:
                reports, seen, spent = 0, self._now, 0.0
                continue
            spent += min(gap, self._limit / 4)  # longer: this thread stood still too
            if not seen or spent < self._limit * (reports + 1):
                continue
            reports += 1
            self._report(seen[0], spent)
            if reports == REPORTS:
                self._give_up(f"{seen[0]} has been running for {spent:.0f} s; stacks are above.")
                return

    def _report(self, phase: str, spent: float) -> None:
        """Prints the stacks of all threads of this process."""
        me, count = jax.process_index(), jax.process_count()
        self._file.write(f"process {me} of {count}: {phase} has been running for {spent:.0f} s\n")
        self._file.flush()
        faulthandler.dump_traceback(self._file, all_threads=True)
