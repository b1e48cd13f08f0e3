"""Progress of long jobs with an estimate of the time that is left."""

import sys
import time


class Progress:
    """How far a long job is and how long it will take, on stderr.

    Args:
      name: of the job.
      total: cost of everything.
      unit: what the cost counts.
      done: cost of what an earlier run has finished; it does not count for the pace.
    """

    def __init__(self, name: str, total: float, unit: str, *, done: float = 0.0):
        self.name, self.unit = name, unit
        self.total, self.done, self.first = max(total, 1e-9), done, done
        self.started = time.perf_counter()
        self.told, self.width, self.ended = 0.0, 0, False
        self.terminal = sys.stderr.isatty()

    def __call__(self, cost: float) -> None:
        """Notes what was finished; speaks every half second on a terminal, else every ten, and once
        at the end.
        """
        self.done += cost
        gone = time.perf_counter() - self.started
        finished = self.done >= self.total - 1e-6
        early = not finished and gone - self.told < (0.5 if self.terminal else 10)
        if self.ended or early:
            return
        self.told, self.ended = gone, finished
        here, left = self.done - self.first, self.total - self.done
        share = 100 if finished else int(100 * self.done / self.total)
        line = f"{self.name} {share:3d} % of {self.total:.0f} {self.unit}, {_clock(gone)} gone"
        # The first part compiles, and its pace says nothing of the rest.
        if not finished and here >= 0.01 * (here + left):
            line += f", about {_clock(gone * left / here)} left"
        end = "\n" if finished or not self.terminal else "\r"
        print(line.ljust(self.width), end=end, file=sys.stderr, flush=True)
        self.width = len(line) if self.terminal else 0


def _clock(seconds: float) -> str:
    """Minutes and seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
