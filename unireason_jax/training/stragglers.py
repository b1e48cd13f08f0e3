"""Which host holds the others up: what every host takes for a step beside its devices, compared.

Collectives make a step equally long on all hosts, so its time tells nothing. A host that is late
with its batch, or with giving its devices work, waits little for them; the others wait for it. (A
slow device looks the same everywhere: that is what a profile shows.)
"""

import socket
import statistics
from collections.abc import Mapping

import jax
from absl import logging

from unireason_jax.pods import pod

_TIMES = 2.0  # what others take, from which on a host is slow
_PART = 0.1  # of a step that it has to cost besides


def compared(numbers: Mapping[str, float]) -> dict[str, float]:
    """Gathers what hosts have measured over the same steps; the first one warns of a slow host.

    Args:
      numbers: a report of `metrics.Meter`; every process calls with its own.

    Returns:
      The slowest host's number of process and seconds a step, and the median of all; {} where
      there is one process, or no step was timed.
    """
    if jax.process_count() == 1:
        return {}
    own, rate = numbers.get("speed/host_s", 0.0), numbers.get("speed/steps_per_s")
    hosts = pod.gather("seconds of hosts", [socket.gethostname(), own])
    if not rate:
        return {}
    seconds = [spent for _, spent in hosts]
    most, middle = max(seconds), statistics.median(seconds)
    slowest = seconds.index(most)
    if most > _TIMES * middle and most - middle > _PART / rate and jax.process_index() == 0:
        logging.warning(
            "process %d (%s) is slow: %.3g s a step beside its devices, where the median of %d "
            "is %.3g s; the others wait for it",
            slowest,
            hosts[slowest][0],
            most,
            len(hosts),
            middle,
        )
    return {
        "speed/slowest_host": float(slowest),
        "speed/slowest_host_s": most,
        "speed/median_host_s": middle,
    }
