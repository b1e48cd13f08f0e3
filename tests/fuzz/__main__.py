"""Hostile inputs by the thousand, made from seeds.

    python -m tests.fuzz images --seed 3 --size 250
    python -m tests.fuzz all --seed 3              # every kind at its full size, one after another

A kind is a module of this package, named in KINDS, with a docstring, FULL (its size where none is
given) and SMALL (its size in the tests), and

    fuzz(seed: int, size: int, folder: Path, tally: Tally) -> None

which works in the empty `folder` and does every single trial inside `with tally.trial(name):`. What
a trial raises, a trial that hangs, and what `tally.expect` finds wrong are failures; a process that
takes more than 1 GiB is one, too. The status is 1 where anything failed.
"""

import argparse
import importlib
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.fuzz.tally import Tally

KINDS = (
    "archives",
    "checkpoints",
    "files",
    "images",
    "journals",
    "prepared",
    "records",
    "traces",
    "vocabularies",
)
MOST_MEMORY = 1 << 30  # bytes of one kind's process


def main() -> int:
    """Runs one kind in this process, or all of them in one each."""
    parser = argparse.ArgumentParser("python -m tests.fuzz", description=__doc__.split("\n")[0])
    parser.add_argument("kind", choices=[*KINDS, "all"])
    parser.add_argument("--seed", type=int, default=0, help="of everything that is made [0]")
    parser.add_argument("--size", type=int, help="trials of each sort [the kind's own]")
    options = parser.parse_args()
    if options.kind != "all":
        return _one(options.kind, options.seed, options.size)
    size = [] if options.size is None else [f"--size={options.size}"]
    commands = [[kind, f"--seed={options.seed}", *size] for kind in KINDS]
    python = [sys.executable, "-m", "tests.fuzz"]
    return max((subprocess.run([*python, *command]).returncode for command in commands), default=0)


def _one(kind: str, seed: int, size: int | None) -> int:
    module, tally, start = importlib.import_module(f"tests.fuzz.{kind}"), Tally(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        module.fuzz(seed, module.FULL if size is None else size, Path(folder), tally)
    memory = _peak()
    tally.expect(memory < MOST_MEMORY, "memory", f"{memory / 2**20:.0f} MiB at the peak")
    print(
        f"{kind}, seed {seed}: {tally.report()}\n{time.monotonic() - start:.0f} s, "
        f"{memory / 2**20:.0f} MiB at the peak"
    )
    return int(bool(tally.failures))


def _peak() -> int:
    """Most bytes that this process has held. `ru_maxrss` begins with what its parent held, so it
    is asked only where /proc does not tell."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return int(status.partition("VmHWM:")[2].split()[0]) << 10


if __name__ == "__main__":
    sys.exit(main())
