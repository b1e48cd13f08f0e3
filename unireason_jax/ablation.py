"""`unireason ablation`: trains, evaluates and compares the rows of a study, one command.

    unireason ablation --config configs/world_ablation.py --workdir runs/ablation
    ... --dry_run      lists the jobs with their steps and expected time, runs nothing
    ... --minutes 60   scales the number of images so that the whole takes about so long
    ... --seeds 3      training seeds; every row is trained once for each
    ... --only "base,two-stage"     some of the rows

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

from ml_collections import ConfigDict

from unireason_jax import configuration, experiment
from unireason_jax.configuration import ConfigError
from unireason_jax.evals import ablation

PLAN, REPORT = "plan.json", "report"
_MEASURED_EXAMPLES, _MEASURED_BATCHES = 1024, 16
_SECONDS_PER_CRITIQUE = 0.05
Execute = Callable[[Sequence[str]], None]


@dataclasses.dataclass(frozen=True)
class Study:
    """What is run and compared; see `study()` of configs/world_ablation.py.

    Attributes:
      runs: by name {mixture, share of the images, after (another run), own_critiques (a share)}.
      rows: (name, run, mode of asking).
      claims: (measure, smaller row, larger row).
      controls: the run whose controls are reported.
      images: supervised images that a whole row draws.
      seconds_per_step, seconds_per_report: for the plan's clock.
      sizes, sizes_of: flags of `evaluate`, for all runs and by run.
      critiques: drafts to be criticised for a run that learns from its own.
    """

    runs: Mapping[str, Mapping[str, Any]]
    rows: tuple[tuple[str, str, str], ...]
    claims: tuple[tuple[str, str, str], ...]
    controls: str
    images: int
    seconds_per_step: float
    seconds_per_report: float
    sizes: Mapping[str, Any]
    sizes_of: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    critiques: int = 0

    def only(self, names: Sequence[str]) -> "Study":
        """The study with some of its rows, all of them for no names.

        Raises:
          ConfigError: a row that does not exist.
        """
        known = [name for name, _, _ in self.rows]
        if unknown := [name for name in names if name not in known]:
            raise ConfigError(f"--only: no row '{unknown[0]}'; there are {', '.join(known)}.")
        return dataclasses.replace(
            self, rows=tuple(r for r in self.rows if r[0] in names or not names)
        )

    def needed(self) -> list[str]:
        """Runs that the rows need, every run after the one it starts from."""
        order: list[str] = []

        def add(run: str) -> None:
            if before := self.runs[run].get("after"):
                add(before)
            if run not in order:
                order.append(run)

        for _, run, _ in self.rows:
            add(run)
        return order

    def evaluated(self) -> list[str]:
        """Runs that are evaluated."""
        return list(dict.fromkeys(run for _, run, _ in self.rows))


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


def images_per_step(config: ConfigDict) -> float:
    """Supervised images in a batch of a config, measured on its own packs."""
    config = ConfigDict(config)
    config.data.examples = min(config.data.examples, _MEASURED_EXAMPLES)
    made = experiment.create(config)
    pipeline = experiment.make_pipeline(made)
    batches = [next(pipeline) for _ in range(_MEASURED_BATCHES)]
    pipeline.close()
    tokens = sum(int((batch["latent_weights"] > 0).sum()) for batch in batches)
    return tokens / config.data.side**2 / _MEASURED_BATCHES


def plan_steps(
    study: Study, config: str, seeds: int, minutes: float | None
) -> dict[str, dict[str, float]]:
    """Steps and images of every run, such that whole rows draw the same number of images.

    Raises:
      ConfigError: `minutes` does not even cover the evaluations.
    """
    rates = {}
    for run in study.needed():
        loaded = configuration.load(f"{config}:{run}")
        if share := study.runs[run].get("own_critiques"):
            loaded.data.mixture.refine_t2i = share  # their images do not exist yet
        rates[run] = images_per_step(loaded)
    images = study.images
    if minutes is not None:
        fixed = seeds * sum(_fixed_seconds(study, run) for run in rates)
        each = seeds * study.seconds_per_step
        each *= sum(study.runs[run]["share"] / rate for run, rate in rates.items())
        images = int((60 * minutes - fixed) / each)
        if images < max(rates.values()):
            raise ConfigError(
                f"--minutes={minutes:g} is too short: evaluating alone takes {fixed / 60:.0f} "
                "minutes. Give more, fewer --seeds, or --only some rows."
            )
    plan = {}
    for run, rate in rates.items():
        share = study.runs[run]["share"] * images
        plan[run] = {"steps": max(round(share / rate), 1), "images": round(share)}
    return plan


def _fixed_seconds(study: Study, run: str) -> float:
    """Expected seconds of a run beside its training."""
    critiques = study.critiques if "own_critiques" in study.runs[run] else 0
    report = study.seconds_per_report if run in study.evaluated() else 0
    return report + _SECONDS_PER_CRITIQUE * critiques


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
        seconds = _SECONDS_PER_CRITIQUE * study.critiques
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
      JobFailed: it ended with an error.
    """
    words = [sys.executable, "-m", *command]
    code = subprocess.run(words, check=False).returncode
    if code:
        raise JobFailed(f"exit status {code} of: {' '.join(words)}")


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
            started = time.monotonic()
            try:
                execute(job.command)
            except JobFailed as error:
                failed.append(f"{job.name}: {error}")
                continue
            seconds = time.monotonic() - started
            job.folder.mkdir(parents=True, exist_ok=True)
            done = {"command": list(job.command), "seconds": round(seconds, 1)}
            job.marker.write_text(json.dumps(done, indent=1) + "\n", encoding="utf-8")
            expected, spent = expected + job.seconds, spent + seconds
        after(job)
    return failed


def write_report(study: Study, workdir: Path, seeds: int, plan: Mapping[str, Any]) -> Path:
    """Writes the report on all evaluations that are done; returns its folder."""
    found: dict[str, list[ablation.Outcomes]] = {}
    spent: dict[str, float] = {}
    for run in study.needed():
        folders = [workdir / f"seed{seed}" / run for seed in range(seeds)]
        done = [folder for folder in folders if (folder / "evaluate.done.json").exists()]
        found[run] = [ablation.read_outcomes(folder / REPORT) for folder in done]
        markers = [marker for folder in folders for marker in folder.glob("*.done.json")]
        spent[run] = sum(json.loads(m.read_text("utf-8"))["seconds"] for m in markers)
    rows = {name: (found[run], mode) for name, run, mode in study.rows if found[run]}
    facts = {
        "steps and images of a run": "; ".join(
            f"{run} {p['steps']:.0f} steps, {p['images']:.0f} images" for run, p in plan.items()
        ),
        "minutes by run": "; ".join(f"{run} {s / 60:.1f}" for run, s in spent.items()),
        "not yet evaluated": ", ".join(n for n, r, _ in study.rows if not found[r]) or "nothing",
        "curves": "curves.png; strips and all tables of a run: seed*/RUN/report/report.md",
    }
    made = ablation.report(rows, study.claims, found.get(study.controls, []), facts)
    folder = made.write(workdir / REPORT)
    metrics = {run: workdir / "seed0" / run / "metrics.jsonl" for run in study.needed()}
    present = {run: path for run, path in metrics.items() if path.exists()}
    ablation.draw_curves(present, folder / "curves.png")
    return folder


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(
        prog="unireason ablation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    found.add_argument("--config", required=True, help="config file that defines study()")
    found.add_argument("--workdir", required=True, type=Path, help="an existing one goes on")
    found.add_argument("--minutes", type=float, help="budget of the whole; scales the images")
    found.add_argument(
        "--seconds_per_step", type=float, help="measured on your machine; for --minutes"
    )
    found.add_argument("--seeds", type=int, default=1, help="training seeds (default 1)")
    found.add_argument("--only", default="", help="rows, separated by commas")
    found.add_argument("--dry_run", action="store_true", help="list the jobs, run nothing")
    return found


def load_study(config: str) -> Study:
    """The study of a config file. Raises ConfigError where it has none, or a wrong one."""
    names = configuration.load_file(config)
    if "study" not in names:
        raise ConfigError(f"--config={config}: the file defines no study().")
    return configuration.build(Study, names["study"](), "study")


def settled_plan(study: Study, arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """The plan of the working directory, made and saved where there is none yet.

    Raises:
      ConfigError: the directory holds the plan of other settings.
    """
    asked = {key: getattr(arguments, key) for key in ("config", "minutes", "seeds", "only")}
    path = arguments.workdir / PLAN
    if path.exists():
        saved = json.loads(path.read_text("utf-8"))
        if saved["asked"] != asked:
            raise ConfigError(
                f"{path} was made with {saved['asked']}, not {asked}; give another --workdir."
            )
        return saved["runs"]
    runs = plan_steps(study, arguments.config, arguments.seeds, arguments.minutes)
    if not arguments.dry_run:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"asked": asked, "runs": runs}, indent=1) + "\n", "utf-8")
    return runs


def run(arguments: argparse.Namespace, execute: Execute = execute) -> Path | None:
    """The whole study; returns the folder of the report, None for a dry run."""
    if arguments.seeds < 1:
        raise ConfigError("--seeds must be >= 1.")
    rows = [name.strip() for name in arguments.only.split(",") if name.strip()]
    study = load_study(arguments.config).only(rows)
    if arguments.seconds_per_step:
        study = dataclasses.replace(study, seconds_per_step=arguments.seconds_per_step)
    plan = settled_plan(study, arguments)
    jobs = make_jobs(study, arguments.config, arguments.workdir, arguments.seeds, plan)
    if arguments.dry_run:
        for job in jobs:
            print(f"{job.name:<32} about {job.seconds / 60:5.1f} min  {' '.join(job.command)}")
        total = sum(job.seconds for job in jobs)
        print(f"{len(jobs)} jobs, about {total / 60:.0f} minutes on two CPU cores")
        return None
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(arguments.workdir / "compiled"))

    def after(job: Job) -> None:
        if job.kind == "evaluate":
            write_report(study, arguments.workdir, arguments.seeds, plan)

    failed = run_jobs(jobs, after, execute)
    folder = write_report(study, arguments.workdir, arguments.seeds, plan)
    print((folder / "report.md").read_text("utf-8"))
    print(f"report: {folder / 'report.md'}")
    if failed:
        raise ConfigError(
            "not everything is done; the same command tries it again:\n" + "\n".join(failed)
        )
    return folder


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; ends with one clear line on a wrong flag or config."""
    arguments = parser().parse_args(argv)
    try:
        run(arguments)
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
