"""Teaches the demo model a word it never drew from, by adapters beside its weights.

    python launch/new_concept.py --out runs/concept
    python launch/new_concept.py --out runs/full --full         all weights instead, to compare

"A planet" is to be a magenta circle: no training picture shows that pair, and no prompt the word in
that place. Half of the examples are prompts with it, half are the world's own, so that nothing else
is forgotten. Told are the rates of held-out prompts with the word and of the world's own held-out
prompts before and after, the adapter's size in PEFT's form, and the seconds of training.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from PIL import Image

import unireason_jax
from unireason_jax.data.templates import TEMPLATES
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
LORA = {"lora.rank": 4, "lora.alpha": 8.0, "optim.lr": 3e-3}
FULL = {"optim.lr": 3e-4}
KEPT = {"think_t2i": 0.7, "t2i": 0.1, "edit": 0.2}


def asked_for(number: int, *, held_out: bool) -> tuple[str, Requirement]:
    """A prompt with the word, and what a picture of it has to show."""
    for attempt in range(1000):
        found = prompts.sample_prompt(Dice(7, number, f"{attempt}"), unseen_pairs=True)
        if PHRASE in found.text and is_held_out_prompt(found.text) == held_out:
            return found.text.replace(PHRASE, WORD), found.requirement
    raise ValueError("the world has no such prompt")


def write_records(folder: Path, count: int) -> Path:
    """Prompts with the word and pictures of them, as a file that `data.extra` reads."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number in range(count):
        prompt, requirement = asked_for(number, held_out=False)
        scene = sample_scene(requirement, Dice(9, number), unseen_pairs=True)
        picture = folder / f"{number}.png"
        Image.fromarray(renderer.render(scene)).save(picture)
        row = {"id": f"planet {number}", "task": "think_t2i", "prompt": prompt}
        row |= {"think": plan_text(scene.objects), "image": picture.name}
        lines.append(json.dumps(row))
    file = folder / "records.jsonl"
    file.write_text("\n".join(lines) + "\n")
    return file


def rates(reasoner, count: int) -> dict[str, float]:
    """Part of the held-out prompts that are drawn right: those with the word, and the world's."""
    own, _ = requests(0, 4, "t2i", prompts.TAGS, count // 6, held_out=True, render=False)
    word = [asked_for(number, held_out=True) for number in range(count)]
    questions = [{"id": f"w{i}", "prompt": text} for i, (text, _) in enumerate(word)]
    questions += [asked(example, "prompt") for example in own]
    wanted = [requirement for _, requirement in word] + [e["requirement"] for e in own]
    records = [TEMPLATES["think_t2i"](question, reasoner.style) for question in questions]
    traces = reasoner.run(records)
    right = [check_image(r, t.images[-1]).passed for t, r in zip(traces, wanted)]
    parts = {"the word": right[:count], "the world's own": right[count:]}
    return {name: sum(part) / len(part) for name, part in parts.items()}


def train(records: Path, workdir: Path, steps: int, recipe: dict) -> float:
    """Seconds of a training run."""
    keys = {"init_from": DEMO, "data.extra.path": records, "train.steps": steps}
    keys |= {"train.save_every": steps} | RECIPE | recipe
    keys |= {f"data.mixture.{task}": 0.0 for task in json.loads(_config())["data"]["mixture"]}
    keys |= {f"data.mixture.{task}": share for task, share in KEPT.items()}
    started = time.monotonic()
    command = [sys.executable, "-m", "unireason_jax.train", "--config=configs/world_large.py"]
    command += [f"--workdir={workdir}", *(f"--config.{k}={v}" for k, v in keys.items())]
    subprocess.run(command, cwd=ROOT, check=True)
    return time.monotonic() - started


def _config() -> str:
    return (DEMO / "config.json").read_text()


def main() -> None:
    """The experiment; writes <out>/rates.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--full", action="store_true", help="train all weights")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--records", type=int, default=512)
    parser.add_argument("--prompts", type=int, default=96, help="asked of each kind")
    given = parser.parse_args()
    records = write_records((given.out / "records").absolute(), given.records)
    found = {"before": rates(unireason_jax.load(DEMO, dtype="float32"), given.prompts)}
    workdir = (given.out / "run").absolute()
    found["seconds"] = train(records, workdir, given.steps, FULL if given.full else LORA)
    tuned = {"dtype": "float32"} | ({} if given.full else {"adapter": str(workdir)})
    reasoner = unireason_jax.load(workdir if given.full else DEMO, **tuned)
    found["after"] = rates(reasoner, given.prompts)
    if not given.full:
        command = [sys.executable, "-m", "unireason_jax.convert", "--to", "peft"]
        command += ["--input", str(workdir), "--output", str(given.out / "adapter")]
        subprocess.run(command, cwd=ROOT, check=True)
        found["adapter bytes"] = (given.out / "adapter" / peft.WEIGHTS).stat().st_size
    (given.out / "rates.json").write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
