"""Runs one command as n joined processes on this machine, each with k fake CPU devices.

    python launch/local.py --processes 2 --devices 4 -- \\
        python -m unireason_jax.train --config=configs/tiny.py --workdir=runs/two

What a pod does, without a pod: JAX's coordinator, gloo collectives, checkpoints from all processes.
Lines of process 1 begin with "[1] ". SIGTERM and Ctrl-C go on to every process. When one process
fails, the others have some seconds to say why and to end, then they are killed; the exit status is
the first failure's. `--devices 0` leaves the devices as they are (GPUs: one process).
"""

import argparse
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence

GRACE = 60.0  # seconds between the first failure and the end of the others


def environments(processes: int, devices: int, port: int) -> list[dict[str, str]]:
    """The variables that make each process a member of the job; see `initialize_distributed`."""
    fake = {}
    if devices:
        flags = f"--xla_force_host_platform_device_count={devices}"
        fake = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    if processes == 1:
        return [fake]
    joined = {
        "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
        "JAX_NUM_PROCESSES": str(processes),
    }
    return [fake | joined | {"JAX_PROCESS_ID": str(number)} for number in range(processes)]


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def print_line(number: int, line: str) -> None:
    """Prints one line of a process with its number."""
    print(f"[{number}] {line}", end="", flush=True)


class LocalJob:
    """The processes of one job.

    Args:
      command: what every process runs.
      processes: how many.
      devices: fake CPU devices of each; 0 leaves the machine's devices alone.
      environment: variables on top of this process's own.
      sink: called with (process number, line) for every line any of them prints.
      directory: where they run; here by default.

    Attributes:
      members: the running processes by number.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        processes: int,
        devices: int,
        environment: Mapping[str, str] | None = None,
        sink: Callable[[int, str], None] = print_line,
        directory: str | os.PathLike | None = None,
    ):
        base = os.environ | dict(environment or {})
        self.members = [
            subprocess.Popen(
                list(command),
                env=base | own,
                cwd=directory,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
            )
            for own in environments(processes, devices, free_port())
        ]
        self._pumps = [
            threading.Thread(target=self._pump, args=(number, sink), daemon=True)
            for number in range(processes)
        ]
        for pump in self._pumps:
            pump.start()

    def _pump(self, number: int, sink: Callable[[int, str], None]) -> None:
        for line in self.members[number].stdout:
            sink(number, line)

    def send(self, what: signal.Signals, number: int | None = None) -> None:
        """Sends a signal to one process, or to all that still run."""
        for member in self.members if number is None else [self.members[number]]:
            if member.poll() is None:
                member.send_signal(what)

    def wait(self, *, grace: float = GRACE, timeout: float = float("inf")) -> list[int]:
        """Waits for the end and returns every exit status (negative: the signal that killed it).

        Args:
          grace: seconds the others have after the first failure before they are killed.
          timeout: seconds after which all are killed.
        """
        deadline = time.monotonic() + timeout
        failed = False
        while any(member.poll() is None for member in self.members):
            if not failed and any(member.poll() for member in self.members):
                failed, deadline = True, min(deadline, time.monotonic() + grace)
            if time.monotonic() > deadline:
                self.send(signal.SIGKILL)
            time.sleep(0.05)
        for pump in self._pumps:
            pump.join(timeout=60)
        return [member.returncode for member in self.members]


def main() -> int:
    """Parses the command line and runs the job."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--processes", type=int, default=2, help="processes (hosts of a pod)")
    parser.add_argument("--devices", type=int, default=1, help="fake CPU devices of each; 0: real")
    parser.add_argument("--grace", type=float, default=GRACE, help="seconds after a failure")
    parser.add_argument("--dry-run", action="store_true", help="print the commands only")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="-- and the command")
    options = parser.parse_args()
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command or options.processes < 1 or options.devices < 0:
        parser.error("give --processes >= 1, --devices >= 0 and, after --, the command to run")
    if options.dry_run:
        for own in environments(options.processes, options.devices, free_port()):
            print(shlex.join(["env", *(f"{k}={v}" for k, v in own.items()), *command]))
        return 0
    job = LocalJob(command, processes=options.processes, devices=options.devices)
    for forwarded in (signal.SIGTERM, signal.SIGINT):
        signal.signal(forwarded, lambda number, _: job.send(signal.Signals(number)))
    statuses = job.wait(grace=options.grace)
    return next((status for status in statuses if status > 0), 1) if any(statuses) else 0


if __name__ == "__main__":
    sys.exit(main())
