"""`unireason ablation`: trains, evaluates and compares the rows of a study, one command.

    unireason ablation --config configs/world_ablation.py --workdir runs/ablation
    ... --dry_run      lists the jobs with their steps and expected time, runs nothing
    ... --minutes 60   scales the number of images so that the whole takes about so long
    ... --seeds 3      training seeds; every row is trained once for each
    ... --only "base,two-stage"     some of the rows; others can join later, with as many images

Every job is a training, a synthesis or an evaluation in its own process. Started again, the command
skips what is done and goes on inside a job that was interrupted. The report is written anew after
every evaluation, so it can be read while the rest is running.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from unireason_jax.evals.world import comparison
from unireason_jax.evals.world.study import (
    SECONDS_PER_CRITIQUE,
    Study,
    images_within,
    load_study,
    measured_rates,
    plan_steps,
)
from unireason_jax.run import command_line
from unireason_jax.run.configuration import ConfigError
from unireason_jax.storage import atomic, lock
from unireason_jax.training import checkpoint_manifest

PLAN, REPORT = "plan.json", "report"
Execute = Callable[[Sequence[str]], None]


class JobFailed(RuntimeError):
    """A process of the study ended with an error."""


@dataclasses.dataclass(frozen=True)
class Job:
    """One process.

    Attributes:
      name: for people.
      kind: train, synthesize or evaluate.
      command: after the interpreter.
      folder: gets the marker when the job has ended well.
      seconds: expected.
      needs: markers of the jobs it goes on from.
    """

    name: str
    kind: str
    command: tuple[str, ...]
    folder: Path
    seconds: float
    needs: tuple[Path, ...] = ()

    @property
    def marker(self) -> Path:
        """Written when the job has ended well."""
        return self.folder / f"{self.kind}.done.json"

    def is_done(self) -> bool:
        """Whether this very job has ended well.

        Raises:
          ConfigError: another job has, with other settings.
        """
        if not self.marker.exists():
            return False
        if json.loads(self.marker.read_text("utf-8"))["command"] == list(self.command):
            return True
        raise ConfigError(
            f"{self.folder} was made with other settings; give the settings of before, another "
            "--workdir, or remove that folder."
        )


def make_jobs(
    study: Study, config: str, workdir: Path, seeds: int, plan: Mapping[str, Mapping[str, float]]
) -> list[Job]:
    """All jobs in an order in which they can run; the first seed is finished first."""
    return [
        job
        for seed in range(seeds)
        for run in study.needed()
        for job in _jobs_of(study, config, workdir / f"seed{seed}", seed, run, plan[run]["steps"])
    ]


def _jobs_of(study: Study, config: str, base: Path, seed: int, run: str, steps: int) -> list[Job]:
    """Jobs of one run: its critiques where it needs some, the training, the evaluation."""
    folder, settings = base / run, study.runs[run]
    label, jobs, needs = f"{run}, seed {seed}", [], ()
    flags = {"seed": seed, "data.seed": seed, "train.steps": steps}
    flags["train.save_every"] = max(steps // 4, 1)
    if before := settings.get("after"):
        flags["init_from"] = base / before
        needs = (base / before / "train.done.json",)
    if share := settings.get("own_critiques"):
        critiques = base / f"{run}_records"
        command = ("unireason_jax.synthesize", f"--checkpoint={base / before}")
        command += (f"--out={critiques}", f"--count={study.critiques}", f"--seed={seed}")
        seconds = SECONDS_PER_CRITIQUE * study.critiques
        jobs.append(Job(f"synthesize {label}", "synthesize", command, critiques, seconds, needs))
        flags |= {"data.extra.path": critiques / "records.jsonl", "data.extra.share": share}
        needs = (jobs[-1].marker,)
    command = ("unireason_jax.train", f"--config={config}:{run}", f"--workdir={folder}")
    command += tuple(f"--config.{key}={value}" for key, value in flags.items())
    seconds = steps * study.seconds_per_step
    jobs.append(Job(f"train {label}", "train", command, folder, seconds, needs))
    if run in study.evaluated():
        sizes = {**study.sizes, **study.sizes_of.get(run, {})}
        command = ("unireason_jax.evaluate", f"--checkpoint={folder}", f"--out={folder / REPORT}")
        command += tuple(f"--{key}={value}" for key, value in sizes.items())
        seconds, needs = study.seconds_per_report, (jobs[-1].marker,)
        jobs.append(Job(f"evaluate {label}", "evaluate", command, folder, seconds, needs))
    return jobs


def execute(command: Sequence[str]) -> None:
    """Runs a module of the package in a process of its own, its output on this terminal.

    Raises:
      JobFailed: it ended with an error, or is a training that was stopped before its last step.
    """
    words = [sys.executable, "-m", *command]
    code = subprocess.run(words, check=False).returncode
    if code:
        raise JobFailed(f"exit status {code} of: {' '.join(words)}")
    flags = dict(word.removeprefix("--").split("=", 1) for word in command[1:])
    last = int(flags.get("config.train.steps", 0))
    if last and max(checkpoint_manifest.steps(flags["workdir"]), default=0) < last:
        raise JobFailed(f"{flags['workdir']} was stopped before step {last}")


def _cpu_seconds() -> float:
    """Processor time of all processes that this one has started and that have ended."""
    used = os.times()
    return used.children_user + used.children_system


def run_jobs(
    jobs: Sequence[Job], after: Callable[[Job], None], execute: Execute = execute
) -> list[str]:
    """Runs the jobs that are not done; says before each how much is left.

    A job that fails takes along only those that go on from it.

    Args:
      jobs: in order.
      after: called with every job that is done, also with those that were done before.
      execute: runs a command.

    Returns:
      What failed or could not be started, with reasons.
    """
    expected = spent = 0.0
    failed = []
    for number, job in enumerate(jobs):
        if not job.is_done():
            if absent := [marker for marker in job.needs if not marker.exists()]:
                failed.append(f"{job.name}: not started, {absent[0].parent} is not finished")
                continue
            pace = spent / expected if expected else 1.0
            left = pace * sum(j.seconds for j in jobs[number:] if not j.is_done())
            place = f"[{number + 1} of {len(jobs)}]"
            print(f"{place} {job.name}; about {left / 60:.0f} min left in all", flush=True)
            started, busy = time.monotonic(), _cpu_seconds()
            try:
                execute(job.command)
            except JobFailed as error:
                failed.append(f"{job.name}: {error}")
                continue
            seconds = time.monotonic() - started
            done = {"command": list(job.command), "seconds": round(seconds, 1)}
            done["cpu_seconds"] = round(_cpu_seconds() - busy, 1)
            atomic.write_text(job.marker, json.dumps(done, indent=1) + "\n")
            expected, spent = expected + job.seconds, spent + seconds
        after(job)
    return failed


def write_report(study: Study, workdir: Path, seeds: int, plan: Mapping[str, Any]) -> Path:
    """Writes the report on all evaluations that are done; returns its folder."""
    found: dict[str, list[comparison.Outcomes]] = {}
    spent: dict[str, str] = {}
    for run in study.needed():
        folders = [workdir / f"seed{seed}" / run for seed in range(seeds)]
        done = [folder for folder in folders if (folder / "evaluate.done.json").exists()]
        found[run] = [comparison.read_outcomes(folder / REPORT) for folder in done]
        markers = [marker for folder in folders for marker in folder.glob("*.done.json")]
        spent[run] = _minutes(markers)
    rows = {name: (found[run], mode) for name, run, mode in study.rows if found[run]}
    facts = {
        "steps and images of a run": "; ".join(
            f"{run} {p['steps']:.0f} steps, {p['images']:.0f} images" for run, p in plan.items()
        ),
        "minutes by run": "; ".join(f"{run} {minutes}" for run, minutes in spent.items()),
        "not yet evaluated": ", ".join(n for n, r, _ in study.rows if not found[r]) or "nothing",
        "curves": "curves.png; strips and all tables of a run: seed*/RUN/report/report.md",
    }
    told = {key: getattr(study, key) for key in ("measures", "title", "note")}
    made = comparison.report(rows, study.claims, found.get(study.controls, []), facts, **told)
    folder = made.write(workdir / REPORT)
    metrics = {run: workdir / "seed0" / run / "metrics.jsonl" for run in study.needed()}
    present = {run: path for run, path in metrics.items() if path.exists()}
    comparison.draw_curves(present, folder / "curves.png")
    return folder


def _minutes(markers: Sequence[Path]) -> str:
    """What jobs took by the clock and, where it was noted, of processors."""
    done = [json.loads(marker.read_text("utf-8")) for marker in markers]
    clock, busy = (sum(job.get(key, 0) for job in done) for key in ("seconds", "cpu_seconds"))
    return f"{clock / 60:.1f}" + (f" ({busy / 60:.1f} of CPU)" if busy else "")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(
        prog="unireason ablation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    found.add_argument("--config", required=True, help="config file that defines study()")
    found.add_argument(
        "--workdir", required=True, type=command_line.path, help="an existing one goes on"
    )
    found.add_argument("--minutes", type=float, help="budget of the whole; scales the images")
    found.add_argument(
        "--seconds_per_step", type=float, help="measured on your machine; for --minutes"
    )
    found.add_argument("--seeds", type=int, default=1, help="training seeds (default 1)")
    found.add_argument("--only", default="", help="rows, separated by commas")
    found.add_argument("--dry_run", action="store_true", help="list the jobs, run nothing")
    return found


def settled_plan(study: Study, arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """The plan of all runs of the working directory: the images are settled once, rows can join.

    Raises:
      ConfigError: the directory holds the plan of other settings.
    """
    asked = {key: getattr(arguments, key) for key in ("config", "minutes", "seeds")}
    path = arguments.workdir / PLAN
    saved = json.loads(path.read_text("utf-8")) if path.exists() else {"asked": asked, "runs": {}}
    if saved["asked"] != asked:
        raise ConfigError(
            f"{path} was made with {saved['asked']}, not {asked}; give another --workdir."
        )
    if any(run not in saved["runs"] for run in study.needed()):
        rates = measured_rates(study, arguments.config)
        if "images" not in saved:
            saved["images"] = study.images
            if arguments.minutes is not None:
                budget = (arguments.seeds, arguments.minutes)
                saved["images"] = images_within(study, rates, *budget)
        saved["runs"] = plan_steps(study, rates, saved["images"]) | saved["runs"]
        if not arguments.dry_run:
            atomic.write_text(path, json.dumps(saved, indent=1) + "\n")
    return saved["runs"]


def run(arguments: argparse.Namespace, execute: Execute = execute) -> Path | None:
    """The whole study; returns the folder of the report, None for a dry run."""
    if arguments.seeds < 1:
        raise ConfigError("--seeds must be >= 1.")
    if arguments.dry_run:
        return _run(arguments, execute)
    with lock.hold(arguments.workdir, "unireason ablation"):
        return _run(arguments, execute)


def _run(arguments: argparse.Namespace, execute: Execute) -> Path | None:
    rows = [name.strip() for name in arguments.only.split(",") if name.strip()]
    whole = load_study(arguments.config)
    study = whole.only(rows)
    if arguments.seconds_per_step:
        study = dataclasses.replace(study, seconds_per_step=arguments.seconds_per_step)
    planned = settled_plan(study, arguments)
    jobs = make_jobs(study, arguments.config, arguments.workdir, arguments.seeds, planned)
    if arguments.dry_run:
        for job in jobs:
            print(f"{job.name:<32} about {job.seconds / 60:5.1f} min  {' '.join(job.command)}")
        total = sum(job.seconds for job in jobs)
        print(f"{len(jobs)} jobs, about {total / 60:.0f} minutes on two CPU cores")
        return None

    def after(job: Job) -> None:
        if job.kind == "evaluate":
            write_report(whole, arguments.workdir, arguments.seeds, planned)

    failed = run_jobs(jobs, after, execute)
    folder = write_report(whole, arguments.workdir, arguments.seeds, planned)
    print((folder / "report.md").read_text("utf-8"))
    print(f"report: {folder / 'report.md'}")
    if failed:
        raise ConfigError(
            "not everything is done; the same command tries it again:\n" + "\n".join(failed)
        )
    return folder


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; ends with one clear line on a wrong flag or config."""
    command_line.run(parser(), run, argv)


if __name__ == "__main__":
    main()
