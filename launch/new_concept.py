"""Teaches the demo model a word it never drew from: by adapters, and by moving all weights.

    python launch/new_concept.py --out runs/concept

"A planet" is to be a magenta circle: no training picture shows that pair, and no prompt the word in
that place. Half of the examples are prompts with it, half are the world's own, so that nothing else
is forgotten. Both forms see the same examples in the same order, as often. Told are the rates of
held-out prompts with the word and of the world's own held-out prompts, before and after, the same
prompts from the same noise; the size of what was learned, and what the training took. A form that
<out>/rates.json holds is not trained again.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from PIL import Image

import unireason_jax
from unireason_jax.data.templates import TEMPLATES
from unireason_jax.evals.rates import mean_difference, wilson
from unireason_jax.evals.world.exam import asked, requests
from unireason_jax.models import peft
from unireason_jax.world import prompts, renderer
from unireason_jax.world.dice import Dice
from unireason_jax.world.language import plan_text
from unireason_jax.world.requirements import Requirement, sample_scene
from unireason_jax.world.scenes import is_held_out_prompt
from unireason_jax.world.verifier import check_image

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "notebooks" / "demo"
PHRASE, WORD = "magenta circle", "planet"
RECIPE = {
    "data.examples": 4000,
    "data.rows": 2,
    "data.tokens": 640,
    "data.workers": 0,
    "data.extra.share": 0.5,
    "optim.schedule": "constant",
    "optim.warmup_steps": 10,
    "optim.ema": 0.95,
    "eval.every": 0,
    "train.log_every": 20,
    "train.tensorboard": "false",
}
FORMS = {
    "adapters": {"lora.rank": 4, "lora.alpha": 8.0, "optim.lr": 3e-3},
    "all weights": {"optim.lr": 3e-4},
}
KEPT = {"think_t2i": 0.7, "t2i": 0.1, "edit": 0.2}


def asked_for(seed: int, number: int, *, held_out: bool) -> tuple[str, Requirement]:
    """A prompt with the word, and what a picture of it has to show."""
    for attempt in range(1000):
        found = prompts.sample_prompt(Dice(7 + seed, number, f"{attempt}"), unseen_pairs=True)
        if PHRASE in found.text and is_held_out_prompt(found.text) == held_out:
            return found.text.replace(PHRASE, WORD), found.requirement
    raise ValueError("the world has no such prompt")


def write_records(folder: Path, seed: int, count: int) -> Path:
    """Prompts with the word and pictures of them, as a file that `data.extra` reads."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number in range(count):
        prompt, requirement = asked_for(seed, number, held_out=False)
        scene = sample_scene(requirement, Dice(900 + seed, number), unseen_pairs=True)
        picture = folder / f"{number}.png"
        Image.fromarray(renderer.render(scene)).save(picture)
        row = {"id": f"planet {number}", "task": "think_t2i", "prompt": prompt}
        row |= {"think": plan_text(scene.objects), "image": picture.name}
        lines.append(json.dumps(row))
    file = folder / "records.jsonl"
    file.write_text("\n".join(lines) + "\n")
    return file


def verdicts(reasoner, seed: int, count: int) -> dict[str, list[bool]]:
    """Which held-out prompts are drawn right: those with the word, and the world's own."""
    own, _ = requests(seed, 4, "t2i", prompts.TAGS, count // 6, held_out=True, render=False)
    word = [asked_for(seed, number, held_out=True) for number in range(count)]
    questions = [{"id": f"w{i}", "prompt": text} for i, (text, _) in enumerate(word)]
    questions += [asked(example, "prompt") for example in own]
    wanted = [requirement for _, requirement in word] + [e["requirement"] for e in own]
    records = [TEMPLATES["think_t2i"](question, reasoner.style) for question in questions]
    traces = reasoner.run(records)
    right = [bool(check_image(r, t.images[-1]).passed) for t, r in zip(traces, wanted)]
    return {"the word": right[:count], "the world's own": right[count:]}


def train(records: Path, workdir: Path, steps: int, recipe: dict) -> dict[str, float]:
    """What a training run took: seconds, seconds of the processor, and GiB of memory at most."""
    keys = {"init_from": DEMO, "data.extra.path": records, "train.steps": steps}
    keys |= {"train.save_every": steps} | RECIPE | recipe
    keys |= {f"data.mixture.{task}": 0.0 for task in json.loads(_config())["data"]["mixture"]}
    keys |= {f"data.mixture.{task}": share for task, share in KEPT.items()}
    command = [sys.executable, "-m", "unireason_jax.train", "--config=configs/world_large.py"]
    command += [f"--workdir={workdir}", *(f"--config.{k}={v}" for k, v in keys.items())]
    started = time.monotonic()
    process = subprocess.Popen(command, cwd=ROOT)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit("the training run has failed")
    return {
        "seconds": time.monotonic() - started,
        "seconds of the processor": used.ru_utime + used.ru_stime,
        "GiB at most": used.ru_maxrss / 2**20,
    }


def learned(form: str, out: Path) -> tuple[dict, Path]:
    """How a form's model is loaded, and the file or folder that is handed on."""
    workdir = (out / "run").absolute()
    if form != "adapters":
        return {"checkpoint": workdir}, next(workdir.glob("checkpoints/*/params"))
    command = [sys.executable, "-m", "unireason_jax.convert", "--to", "peft"]
    command += ["--input", str(workdir), "--output", str(out / "adapter")]
    subprocess.run(command, cwd=ROOT, check=True)
    return {"checkpoint": DEMO, "adapter": str(workdir)}, out / "adapter" / peft.WEIGHTS


def told(before: dict[str, list[bool]], after: dict[str, list[bool]]) -> dict[str, dict]:
    """Rates before and after, and their difference prompt by prompt."""
    return {
        name: {
            "before": wilson(before[name]).to_dict(),
            "after": wilson(after[name]).to_dict(),
            "difference": mean_difference([{"": after[name]}], [{"": before[name]}]).to_dict(),
        }
        for name in before
    }


def _config() -> str:
    return (DEMO / "config.json").read_text()


def main() -> None:
    """The experiment; writes <out>/rates.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--records", type=int, default=512)
    parser.add_argument("--prompts", type=int, default=192, help="asked of each kind")
    parser.add_argument("--seed", type=int, default=0, help="of records and prompts")
    given = parser.parse_args()
    file, asked_of = given.out / "rates.json", (given.seed, given.prompts)
    records = write_records((given.out / "records").absolute(), given.seed, given.records)
    found = json.loads(file.read_text()) if file.exists() else {}
    if missing := [form for form in FORMS if form not in found]:
        before = verdicts(unireason_jax.load(DEMO, dtype="float32"), *asked_of)
    for form in missing:
        out = given.out / form.replace(" ", "_")
        took = train(records, (out / "run").absolute(), given.steps, FORMS[form])
        model, kept = learned(form, out)
        after = verdicts(unireason_jax.load(**model, dtype="float32"), *asked_of)
        found[form] = told(before, after) | {"training": took, "bytes": _bytes(kept)}
        file.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


def _bytes(kept: Path) -> int:
    files = kept.rglob("*") if kept.is_dir() else [kept]
    return sum(file.stat().st_size for file in files if file.is_file())


if __name__ == "__main__":
    main()
