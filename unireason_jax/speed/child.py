"""A command in a process of its own: its seconds and its peak memory."""

import resource
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path


def measure(command: Sequence[str]) -> dict[str, float]:
    """Runs a command to its end, without its stdout.

    Returns:
      wall_s, cpu_s of the process and its children, peak_rss_mib of the largest of them (0 where
      /proc does not tell).

    Raises:
      subprocess.CalledProcessError: it failed; its own message is on stderr.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    process, peak = subprocess.Popen(command, stdout=subprocess.DEVNULL), 0.0
    while process.poll() is None:
        peak = max(peak, _peak_mib(process.pid))
        time.sleep(0.1)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall_s": wall, "cpu_s": cpu, "peak_rss_mib": peak}


def _peak_mib(pid: int) -> float:
    """Peak memory so far of a process or of its largest child; 0 where /proc does not tell.

    (`ru_maxrss` of a child begins with what its parent held, so it cannot tell small from large.)
    """
    peaks = [0.0]
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for number in (pid, *children):
            status = Path(f"/proc/{number}/status").read_text()
            peaks += [
                int(line.split()[1]) / 1024 for line in status.splitlines() if "VmHWM" in line
            ]
    except OSError:
        pass  # it has just ended
    return max(peaks)
