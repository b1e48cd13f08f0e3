"""One server of several processes: the first speaks HTTP and decides, all do the same work.

Weights that lie on the devices of several processes are of use only where all of these start the
same programs in the same order. So the first process says every order of its scheduler (who comes,
who leaves, go on) before it carries it out, and the others carry it out on conversations of their
own. What becomes of a conversation follows from its request, so all processes, on machines of one
kind, know it without being told. (Whole models, one in each process, would serve more requests at a
time, but only models that one host holds, and those can be served by one process a host.)
"""

import concurrent.futures
import contextlib
import itertools
import queue
import signal
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax

from unireason_jax.inference.continuous_batching import Guest, Listener, Live, News
from unireason_jax.inference.conversation import Request
from unireason_jax.inference.settings import Settings
from unireason_jax.pods import lines, pod

_NAME = "server"
_FAULT = 60.0  # seconds in which all processes must have met an error that one has met


class ProcessesApart(RuntimeError):
    """Not all processes of a job do the same; nothing can mend that."""


class Replica:
    """The conversations of one process, by the number in which they came.

    Args:
      live: the model.
    """

    def __init__(self, live: Live):
        self.live, self.guests = live, dict[int, Guest]()
        self._coming = itertools.count()

    def add(
        self,
        request: Request,
        sample: int,
        settings: Settings,
        previews: int = 0,
        *,
        tell: Listener = lambda news: None,
    ) -> Guest | None:
        """As `Live.add`; one that cannot begin is told so, and is None.

        Raises:
          ProcessesApart: later, and now: other processes have not met an error that this one met.
        """
        number = next(self._coming)

        def heard(news: News) -> None:
            if news.kind == "error":
                _met_by_all(number, news.error)
            tell(news)

        try:
            guest = self.live.add(request, sample, settings, heard, previews)
        except Exception as error:
            heard(News("error", error=error))
            return None
        self.guests[number] = guest
        return guest

    def drop(self, number: int) -> None:
        """Ends a conversation, as `Live.drop`."""
        self.live.drop(self.guests.pop(number))

    def work(self, numbers: list[int]) -> None:
        """As `Live.work`, on the conversations of these numbers.

        Raises:
          ProcessesApart: as `add`; or others are on their way here.
        """
        if (here := self.numbers()) != numbers:
            told = f"conversations {numbers} are to go on, but {here} are there"
            raise ProcessesApart(f"process {jax.process_index()}: {told}.")
        self.live.work()

    def numbers(self) -> list[int]:
        """Those of the conversations on their way; the others are forgotten."""
        self.guests = {n: guest for n, guest in self.guests.items() if guest in self.live.guests}
        return list(self.guests)


class Leader:
    """In the place of `Live` in the first process: says what it does before it does it.

    Args:
      live: the model; the other processes `follow` with theirs.
    """

    def __init__(self, live: Live):
        self.replica, self.rows = Replica(live), live.rows
        self.lines, self.speaking = lines.connect(_NAME), threading.Lock()

    @property
    def guests(self) -> list[Guest]:
        """Conversations on their way."""
        return self.replica.live.guests

    def listen(self, told: Callable[[int], None]) -> None:
        """Calls `told` with the number of a process that was told to end, each time it was."""
        for number, line in enumerate(self.lines, 1):
            lines.listen(line, number, lambda said, number=number: said and told(number))

    def add(
        self,
        request: Request,
        sample: int,
        settings: Settings,
        tell: Listener,
        previews: int = 0,
    ) -> Guest | None:
        """As `Replica.add`, in all processes."""
        job = request, sample, settings, previews
        with _or_all_end():
            self._say(("add", job))
            return self.replica.add(*job, tell=tell)

    def drop(self, guest: Guest) -> None:
        """As `Live.drop`, in all processes."""
        found = [number for number, one in self.replica.guests.items() if one is guest]
        with _or_all_end():
            for number in found:
                self._say(("drop", (number,)))
                self.replica.drop(number)

    def work(self) -> None:
        """As `Live.work`, in all processes."""
        numbers = self.replica.numbers()
        with _or_all_end():
            self._say(("work", (numbers,)))
            self.replica.work(numbers)

    def end(self) -> None:
        """Lets the others end."""
        self._say(None)

    def _say(self, order: Any) -> None:
        """Says an order whole, whichever thread gives it."""
        with self.speaking:
            lines.send(self.lines, order)


def follow(live: Live) -> None:
    """Does in another process what the first one does, until that ends.

    A signal to end is passed on to the first process, which drains.
    """
    [line] = lines.connect(_NAME)
    orders: queue.SimpleQueue = queue.SimpleQueue()

    def pass_on(*_: Any) -> None:
        with contextlib.suppress(OSError):  # the first process has died, which others tell
            lines.send([line], "end")

    for ending in (signal.SIGTERM, signal.SIGINT):
        signal.signal(ending, pass_on)
    lines.listen(line, 0, orders.put)
    # The main thread hears signals while another one works, however long a program takes.
    with concurrent.futures.ThreadPoolExecutor(1) as worker:
        worker.submit(replay, Replica(live), iter(orders.get, None)).result()
    lines.send([line], None)


def replay(replica: Replica, orders: Iterable[tuple[str, tuple]]) -> None:
    """Carries out the orders of a `Leader`: the name of a method of `Replica`, and its arguments.

    Raises:
      ProcessesApart: as these.
    """
    for order, given in orders:
        getattr(replica, order)(*given)


def _met_by_all(number: int, error: Exception) -> None:
    """Raises ProcessesApart unless all processes meet an error in this conversation now."""
    try:
        found = pod.gather("fault of a conversation", number, timeout=_FAULT)
    except jax.errors.JaxRuntimeError:
        found = []
    if set(found) != {number}:
        told = f"process {jax.process_index()} met an error in conversation {number} that not all"
        raise ProcessesApart(f"{told} processes met: {error}") from error


@contextlib.contextmanager
def _or_all_end() -> Iterator[None]:
    """Ends the job on any error: the other processes have heard of what was not carried out."""
    try:
        yield
    except BaseException as error:
        pod.fail("".join(traceback.format_exception(error)))
        raise
