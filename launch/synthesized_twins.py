"""Twins trained on records that recipes made over HTTP, held against the model they began as.

    python launch/synthesized_twins.py --start runs/quickstart --out runs/synthesized
    python launch/synthesized_twins.py --start runs/quickstart --out runs/synthesized --twin process

For every twin the exact world is served as all the models of its recipes, with their errors and
with faults on the wire. `unireason synthesize` asks it, `prepare` reads what comes, `train` goes on
from the start with these records and nothing else, and the exact judge compares both models on the
same held-out prompts. The quickstart has seen neither drawing in steps nor questions that hide in
an edit, and repairs few of the faulty drafts that it is given; drawing from a plan it can.

--seed is of the world's examples, of the training and of the held-out prompts. Started again, the
command goes on where it stopped. <out>/<seed>/report.md has the table.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import unireason_jax
from unireason_jax.endpoints.loopback import Faults, Loopback
from unireason_jax.evals.rates import mean_difference, mean_of_groups
from unireason_jax.evals.world import edited, looks, step_by_step
from unireason_jax.evals.world.exam import Exam, Groups, asked
from unireason_jax.storage import atomic
from unireason_jax.synthesis import recipe as recipes
from unireason_jax.synthesis.world_models import MODEL, Errors, WorldModels
from unireason_jax.world.scenes import CELL

ROOT = Path(__file__).resolve().parent.parent
SIDE, ROUNDS = 4, 3
ERRORS = Errors(draft=0.6, verify=0.05, edit=0.1, judge=0.05)
FAULTS = dict.fromkeys(("429", "500", "cut", "malformed", "refusal", "usage"), 0.01)
TRAINING = {  # rows of one size, so that all twins share a compiled step
    "data.rows": 3,
    "data.budgets.text": 256,
    "data.budgets.vit": 128,
    "data.budgets.latent": 192,
    "data.workers": 0,
    "optim.lr": 1e-3,
    "optim.warmup_steps": 50,
    "optim.ema": 0.99,
    "eval.every": 0,
    "train.log_every": 50,
    "train.tensorboard": "false",
}


def given_drafts(exam: Exam, count: int) -> dict[str, Groups]:
    """Given drafts after the last round, half of them faulty: twice as many as the count."""
    examples = exam.requests("refine_t2i", [None], 2 * count, held_out=True)
    requests = [asked(e, "prompt", "explanation", "draft", rounds=ROUNDS) for e in examples]
    traces = exam.traces("refine_t2i", requests, ROUNDS)
    judged = [looks.judge(trace, e["requirement"]) for e, trace in zip(examples, traces)]
    found: dict[str, list[bool]] = {"faulty drafts repaired": [], "right drafts left right": []}
    faulty, right = found.values()
    for trace in judged:
        (right if looks.after_round(trace, 0) else faulty).append(looks.after_round(trace, ROUNDS))
    return {name: {"all": verdicts} for name, verdicts in found.items()}


class Twin(NamedTuple):
    """Recipes, and what is measured: (exam, count) -> verdicts by name and group."""

    recipes: tuple[str, ...]
    measured: Callable[[Exam, int], dict[str, Groups]]


TWINS = {
    "refine": Twin(("refine_t2i",), given_drafts),
    "process": Twin(
        ("process", "process_conflict"), lambda exam, n: step_by_step.part(exam, n // 4).outcomes
    ),
    "uni_edit": Twin(("uni_edit",), lambda exam, n: edited.hidden_questions(exam, n // 4).outcomes),
}


def synthesized(recipe: str, folder: Path, seed: int, items: int) -> Path:
    """Records that a recipe makes of the world's examples over HTTP; returns their file."""
    folder.mkdir(parents=True, exist_ok=True)
    world = WorldModels(seed, items, SIDE, ERRORS, recipe)
    rows = world.seeds(folder)
    (folder / "seeds.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    server = Loopback(world, Faults(FAULTS), models=(MODEL,))
    try:
        lines = ['seeds = "seeds.jsonl"', 'licence = "CC0-1.0"', "benchmarks = []"]
        lines += [f"seed = {seed}", f"size = [{SIDE * CELL}, {SIDE * CELL}]"]
        for role in recipes.load(recipes.folder_of(recipe)).roles():
            lines += [f"[[roles.{role}.endpoints]]", f'url = "{server.url}"', f'model = "{MODEL}"']
            lines += ["wait = 0.01", "concurrency = 32"]
        (folder / "agents.toml").write_text("\n".join(lines) + "\n")
        options = {"recipe": recipe, "config": folder / "agents.toml", "out": folder}
        _verb("synthesize", **options)
    finally:
        server.close()
    return folder / "records.jsonl"


def trained(given: argparse.Namespace, twin: Twin, folder: Path) -> Path:
    """The run of a twin: the start, trained on its records alone; what is whole is not redone."""
    prepared, run = folder / "prepared", folder / "run"
    if not (prepared / "manifest.json").is_file():
        files = [synthesized(r, folder / r, given.seed, given.items) for r in twin.recipes]
        options = {"output": prepared, "sizes": "world", "tokenizer": given.start / "tokenizer"}
        _verb("prepare", input=",".join(map(str, files)), **options)
    if not (run / "checkpoints" / str(given.steps)).is_dir():
        keys = {"init_from": given.start, "data.source": prepared} | TRAINING
        keys |= {"seed": given.seed, "data.seed": given.seed}
        keys |= {"train.steps": given.steps, "train.save_every": given.steps}
        options = {f"config.{key}": value for key, value in keys.items()}
        _verb("train", config="configs/quickstart.py", workdir=run, **options)
    return run


def _verb(verb: str, **options: object) -> None:
    """Runs a verb of the command line. Raises CalledProcessError."""
    flags = [f"--{name}={value}" for name, value in options.items()]
    subprocess.run([sys.executable, "-m", "unireason_jax", verb, *flags], cwd=ROOT, check=True)


def outcomes(twin: Twin, checkpoint: Path, file: Path, seed: int, count: int) -> dict[str, Groups]:
    """Verdicts on a model, kept in a file."""
    if not file.is_file():
        exam = Exam(unireason_jax.load(checkpoint), seed)
        atomic.write_text(file, json.dumps(twin.measured(exam, count)) + "\n")
    return json.loads(file.read_text())


def compared(given: argparse.Namespace, name: str, folder: Path) -> list[str]:
    """Rows of the table: a twin and its start on the same prompts."""
    twin = TWINS[name]
    pairs = {"before": given.start, "after": trained(given, twin, folder)}
    one, two = (
        outcomes(twin, checkpoint, folder / f"{file}.json", given.seed, given.prompts)
        for file, checkpoint in pairs.items()
    )
    count = json.loads((folder / "prepared" / "manifest.json").read_text())["records"]
    rows = []
    for measure in one:
        rates = [mean_of_groups(groups[measure]) for groups in (one, two)]
        gain = mean_difference([two[measure]], [one[measure]])
        apart = "yes" if rates[1].low > rates[0].high else "no"
        cells = [" + ".join(twin.recipes), count, measure, *rates, gain, rates[0].count, apart]
        rows.append(f"| {' | '.join(map(str, cells))} |")
    return rows


def main() -> None:
    """The study; writes <out>/<seed>/report.md."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--start", required=True, type=Path, help="a run of the quickstart")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--twin", choices=TWINS, action="append", help="default: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--items", type=int, default=2000, help="seeds of a recipe")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--prompts", type=int, default=128, help="held out, for a twin")
    given = parser.parse_args()
    given.start = given.start.absolute()
    folder = given.out.absolute() / str(given.seed)
    lines = ["| recipes | records | measured | start | twin | gain | n | intervals apart |"]
    lines += ["| --- " * 8 + "|"]
    for name in given.twin or TWINS:
        lines += compared(given, name, folder / name)
        atomic.write_text(folder / "report.md", "\n".join(lines) + "\n")
    print((folder / "report.md").read_text())


if __name__ == "__main__":
    main()
