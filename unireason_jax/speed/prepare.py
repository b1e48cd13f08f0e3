"""`unireason bench prepare`: records a second and memory of `unireason prepare` on made-up rows."""

import json
import random
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

from unireason_jax.data.packing.budget_advice import advise_budgets
from unireason_jax.data.packing.packs import plan_packs
from unireason_jax.data.text.tokenizer import world_tokenizer
from unireason_jax.speed.child import measure

PICTURES = 64
_WORDS = "a red green blue large small circle square triangle left right of above below the".split()


def run(folder: Path, *, records: int, workers: int = 0, seed: int = 0) -> dict:
    """Prepares `records` rows, and a tenth of them before, so that memory can be compared.

    Args:
      folder: an empty folder to work in.
      records: rows of the larger run; half are edits with two pictures of 32 x 32 pixels.
      workers: processes of `prepare`; 0 is one.
      seed: of the rows.

    Returns:
      Plain numbers: seconds and records a second of the larger run with all its processes, peak
      memory of the largest process in both runs, and what planning its packs takes.
    """
    _pictures(folder / "images", seed)
    world_tokenizer().save(folder / "tokenizer")
    few = _prepared(folder, records // 10, workers, seed)
    many = _prepared(folder, records, workers, seed)
    lengths = np.load(folder / f"out-{records}" / "lengths.npy")
    start = time.process_time()
    plan = plan_packs(lengths, advise_budgets(lengths, 480).budgets, seed=seed)
    seconds = time.process_time() - start
    return {
        "bench": "prepare",
        "records": records,
        "workers": workers,
        "wall_s": many["wall_s"],
        "cpu_s": many["cpu_s"],
        "records_per_wall_s": records / many["wall_s"],
        "records_per_cpu_s": records / many["cpu_s"],
        "peak_rss_mib": many["peak_rss_mib"],
        "peak_rss_mib_of_a_tenth": few["peak_rss_mib"],
        "quarantined": many["quarantined"],
        "packs": len(plan),
        "packs_per_cpu_s": len(plan) / seconds,
        "fill": plan.report()["fill"],
    }


def _pictures(folder: Path, seed: int) -> None:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for number in range(PICTURES):
        pixels = rng.integers(0, 256, (32, 32, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")


def _write_rows(path: Path, records: int, seed: int) -> None:
    rng = random.Random(seed)
    with path.open("w") as file:
        for number in range(records):
            text = " ".join(rng.choices(_WORDS, k=rng.randint(4, 40)))
            one, two = (f"{rng.randrange(PICTURES)}.png" for _ in range(2))
            row = {"id": f"r{number}", "txt": text, "image_path": one}
            if number % 2:
                edit = {"instruction": text, "input_image": one, "output_image": two}
                row = {"id": f"r{number}", **edit}
            file.write(json.dumps(row) + "\n")


def _prepared(folder: Path, records: int, workers: int, seed: int) -> dict:
    """One run of the command, in a process of its own."""
    rows, output = folder / f"rows-{records}.jsonl", folder / f"out-{records}"
    _write_rows(rows, records, seed)
    command = [sys.executable, "-m", "unireason_jax.prepare", f"--input={rows}"]
    command += [f"--images={folder / 'images'}", f"--tokenizer={folder / 'tokenizer'}"]
    command += [f"--output={output}", f"--workers={workers}", "--sizes=world", "--style=plain"]
    measured = measure(command)
    manifest = json.loads((output / "manifest.json").read_text())
    return {**measured, "quarantined": manifest["quarantined"]}
