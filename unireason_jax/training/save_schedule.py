"""When a run saves, by steps and by minutes, and what it would lose if it ended now."""

import time

from unireason_jax.pods import pod


class Pace:
    """Decides when a checkpoint is due.

    Steps are the same on every host; of the minutes the first process's clock decides, and the
    others are asked at the steps at which all of them talk anyway.

    Args:
      every: steps between two checkpoints; 0: never by steps.
      minutes: minutes between two checkpoints; 0: never by minutes.
      looks: the steps at which the minutes are looked at, multiples of this.
    """

    def __init__(self, every: int, minutes: float, looks: int):
        self._every, self._seconds, self._looks = every, 60 * minutes, looks
        self.saved(0)

    def saved(self, step: int) -> None:
        """Notes that a checkpoint of a step is there, or on its way."""
        self._saved = self._step = step
        self._when = time.monotonic()

    def due(self, step: int) -> bool:
        """Whether to save before this step; the same in every process, which all ask each step."""
        self._step = step
        if step == self._saved:
            return False
        if self._every > 0 and step % self._every == 0:
            return True
        if self._seconds <= 0 or self._looks < 1 or step % self._looks:
            return False
        return pod.gather("a checkpoint is due", self._waited() >= self._seconds)[0]

    def _waited(self) -> float:
        return time.monotonic() - self._when

    def at_stake(self) -> str:
        """What is lost where the process is killed before it has saved again."""
        steps = self._step - self._saved + 1
        return (
            f"SIGTERM: the run saves as soon as step {self._step} has ended; if it is killed "
            f"before, it goes on from step {self._saved}: at most {steps} steps, "
            f"{self._waited() / 60:.1f} min, are done again"
        )
