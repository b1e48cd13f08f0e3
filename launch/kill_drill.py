"""Kills a multi-process run at random moments and proves that nothing was lost.

    python launch/kill_drill.py --kills 20 --out runs/drill [-- <flags of unireason_jax.train>]
    python launch/kill_drill.py --kills 20 --out runs/drill --bucket      workdirs in a bucket

Trains a tiny model once in peace, and once with `kill -9` of one process, or of all at once, at
random moments: while starting, in a step, while a checkpoint is being written. Then it checks that
  * the processes that were left ended by themselves, with an error,
  * no sound checkpoint ever disappeared, and every attempt went on from the newest one,
  * every global batch was trained on exactly once, with the same rows,
  * losses and final weights equal those of the run in peace, bit for bit.
Ends with status 1 and says which check failed; the findings are kept in OUT/drill.json.
"""

import argparse
import contextlib
import json
import os
import random
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax  # noqa: E402
import numpy as np  # noqa: E402

from launch import bucket, member  # noqa: E402
from launch.local import LocalJob  # noqa: E402
from unireason_jax.storage import lines, paths  # noqa: E402
from unireason_jax.training import checkpoint, checkpoint_manifest  # noqa: E402

# Seconds within which the processes that were left have to end: 60 for a lost one to join, from
# when the other has started (a minute or two on a busy machine), or 100 for its heartbeat.
LAST_WORDS = 300.0
SAME = ("loss", "loss/ce", "loss/flow", "grad_norm", "lr", "skipped")


class Drill:
    """One drill: where it happens, and how its jobs are started.

    Args:
      out: folder for both runs (unless they are in a bucket), ledgers and logs.
      options: the parsed command line.
    """

    def __init__(self, out: Path, options: argparse.Namespace):
        self.out, self.options = out.resolve(), options
        self.runs = paths.of(f"gs://{bucket.NAME}") if options.bucket else self.out
        self.random = random.Random(options.seed)
        self.failed: list[str] = []

    def start(self, name: str) -> LocalJob:
        """Starts (or starts again) the run of a name."""
        options, log = self.options, (self.out / f"{name}.log").open("a")
        flags = {
            "config": "configs/tiny.py",
            "workdir": self.runs / name,
            "config.train.steps": options.steps,
            "config.train.save_every": options.save_every,
            "config.train.log_every": 1,
            "config.train.tensorboard": "false",
            "config.eval.every": 0,
            "config.data.examples": 64,
            "config.mesh.data": options.processes,
        }
        command = [sys.executable, "-m", "launch.member", str(self.out / name / "ledger")]
        command += [f"--{key}={value}" for key, value in flags.items()] + options.flags
        paths = [str(REPOSITORY), os.environ.get("PYTHONPATH", "")]
        environment = {
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "JAX_COMPILATION_CACHE_DIR": str(self.out / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
            "UNIREASON_JOIN_SECONDS": "60",
        }

        def write(number: int, line: str) -> None:
            log.write(f"[{number}] {line}")
            log.flush()

        return LocalJob(
            command,
            processes=options.processes,
            devices=1,
            environment=environment,
            sink=write,
            directory=REPOSITORY,
        )

    def check(self, holds: bool, problem: str) -> None:
        """Notes a problem when something does not hold."""
        if not holds:
            self.failed.append(problem)
            print(f"FAILED: {problem}", flush=True)

    def drawn(self) -> int:
        """Global batches that process 0 of the killed run has drawn, over all attempts."""
        path = self.out / "killed" / "ledger" / "0.jsonl"
        return path.read_text().count("\n") if path.exists() else 0

    def newest(self) -> int:
        """The newest sound checkpoint of the killed run, 0 when there is none."""
        present = checkpoint_manifest.steps(self.runs / "killed")
        folder = self.runs / "killed" / checkpoint_manifest.FOLDER
        return next(
            (s for s in reversed(present) if not checkpoint_manifest.faults(folder / str(s))), 0
        )

    def kill_once(self, number: int) -> dict[str, Any] | None:
        """One attempt that is killed; None when the run finished before its moment came."""
        options, before, drawn = self.options, self.newest(), self.drawn()
        job, began = self.start("killed"), time.monotonic()
        if self.random.random() < 0.2:  # while it starts
            moment, batches = self.random.uniform(0, options.startup), 0
        else:  # after some steps, and a part of one, or of a save
            moment, batches = self.random.uniform(0, 1.0), self.random.randint(1, options.reach)
        while self.drawn() < drawn + batches and job.members[0].poll() is None:
            time.sleep(0.01)
        time.sleep(moment)
        if all(member.poll() == 0 for member in job.members):
            return None
        victim = self.random.choice([*range(options.processes), None])
        job.send(signal.SIGKILL, victim)
        killed_at = time.monotonic()
        statuses = job.wait(grace=LAST_WORDS)
        found = {
            "number": number,
            "resumed_from": before,
            "batches": self.drawn() - drawn,
            "victim": "all" if victim is None else victim,
            "statuses": statuses,
            "seconds": round(killed_at - began, 1),
            "ended_after": round(time.monotonic() - killed_at, 1),
            "newest": self.newest(),
        }
        own = [s for n, s in enumerate(statuses) if victim is not None and n != victim]
        self.check(all(own), f"kill {number}: a process that was left ended with status 0")
        self.check(
            -signal.SIGKILL not in own, f"kill {number}: a process that was left did not end"
        )
        self.check(found["newest"] >= before, f"kill {number}: checkpoint {before} is lost")
        self.check(
            victim is None or statuses[victim] in (-signal.SIGKILL, 0),
            f"kill {number}: process {victim} had ended by itself",
        )
        self.check(
            self.went_on(drawn) in (None, before), f"kill {number}: it did not go on from {before}"
        )
        return found

    def went_on(self, drawn: int) -> int | None:
        """The step of the first batch after so many drawn ones; None where there is none."""
        steps = {p: step for step, p in enumerate(member.history(self.out / "unbroken" / "ledger"))}
        ledger = self.out / "killed" / "ledger" / "0.jsonl"
        later = ledger.read_text().split("\n")[drawn + 1 :] if ledger.exists() else []
        positions = re.findall(r'"position": (\d+),', "\n".join(later))
        return steps.get(int(positions[0]), -1) if positions else None

    def run(self) -> dict[str, Any]:
        """The whole drill; returns the findings."""
        options = self.options
        self.out.mkdir(parents=True, exist_ok=True)
        print(f"in peace: {options.processes} processes, {options.steps} steps", flush=True)
        statuses = self.start("unbroken").wait()
        if any(statuses):
            raise SystemExit(f"error: the run in peace failed; see {self.out / 'unbroken.log'}")
        kills, began = [], time.monotonic()
        while len(kills) < options.kills and (found := self.kill_once(len(kills) + 1)):
            kills.append(found)
            left = (time.monotonic() - began) / len(kills) * (options.kills - len(kills))
            print(
                f"kill {found['number']}/{options.kills}: process {found['victim']} after "
                f"{found['batches']} batches from step {found['resumed_from']}; others ended in "
                f"{found['ended_after']} s; newest checkpoint {found['newest']}; "
                f"about {left / 60:.0f} min left",
                flush=True,
            )
        statuses = self.start("killed").wait()
        self.check(not any(statuses), f"the last attempt failed; see {self.out / 'killed.log'}")
        self.check(
            len(kills) == options.kills,
            f"the run finished after {len(kills)} kills; raise --steps",
        )
        self.compare()
        findings = {"kills": kills, "failed": self.failed, "options": vars(options)}
        (self.out / "drill.json").write_text(json.dumps(findings, indent=1, default=str))
        return findings

    def compare(self) -> None:
        """Data, losses and weights of both runs."""
        peace, war = self.runs / "unbroken", self.runs / "killed"
        ledgers = (self.out / name / "ledger" for name in ("unbroken", "killed"))
        wanted, seen = map(member.history, ledgers)
        self.check(sorted(wanted) == sorted(seen), "a batch is missing, or there is one too many")
        different = [p for p in wanted if wanted[p] != seen.get(p)]
        self.check(not different, f"other rows at positions {different[:5]}")
        self.check(_losses(peace) == _losses(war), "the losses differ")
        for which in ("params", "ema"):
            one, two = (checkpoint.load_params(w, which=which) for w in (peace, war))
            equal = jax.tree.map(lambda a, b: np.asarray(a).tobytes() == np.asarray(b).tobytes(),
                                 one, two)  # fmt: skip
            self.check(all(jax.tree.leaves(equal)), f"the final {which} differ")


def _losses(workdir: Path) -> list[list[float]]:
    """Step and losses of every row of metrics.jsonl."""
    rows = [json.loads(line) for line in lines.read(workdir / "metrics.jsonl")]
    return [[row["step"], *(row[name] for name in SAME)] for row in rows]


def main() -> int:
    """Parses the command line and holds the drill."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--steps", type=int, default=90, help="about 4 a kill")
    parser.add_argument("--save-every", type=int, default=3)
    parser.add_argument("--reach", type=int, default=7, help="most batches before a kill")
    parser.add_argument("--startup", type=float, default=30.0, help="seconds; kills while starting")
    parser.add_argument("--seed", type=int, default=0)
    about = "keep the runs in gs://bucket, which an emulator serves meanwhile"
    parser.add_argument("--bucket", action="store_true", help=about)
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    parser.add_argument("flags", nargs="*", help="-- and more flags of unireason_jax.train")
    options = parser.parse_args()
    if options.out.exists() and any(options.out.iterdir()):
        parser.error(f"{options.out} is not empty")
    with bucket.emulated() if options.bucket else contextlib.nullcontext({}) as environment:
        os.environ.update(environment)
        findings = Drill(options.out, options).run()
    print(f"{len(findings['kills'])} kills, {len(findings['failed'])} failed checks")
    return min(len(findings["failed"]), 1)


if __name__ == "__main__":
    sys.exit(main())
