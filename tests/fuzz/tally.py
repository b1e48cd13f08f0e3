"""What became of the trials of a fuzz run, and how bytes are spoilt."""

import contextlib
import faulthandler
import signal
from collections import Counter
from collections.abc import Iterator

import numpy as np

SECONDS = 20  # a trial that takes longer hangs
_SHOWN = 20


class Tally:
    """Counts of outcomes, and the failures, each with its name."""

    def __init__(self):
        self.outcomes: Counter[str] = Counter()
        self.failures: list[str] = []

    @contextlib.contextmanager
    def trial(self, name: str, seconds: int = SECONDS) -> Iterator[None]:
        """One trial; whatever it raises is a failure, so is taking longer than `seconds`."""
        # The alarm shows up as an exception; a hang inside C code ends the process with a traceback
        signal.signal(signal.SIGALRM, _raise)
        signal.alarm(seconds)
        faulthandler.dump_traceback_later(seconds + 10, exit=True)
        try:
            yield
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            self.failures.append(f"{name}: {type(error).__name__}: {str(error)[:300]}")
        finally:
            signal.alarm(0)
            faulthandler.cancel_dump_traceback_later()

    def count(self, outcome: str, times: int = 1) -> None:
        """Notes good ends of a trial."""
        self.outcomes[outcome] += times

    def expect(self, right: bool, name: str, otherwise: str) -> None:
        """A failure `otherwise` where it is not `right`."""
        if not right:
            self.failures.append(f"{name}: {otherwise}")

    def report(self) -> str:
        """Counts in a line, and the first failures in one each."""
        counts = ", ".join(f"{n:,} {name}" for name, n in sorted(self.outcomes.items()))
        found = f"{len(self.failures)} failures" if self.failures else "nothing failed"
        return "\n".join([f"{counts}; {found}", *self.failures[:_SHOWN]])


class Hang(Exception):
    """A trial took too long."""


def _raise(*_) -> None:
    raise Hang("it took too long")


def generator(seed: int, *name: str | int) -> np.random.Generator:
    """The generator of one trial: a function of seed and name alone."""
    key = f"{seed}/{'/'.join(map(str, name))}".encode()
    return np.random.default_rng(np.frombuffer(key, np.uint8))


def corrupted(data: bytes, rng: np.random.Generator) -> bytes:
    """`data` spoilt in one of the ways that disks, networks and attackers have."""
    spoilt = bytearray(data)
    start = int(rng.integers(len(spoilt)))
    length = int(rng.integers(1, 65))
    match int(rng.integers(7)):
        case 0:  # single bits
            for place in rng.integers(len(spoilt), size=int(rng.integers(1, 9))):
                spoilt[place] ^= 1 << int(rng.integers(8))
        case 1:  # cut off
            del spoilt[start:]
        case 2:  # a hole
            spoilt[start : start + length] = bytes(len(spoilt[start : start + length]))
        case 3:  # noise in the place of a stretch
            stretch = len(spoilt[start : start + length])
            spoilt[start : start + length] = rng.bytes(stretch)
        case 4:  # a stretch is missing
            del spoilt[start : start + length]
        case 5:  # a stretch comes twice
            spoilt[start:start] = spoilt[start : start + length]
        case 6:  # a huge or negative number, mostly in the header, where lengths are
            place = int(rng.integers(min(len(spoilt), 128)))
            number = rng.choice([0, 1, 2**31 - 1, 2**31, 2**32 - 1, 65_535, 2**24])
            order = "big" if rng.random() < 0.5 else "little"
            spoilt[place : place + 4] = int(number).to_bytes(4, order)
    return bytes(spoilt)
