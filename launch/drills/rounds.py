"""One round of each kind: killed, doubled, stopped."""

import os
import shutil
import signal
import time
from pathlib import Path

from launch.drills.commands import Command
from launch.drills.drill import Drill, alive, memory

PARTS = (".*.part*", "*/.*.part*", "checkpoints/*/.*.part*")
LONGEST = 900.0
TRIES = 8


def kills(drill: Drill, command: Command, times: int) -> None:
    """`kill -9` at random moments, then an unbroken start: the same bytes as without.

    A third of the moments are those at which a file is being written; the others are anywhere from
    the start of the process on. Half of the kills are of the whole process group.
    """
    drill.peace(command)
    folder, killed = drill.out / f"{command.name}_killed", 0
    for number in range(times):
        about = f"{command.name}, kill {number + 1}"
        # A machine that became faster may be done before the moment comes: then another is drawn.
        killed += any(_killed(drill, command, folder, about) for _ in range(TRIES))
    process = drill.start(command, folder)
    _over(drill, command, folder, process.wait(LONGEST), f"{command.name} after its kills")
    drill.check(killed == times, f"{command.name}: only {killed} of {times} kills came in time")


def _killed(drill: Drill, command: Command, folder: Path, about: str) -> bool:
    """One start and its kill; False when it had finished before, which is checked as well."""
    shared, process = memory(), drill.start(command, folder)
    at = drill.random.choice(["any moment", "work", "a write"])
    _wait(drill, command, folder, process, at)
    finished = process.poll() is not None
    whole = drill.random.random() < 0.5
    if not finished and whole:
        for pid in [p for p in alive(process.pid) if not _tracks_memory(p)]:
            os.kill(pid, signal.SIGKILL)
    elif not finished:
        process.kill()
    status = process.wait()
    drill.gone(process.pid, shared, about)
    print(f"{about} at {at}: {'had finished' if finished else 'killed'}", flush=True)
    if finished:
        _over(drill, command, folder, status, about)
        shutil.rmtree(folder)
        return False
    drill.found.append({"command": command.name, "kill": about.rpartition(" ")[2], "at": at,
                        "whole": whole, "status": status})  # fmt: skip
    return True


def _wait(drill: Drill, command: Command, folder: Path, process, at: str) -> None:
    """Returns at the moment to kill, or when the process has ended."""
    before, work = drill.seconds[command.name]
    if at == "any moment":
        until = time.monotonic() + drill.random.uniform(0, before + work)
    else:
        until = drill.first(folder, process) + drill.random.uniform(0, work)
    while process.poll() is None and time.monotonic() < until:
        time.sleep(0.002)
    while at == "a write" and process.poll() is None:
        if any(path for pattern in PARTS for path in folder.glob(pattern)):
            return


def _tracks_memory(pid: int) -> bool:
    """Whether a process is Python's, which removes shared memory when the others have ended."""
    try:
        return b"resource_tracker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _over(drill: Drill, command: Command, folder: Path, status: int, about: str) -> None:
    """Checks a run that ended by itself: it worked, or said that the result was there already."""
    last = drill.log(command).read_text(errors="replace").strip().rsplit("\n", 1)[-1]
    there = command.name in ("prepare", "convert") and ("already holds" in last or "exists" in last)
    drill.check(status == 0 or there, f"{about}: status {status}; {last[:200]}")
    drill.compare(command, folder, about)


def pairs(drill: Drill, command: Command, times: int) -> None:
    """Two of the command in one folder at the same time: one works, the other is refused.

    The one that holds the folder is suspended until the other has ended, so that a short command
    is not over before the other of the two comes to its folder.
    """
    drill.peace(command)
    for number in range(times):
        about, folder = f"{command.name}, pair {number + 1}", drill.out / f"{command.name}_pair"
        size = drill.log(command).stat().st_size
        both = [drill.start(command, folder) for _ in range(2)]
        holder = drill.holder(folder, both)
        for process in both:
            if holder is not None and process.pid != holder:
                os.kill(holder, signal.SIGSTOP)
                process.wait(LONGEST)
                os.kill(holder, signal.SIGCONT)
        statuses = sorted(process.wait(LONGEST) for process in both)
        said = drill.log(command).read_bytes()[size:].decode(errors="replace")
        refused = [line for line in said.splitlines() if " is in use by " in line]
        drill.check(
            statuses[0] == 0 and statuses[1] != 0 and len(refused) == 1,
            f"{about}: statuses {statuses}, {len(refused)} refusals",
        )
        drill.check("Traceback" not in said, f"{about}: a traceback; see {drill.log(command)}")
        drill.compare(command, folder, about)
        drill.found.append({"command": command.name, "pair": number + 1, "statuses": statuses,
                            "refused": refused})  # fmt: skip
        print(f"{about}/{times}: statuses {statuses}; {''.join(refused)[-100:]}", flush=True)
        shutil.rmtree(folder)


def stops(drill: Drill, command: Command, times: int) -> None:
    """SIGTERM to the whole process group: saved, status 0, nothing left; then it goes on.

    Every other time the loader is slower than the step.
    """
    wanted = drill.peace(command)
    folder = drill.out / f"{command.name}_stopped"
    for number in range(times):
        about, slow = f"{command.name}, stop {number + 1}", number % 2 == 0
        shared = memory()
        size = drill.log(command).stat().st_size
        process = drill.start(command, folder, PACE="0.15" if slow else "0")
        said = _until(drill, command, process, size, "parameters from")
        until = time.monotonic() + drill.random.uniform(0, drill.seconds[command.name][1] * 0.6)
        while process.poll() is None and time.monotonic() < until:
            time.sleep(0.01)
        ended = process.poll() is not None
        if not ended:
            os.killpg(process.pid, signal.SIGTERM)
        status = process.wait(LONGEST)
        said = drill.log(command).read_bytes()[size:].decode(errors="replace")
        saved = "stopped by SIGTERM, saved" in said or "finished at step" in said
        drill.check(status == 0 and saved, f"{about}: status {status}, saved: {saved}")
        drill.check("Traceback" not in said, f"{about}: a traceback; see {drill.log(command)}")
        drill.gone(process.pid, shared, about)
        step = next(
            (line.partition(":")[0] for line in said.splitlines() if " at step " in line), ""
        )
        drill.check("leaked" not in said, f"{about}: shared memory was left to Python to remove")
        drill.found.append({"command": command.name, "stop": number + 1, "slow": slow,
                            "status": status, "ended": step})  # fmt: skip
        print(f"{about}/{times}, {'slow loader' if slow else 'quick'}: {step}", flush=True)
        if "finished at step" in said:
            drill.compare(command, folder, about)
            shutil.rmtree(folder)
    status = drill.start(command, folder).wait(LONGEST)
    drill.check(status == 0 and bool(wanted), f"{command.name} after its stops: status {status}")
    drill.compare(command, folder, f"{command.name} after its stops")


def _until(drill: Drill, command: Command, process, size: int, words: str) -> str:
    """What the command has printed, once it has printed some words or ended."""
    while True:
        said = drill.log(command).read_bytes()[size:].decode(errors="replace")
        if words in said or process.poll() is not None:
            return said
        time.sleep(0.02)
