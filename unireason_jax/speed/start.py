"""`unireason bench start`: what a server costs from its start to the end of a first answer.

The server is a process of its own, as `make demo` starts it. The first one is not counted: it fills
the compile cache, so the others compile nothing.
"""

import resource
import statistics
import subprocess
import sys
import time
from typing import Any

from unireason_jax.speed import serve


def run(checkpoint: str, *, warm: bool = True, starts: int = 5) -> dict[str, Any]:
    """Starts servers one after another.

    Args:
      checkpoint: that is served.
      warm: whether with `--warm`.
      starts: how many count.

    Returns:
      Plain numbers: medians of the seconds until the address was told, until there was an image
      after that, and of the CPU-seconds of the process until it had answered and ended, with the
      least and the most.

    Raises:
      ValueError: it did not start, or did not answer with an image.
    """
    found = [_start(checkpoint, warm) for _ in range(1 + starts)][1:]
    addresses, images, cpus = zip(*found)
    out = {"bench": "start", "checkpoint": checkpoint, "warm": warm, "starts": starts}
    out |= {"address_s": statistics.median(addresses), "image_s": statistics.median(images)}
    return out | {"cpu_s": statistics.median(cpus), "cpu_min_s": min(cpus), "cpu_max_s": max(cpus)}


def _start(checkpoint: str, warm: bool) -> tuple[float, float, float]:
    """Seconds to the address, from there to an image, and CPU-seconds, of one server."""
    command = [sys.executable, "-m", "unireason_jax", "serve", "--port", "0"]
    command += ["--checkpoint", checkpoint, *(["--warm"] if warm else [])]
    before, started = _children(), time.perf_counter()
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        told = server.stdout.readline().split()
        address = time.perf_counter() - started
        if not told:
            raise ValueError(f"{checkpoint}: its server did not start; see above.")
        answer = serve.ask(told[-1], {"model": "unireason", "prompt": serve.PROMPTS[0], "seed": 0})
    finally:
        server.terminate()
        server.communicate()
    if answer.image is None:
        raise ValueError(f"{checkpoint}: its server answered without an image ({answer.status}).")
    return address, answer.image, _children() - before


def _children() -> float:
    """CPU-seconds of the processes that this one began and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
