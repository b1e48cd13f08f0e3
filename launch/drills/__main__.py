"""Kills, doubles and stops commands at random moments, and compares what they leave.

    python -m launch.drills kills --times 20 --out runs/drills           prepare, ... benchmark
    python -m launch.drills kills --only prepare,generate --times 5 --out runs/drills
    python -m launch.drills pairs --times 20 --out runs/pairs            two of each together
    python -m launch.drills stops --times 20 --out runs/stops            SIGTERM to a training
    python -m launch.drills kills pairs --times 1 --out runs/both        one kind after another

kills: `kill -9` of a process or of its group while it starts, works or writes; at the end the same
bytes as without (of a training the same metrics and weights). pairs: one works, the other is
refused in one line. stops: saved and status 0 each time, with two loader workers, every other time
with a loader slower than the step. After each of them no process and no shared memory is left.
Status 1 when a check failed; the findings are in OUT/drill.json. Several hosts: kill_drill.py.
"""

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

from launch.drills import rounds
from launch.drills.commands import COMMANDS
from launch.drills.drill import Drill

KINDS = {"kills": rounds.kills, "pairs": rounds.pairs, "stops": rounds.stops}


def main() -> int:
    """Parses the command line and holds the drill."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kinds", nargs="+", choices=tuple(KINDS), metavar="kills|pairs|stops")
    parser.add_argument("--only", default="", help="commands, by comma; stops: train")
    parser.add_argument("--times", type=int, default=20, help="rounds of each command")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    options = parser.parse_args()
    chosen = [name for name in options.only.split(",") if name] or list(COMMANDS)
    if wrong := [name for name in chosen if name not in COMMANDS]:
        parser.error(f"--only {wrong[0]}: choose of {', '.join(COMMANDS)}")
    if options.out.exists() and any(options.out.iterdir()):
        parser.error(f"{options.out} is not empty")
    options.out.mkdir(parents=True, exist_ok=True)
    drill = Drill(options.out, options.seed)
    for kind in options.kinds:
        for name in ["train"] if kind == "stops" else chosen:
            KINDS[kind](drill, COMMANDS[name], options.times)
    return drill.end(**vars(options))


if __name__ == "__main__":
    sys.exit(main())
