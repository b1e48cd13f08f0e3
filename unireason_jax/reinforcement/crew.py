"""How the processes of a job share an iteration: who does what, and what they tell each other.

Small facts travel through the coordinator, so that every process plans the same. With one process
nothing travels.
"""

from collections.abc import Sequence
from typing import Any

import jax

from unireason_jax.pods import pod

_SLOWEST = 30 * 24 * 3600.0  # seconds that processes wait for each other; the watchdog is faster


def share(count: int) -> range:
    """Which of so many jobs this process does: neighbours, as siblings of a prompt are."""
    me, processes = jax.process_index(), jax.process_count()
    return range(count * me // processes, count * (me + 1) // processes)


def shared(name: str, own: Sequence[Any]) -> list[Any]:
    """What all jobs gave, in order, of what those of each process's `share` gave.

    Args:
      name: as that of `pod.gather`.
      own: of this process; anything that JSON holds (from other processes tuples come as lists).
    """
    return [one for part in pod.gather(name, list(own), timeout=_SLOWEST) for one in part]


def together(name: str) -> None:
    """Waits until all processes are here."""
    pod.gather(name, None, timeout=_SLOWEST)
