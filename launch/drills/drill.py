"""What all drills share: runs in peace, comparisons, what is left of a process group."""

import json
import os
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

from launch.drills import commands
from launch.drills.commands import COMMANDS, Command

SHARED = Path("/dev/shm")
PEACE = 900.0  # seconds that a run in peace may take
GONE = 30.0  # seconds after which nothing of a process group may be left


class Drill:
    """A drill on some commands: where it happens, what failed, what was found.

    Args:
      out: folder for inputs, results and logs.
      seed: of the moments.
    """

    def __init__(self, out: Path, seed: int = 0):
        self.out, self.random = out.resolve(), random.Random(seed)
        self.inputs = self.out / "inputs"
        self.failed: list[str] = []
        self.found: list[dict[str, Any]] = []
        self._facts: dict[str, dict[str, Any]] = {}
        self.seconds: dict[str, tuple[float, float]] = {}

    def log(self, command: Command) -> Path:
        """Where everything that the command prints goes."""
        return self.out / f"{command.name}.log"

    def check(self, holds: bool, problem: str) -> bool:
        """Notes a problem when something does not hold; returns whether it does."""
        if not holds:
            self.failed.append(problem)
            print(f"FAILED: {problem}", flush=True)
        return holds

    def start(self, command: Command, folder: Path, **environment: str):
        """Starts the command; see `commands.start`."""
        return commands.start(command, folder, self.inputs, self.log(command), **environment)

    def peace(self, command: Command) -> dict[str, Any]:
        """What the command leaves when nothing happens, made once; notes how long it takes.

        Raises:
          SystemExit: it fails by itself.
        """
        if command.name in self._facts:
            return self._facts[command.name]
        for name in command.needs:
            self.peace(COMMANDS[name])
        if command.name == "prepare":
            commands.write_rows(self.inputs / "rows")
        folder = self.inputs / command.name
        self.inputs.mkdir(parents=True, exist_ok=True)
        for _ in range(2):  # the second time with compiled programs
            shutil.rmtree(folder, ignore_errors=True)
            began, process = time.monotonic(), self.start(command, folder)
            locked = self.first(folder, process)
            if process.wait(PEACE):
                raise SystemExit(f"error: {command.name} fails in peace; see {self.log(command)}")
            self.seconds[command.name] = (locked - began, time.monotonic() - locked)
            if command.name in ("prepare", "encode", "convert"):
                break
        before, after = self.seconds[command.name]
        print(f"{command.name} in peace: {before:.1f} s to its folder, {after:.1f} s in it")
        self._facts[command.name] = command.facts(folder)
        return self._facts[command.name]

    def first(self, folder: Path, process) -> float:
        """The moment at which a command holds its folder, or ends."""
        while not (folder / ".lock").exists() and process.poll() is None:
            time.sleep(0.002)
        return time.monotonic()

    def holder(self, folder: Path, processes) -> int | None:
        """The one of some processes that holds a folder, once one does; None when one has ended."""
        while all(process.poll() is None for process in processes):
            try:
                held = json.loads((folder / ".lock").read_text())["pid"]
            except (OSError, ValueError, KeyError):
                held = None
            if held in [process.pid for process in processes]:
                return held
            time.sleep(0.002)
        return None

    def compare(self, command: Command, folder: Path, about: str) -> None:
        """Checks that a folder holds what a run in peace leaves."""
        wanted = self.peace(command)
        try:
            seen = command.facts(folder)
        except Exception as error:
            self.check(False, f"{about}: {folder} cannot be read: {error!r}")
            return
        other = [k for k in {*wanted, *seen} if wanted.get(k) != seen.get(k)]
        self.check(not other, f"{about}: {folder} differs in {sorted(other)[:5]}")

    def gone(self, group: int, shared: set[Path], about: str) -> None:
        """Checks that no process of a group is left, and no shared memory that was not there."""
        until = time.monotonic() + GONE
        while (left := alive(group)) or (there := memory() - shared):
            if time.monotonic() > until:
                what = f"processes {left}" if left else f"shared memory {sorted(there)[:3]}"
                self.check(False, f"{about}: left are {what}")
                for process in left:
                    os.kill(process, signal.SIGKILL)
                return
            time.sleep(0.05)

    def end(self, **options: Any) -> int:
        """Writes what was found to drill.json; returns the exit status."""
        values = {"options": options, "failed": self.failed, "found": self.found}
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / "drill.json").write_text(json.dumps(values, indent=1, default=str))
        print(f"{len(self.found)} rounds, {len(self.failed)} failed checks: {self.out}")
        return min(len(self.failed), 1)


def alive(group: int) -> list[int]:
    """The processes of a group that have not ended."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, its_group = stat.read_text().rpartition(")")[2].split()[:3]
        except (OSError, ValueError):
            continue
        if int(its_group) == group and state != "Z":
            found.append(int(stat.parent.name))
    return found


def memory() -> set[Path]:
    """The pieces of shared memory of this machine."""
    return set(SHARED.iterdir()) if SHARED.is_dir() else set()
