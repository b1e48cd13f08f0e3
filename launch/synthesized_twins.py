"""Twins trained on records that recipes made over HTTP, held against the model they began as.

    python launch/synthesized_twins.py --out runs/synthesized
    python launch/synthesized_twins.py --out runs/synthesized --twin process
    python launch/synthesized_twins.py --out runs/taught --start runs/quickstart --seed 1

For every twin the exact world is served as all the models of its recipes, with their errors and
with faults on the wire. `unireason synthesize` asks it, `prepare` reads what comes, `train` goes on
from the start with these records and nothing else, and the exact judge compares both models on the
same held-out prompts.

Without --start one is made in <out>/start, as BAGEL is before UniReason's second stage: from the
quickstart's alignment stage it learns the quickstart's mixture without plans and refinement. It
draws, edits and reads pictures, and was shown no plan, no step and no repair of a draft.

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
from unireason_jax.evals.rates import by_group, mean_difference, mean_of_groups
from unireason_jax.evals.world import edited, looks, step_by_step
from unireason_jax.evals.world.exam import Exam, Groups, asked
from unireason_jax.storage import atomic
from unireason_jax.synthesis import recipe as recipes
from unireason_jax.synthesis.world_models import MODEL, Errors, WorldModels
from unireason_jax.world.scenes import CELL
from unireason_jax.world.verifier import check_image

ROOT = Path(__file__).resolve().parent.parent
SIDE, ROUNDS = 4, 3
ERRORS = Errors(draft=0.6, verify=0.05, edit=0.1, judge=0.05)
FAULTS = dict.fromkeys(("429", "500", "cut", "malformed", "refusal", "usage"), 0.01)
TAUGHT = ("think_t2i", "think_knowledge", "refine_t2i", "refine_knowledge")
START_STEPS = 1400
TRAINING = {  # rows of one size, so that all twins share a compiled step
    "data.rows": 3,
    "data.budgets.text": 256,
    "data.budgets.vit": 128,
    "data.budgets.latent": 192,
    "optim.lr": 1e-3,
    "optim.warmup_steps": 50,
    "optim.ema": 0.99,
    "train.log_every": 50,
}
LEAN = {"data.workers": 0, "eval.every": 0, "train.tensorboard": "false"}


def given_drafts(exam: Exam, count: int) -> dict[str, Groups]:
    """Given drafts after the last round, half of them faulty: twice as many as the count."""
    examples = exam.requests("refine_t2i", [None], 2 * count, held_out=True)
    requests = [asked(e, "prompt", "explanation", "draft", rounds=ROUNDS) for e in examples]
    traces = exam.traces("refine_t2i", requests, ROUNDS)
    judged = [looks.judge(trace, e["requirement"]) for e, trace in zip(examples, traces)]
    faulty, right = [], []
    for trace in judged:
        (right if looks.after_round(trace, 0) else faulty).append(looks.after_round(trace, ROUNDS))
    found = {
        "faulty drafts repaired": faulty,
        "right drafts left right": right,
        "both, right in the end": faulty + right,
    }
    return {name: {"all": verdicts} for name, verdicts in found.items()}


def drawn_in_steps(exam: Exam, count: int) -> dict[str, Groups]:
    """Prompts drawn in steps, and the same prompts drawn at once."""
    part = step_by_step.part(exam, count)
    examples = exam.requests("process", step_by_step.TAGS, count, held_out=True)
    traces = exam.traces("t2i", [asked(e, "prompt") for e in examples], 1)
    at_once = by_group(
        (e["tag"], check_image(e["requirement"], t.image).passed) for e, t in zip(examples, traces)
    )
    return {**part.outcomes, "the same prompts, drawn at once": at_once}


class Twin(NamedTuple):
    """Recipes, and what is measured: (exam, count) -> verdicts by name and group."""

    recipes: tuple[str, ...]
    measured: Callable[[Exam, int], dict[str, Groups]]


TWINS = {
    "refine": Twin(("refine_t2i",), given_drafts),
    "process": Twin(("process", "process_conflict"), lambda exam, n: drawn_in_steps(exam, n // 4)),
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
        _train(run, given.steps, keys)
    return run


def untaught(alignment: Path, run: Path) -> Path:
    """The start that was shown no plan and no refinement; what is whole is not redone."""
    if not (run / "checkpoints" / str(START_STEPS)).is_dir():
        shares = {f"data.mixture.{task}": 0.0 for task in TAUGHT}
        _train(run, START_STEPS, {"init_from": alignment.absolute()} | shares)
    return run


def _train(run: Path, steps: int, keys: dict[str, object]) -> None:
    """Trains the quickstart's model with keys of its config set."""
    keys = keys | LEAN | {"train.steps": steps, "train.save_every": max(steps // 4, 1)}
    options = {f"config.{key}": value for key, value in keys.items()}
    _verb("train", config="configs/quickstart.py", workdir=run, **options)


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
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--start", type=Path, help="a run to go on from, instead of making one")
    parser.add_argument(
        "--alignment",
        type=Path,
        default=Path("runs/quickstart/alignment"),
        help="what the start is made from (default: %(default)s, of `make quickstart`)",
    )
    parser.add_argument("--twin", choices=TWINS, action="append", help="default: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--items", type=int, default=4000, help="seeds of a recipe")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--prompts", type=int, default=128, help="held out, for a twin")
    given = parser.parse_args()
    out = given.out.absolute()
    given.start = (given.start or untaught(given.alignment, out / "start")).absolute()
    folder = out / str(given.seed)
    lines = ["| recipes | records | measured | start | twin | gain | n | intervals apart |"]
    lines += ["| --- " * 8 + "|"]
    for name in given.twin or TWINS:
        lines += compared(given, name, folder / name)
        atomic.write_text(folder / "report.md", "\n".join(lines) + "\n")
    print((folder / "report.md").read_text())


if __name__ == "__main__":
    main()
