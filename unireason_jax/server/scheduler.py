"""The thread that owns the model: a bounded queue before it, conversations that join and leave.

Everything else of a server only hands in jobs and hears of them, so no two threads ever run a
program of the model at once.
"""

import collections
import dataclasses
import threading
import time
import traceback
from collections.abc import Callable, Sequence

from unireason_jax.inference.continuous_batching import Guest, Live, News
from unireason_jax.inference.conversation import Request
from unireason_jax.inference.settings import Settings
from unireason_jax.server.errors import Refusal, wrong
from unireason_jax.server.metrics import Metrics

Job = tuple[Request, int, Settings, int]
"""A conversation of `Reasoner.prepare`, and the steps after which a drawing is shown."""
Tell = Callable[[int, News], None]
_LONGEST_WAIT = 60


@dataclasses.dataclass(eq=False)
class Ticket:
    """A job in the queue or on its way.

    Attributes:
      job: what to do.
      tell: is told all news of it, from the scheduler's thread.
      asked: when it came, by the monotonic clock.
      gone: nobody waits for it any more.
      guest: the conversation, once it has begun.
      spoke, drew: its first words, its first image were there.
    """

    job: Job
    tell: Callable[[News], None]
    asked: float
    gone: bool = False
    guest: Guest | None = None
    spoke: bool = False
    drew: bool = False


class Scheduler(threading.Thread):
    """Works on conversations until it is closed.

    Args:
      live: the model.
      queue: most jobs that wait.
      seconds: of a job, waiting included.
      metrics: are kept.
    """

    def __init__(self, live: Live, *, queue: int, seconds: float, metrics: Metrics):
        super().__init__(name="scheduler", daemon=True)
        self.live, self.most, self.seconds, self.metrics = live, queue, seconds, metrics
        self.waiting: collections.deque[Ticket] = collections.deque()
        self.running: list[Ticket] = []
        self.changed = threading.Condition()
        self.closing = False
        metrics.running.set_function(lambda: len(self.running))
        metrics.waiting.set_function(lambda: len(self.waiting))
        self.pace = 1.0  # seconds of a conversation, as the last ones took

    def submit(self, jobs: Sequence[Job], tell: Tell) -> list[Ticket]:
        """Puts all jobs of a request into the queue, or none.

        Args:
          jobs: of `Reasoner.prepare`.
          tell: is told the number of the job and its news.

        Raises:
          Refusal: the queue is full, or the server ends.
        """
        with self.changed:
            if self.closing or not self.is_alive():
                raise Refusal(503, "the server is shutting down.", code="closing", retry_after=5)
            if len(jobs) > self.most + self.live.rows:
                raise wrong(f"'n' is {len(jobs)}, more than the queue ever holds.", "n")
            if len(self.waiting) + len(jobs) > self.most + self._free():
                self.metrics.refused.labels("queue_full").inc()
                told = f"the queue is full: {len(self.waiting)} wait, at most {self.most} may."
                wait = self._wait()
                raise Refusal(429, told, code="queue_full", retry_after=wait)
            now = time.monotonic()
            tickets = [
                Ticket(job, lambda news, number=number: tell(number, news), now)
                for number, job in enumerate(jobs)
            ]
            self.waiting += tickets
            self.changed.notify()
        return tickets

    def leave(self, tickets: Sequence[Ticket]) -> None:
        """Nobody waits for these any more: their places are free at the next token."""
        with self.changed:
            for ticket in tickets:
                ticket.gone = True
            self.changed.notify()

    def close(self, *, drain: bool) -> None:
        """Takes nothing more; ends when all is done, or at once."""
        with self.changed:
            self.closing = True
            if not drain:
                for ticket in [*self.waiting, *self.running]:
                    ticket.gone = True
            self.changed.notify()

    def run(self) -> None:
        """Works; see the module. If it fails as a whole, all who wait are told."""
        try:
            self._work()
        except BaseException as error:
            traceback.print_exc()
            with self.changed:
                self.closing = True
                left = [*self.waiting, *self.running]
                self.waiting.clear()
                self.running.clear()
            for ticket in left:
                ticket.tell(News("error", error=error))

    def _work(self) -> None:
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.waiting or self.running or self.closing)
                if self.closing and not self.waiting and not self.running:
                    return
                begun = self._admit()
            for ticket in begun:
                self._begin(ticket)
            self._drop()
            if self.running:
                self.live.work()

    def _admit(self) -> list[Ticket]:
        """Takes from the queue what there is a place for."""
        self.waiting = collections.deque(t for t in self.waiting if not self._over(t))
        count = min(len(self.waiting), self._free())
        begun = [self.waiting.popleft() for _ in range(count)]
        self.running += begun
        return begun

    def _begin(self, ticket: Ticket) -> None:
        try:
            *job, previews = ticket.job
            ticket.guest = self.live.add(*job, lambda news: self._heard(ticket, news), previews)
        except Exception as error:
            self._heard(ticket, News("error", error=error))

    def _drop(self) -> None:
        """Ends those that nobody waits for, or that took too long."""
        for ticket in list(self.running):
            if self._over(ticket):
                self.live.drop(ticket.guest)
                self.running.remove(ticket)

    def _over(self, ticket: Ticket) -> bool:
        """Whether a ticket is given up; the one who waits is told."""
        late = time.monotonic() - ticket.asked > self.seconds
        if late and not ticket.gone:
            ticket.tell(News("error", error=TimeoutError()))
        if late or ticket.gone:
            self.metrics.ended.labels("timeout" if late else "left").inc()
        return late or ticket.gone

    def _heard(self, ticket: Ticket, news: News) -> None:
        """Passes news on, and keeps count."""
        seconds = time.monotonic() - ticket.asked
        self.metrics.note(ticket, news, seconds)
        if news.kind in ("end", "error"):
            self.running.remove(ticket)
            self.pace = 0.8 * self.pace + 0.2 * seconds
        if news.kind == "error" and not isinstance(news.error, ValueError | Refusal):
            traceback.print_exception(news.error)
        ticket.tell(news)

    def _free(self) -> int:
        """Places for conversations that are not taken."""
        return self.live.rows - len(self.running)

    def _wait(self) -> int:
        """Seconds after which there may be room."""
        rounds = (len(self.waiting) + len(self.running)) / self.live.rows
        return max(1, min(_LONGEST_WAIT, round(rounds * self.pace / 2)))
