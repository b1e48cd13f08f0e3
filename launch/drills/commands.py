"""The commands that a drill starts, at small sizes, and what of their results must be the same."""

import hashlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from unireason_jax.evals.published import world_sets

REPOSITORY = Path(__file__).resolve().parents[2]
ROWS, BAD_EVERY = 240, 15
STEPS, SAVE = 24, 4
TIMED = ("speed/", "time/", "memory/", "goodput/")
_PASSING = (".lock", "goodput.jsonl", "compiled", "checkpoints", "tensorboard", "damaged")


class Command(NamedTuple):
    """A command of a drill.

    Attributes:
      name: its verb.
      words: module and flags, given its folder and the folder of inputs.
      needs: commands whose results in peace are its inputs.
      facts: what must be the same, given its folder.
    """

    name: str
    words: Callable[[Path, Path], list[str]]
    needs: tuple[str, ...]
    facts: Callable[[Path], dict[str, Any]]


def start(command: Command, folder: Path, inputs: Path, log: Path, **more: str) -> subprocess.Popen:
    """Starts it in a session of its own; what it prints goes to the end of `log`."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")]),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "",
        "JAX_COMPILATION_CACHE_DIR": str(inputs / "compiled"),
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "UNIREASON_CACHE": "",
    }
    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", *command.words(folder, inputs)],
            cwd=REPOSITORY,
            env=environment | more,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def write_rows(folder: Path) -> None:
    """Pictures and a JSONL file of rows for `prepare`, some of which cannot be used; prompts."""
    chance = random.Random(0)
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(ROWS):
        pixels = np.random.default_rng(number).integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        image = "none.png" if number % BAD_EVERY == 7 else f"{number}.png"
        colour = chance.choice(["red", "blue", "green"])
        rows.append({"id": f"row-{number}", "prompt": f"a {colour} circle", "image": image})
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    world_sets.write(folder, counts=dict.fromkeys(world_sets.COUNTS, 6))


def files(folder: Path) -> dict[str, str]:
    """Digest of every file, but for what depends on the clock or the machine."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_dir() or set(name.parts) & set(_PASSING):
            continue
        data = path.read_bytes()
        if path.name == "trace.json":
            data = json.dumps(json.loads(data) | {"seconds": 0}).encode()
        if path.name == "metrics.jsonl":
            continue
        found[str(name)] = hashlib.sha256(data).hexdigest()
    return found


def converted(folder: Path) -> dict[str, Any]:
    """`files`, and those of checkpoint 0."""
    return files(folder) | files(folder / "checkpoints")


def trained(folder: Path) -> dict[str, Any]:
    """`files`, every row of metrics without times, and the last weights."""
    import jax

    from unireason_jax.training import checkpoint

    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    found = files(folder)
    found["metrics"] = [{k: v for k, v in row.items() if not k.startswith(TIMED)} for row in rows]
    for which in ("params", "ema"):
        leaves = jax.tree.leaves(checkpoint.load_params(folder, which=which))
        digest = hashlib.sha256(b"".join(np.asarray(leaf).tobytes() for leaf in leaves))
        found[which] = digest.hexdigest()
    return found


def _prepare(out: Path, inputs: Path) -> list[str]:
    flags = {"input": inputs / "rows" / "rows.jsonl", "output": out, "shard_records": 8}
    flags |= {"workers": 2, "sizes": "world"}
    return ["unireason_jax.prepare", *(f"--{k}={v}" for k, v in flags.items())]


def _encode(out: Path, inputs: Path) -> list[str]:
    return ["unireason_jax.encode", f"--input={inputs / 'prepare'}", f"--output={out}"]


def _train(out: Path, inputs: Path) -> list[str]:
    flags = {
        "config": "configs/tiny.py",
        "workdir": out,
        "config.train.steps": STEPS,
        "config.train.save_every": SAVE,
        "config.train.log_every": 1,
        "config.train.tensorboard": "false",
        "config.eval.every": 0,
        "config.data.examples": 64,
        "config.data.workers": 2,
        "config.data.prefetch": 1,
    }
    return ["launch.drills.paced", *(f"--{k}={v}" for k, v in flags.items())]


def _generate(out: Path, inputs: Path) -> list[str]:
    prompts = [f"two {colour} circles" for colour in ("red", "blue", "green", "yellow")]
    flags = ["--checkpoint", str(inputs / "train"), "--preset", "t2i", "--samples", "6"]
    flags += ["--timesteps", "3", "--batch", "2", "--out", str(out)]
    return ["unireason_jax.generate", *flags, *(f"--prompt={prompt}" for prompt in prompts)]


def _convert(out: Path, inputs: Path) -> list[str]:
    flags = ["--to", "weights", "--input", str(inputs / "train"), "--output", str(out)]
    return ["unireason_jax.convert", *flags, "--shard_gib", "0.0001"]


def _synthesize(out: Path, inputs: Path) -> list[str]:
    demo = REPOSITORY / "notebooks" / "demo"  # an untrained model gives no records
    flags = ["--checkpoint", str(demo), "--count", "6", "--timesteps", "8"]
    return ["unireason_jax.synthesize", *flags, "--batch", "2", "--out", str(out)]


def _benchmark(out: Path, inputs: Path) -> list[str]:
    flags = ["--suite", "wise", "--prompts", str(inputs / "rows" / "wise.json")]
    flags += ["--checkpoint", str(inputs / "train"), "--judge", "program", "--limit", "6"]
    flags += ["--workers", "1", "--timesteps", "3", "--batch", "2", "--out", str(out)]
    return ["unireason_jax.benchmark", *flags]


COMMANDS = {
    made.name: made
    for made in (
        Command("prepare", _prepare, (), files),
        Command("encode", _encode, ("prepare",), files),
        Command("train", _train, (), trained),
        Command("generate", _generate, ("train",), files),
        Command("convert", _convert, ("train",), converted),
        Command("synthesize", _synthesize, (), files),
        Command("benchmark", _benchmark, ("train", "prepare"), files),
    )
}
