"""Which recipe fits which hardware: compiled in pieces, and one table of it.

    python -m launch.recipe_table plan               what is known of each cell, and what is next
    python -m launch.recipe_table compile --limit 2  compiles the cells that are most in doubt
    python -m launch.recipe_table compile --only irg_stage1@v6e-16
    python -m launch.recipe_table table              the table, as Markdown

A cell is a recipe's default config with the mesh preset of the hardware; where that is refused or
does not fit, with the smallest change by which it does. What was compiled is a JSON file under
launch/compile_reports/recipes, with the versions of jax and of libtpu, and is not compiled again;
until memory is assigned, and no further (`compile_check --quick`): some 15 CPU-seconds.
Other cells are estimated: what a run keeps is known exactly, and activations grow with the tokens
of a device as they do in the cells of that model that are compiled. An estimate within a tenth of
the memory decides nothing. Needs libtpu (and for GPUs JAX's CUDA plugin), no accelerator.
"""

import argparse
import dataclasses
import functools
import json
import math
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

from unireason_jax.compilation import check, remedies, topology
from unireason_jax.pods import sharding
from unireason_jax.run import configuration
from unireason_jax.run.run import Run
from unireason_jax.storage import atomic

GIB = 1 << 30
REPORTS = Path(__file__).resolve().parent / "compile_reports" / "recipes"
RECIPES: dict[str, dict[str, Any]] = {
    "bagel_finetune": {},
    "unireason_stage1": {},
    "unireason_stage2": {},
    "irg_stage1": {},
    "process_driven": {},
    "uni_edit": {},
    "own_data": {  # which follow from data and weights there
        "model.variant": "bagel_7b_mot",
        "data.budgets": {"text": 1_280, "vit": 2_048, "latent": 13_056},
    },
    "janus_finetune": {},
    "uni_edit_janus": {},
}
TITLES = {"irg_stage1": "irg_stage1, irg_stage2", "own_data": "own_data, LoRA of 7B"}
HARDWARE = {
    "v4-32": "v4:2x2x4",
    "v5e-64": "v5e:8x8",
    "v5p-16": "v5p:2x2x2",
    "v5p-128": "v5p:4x4x4",
    "v6e-16": "v6e:4x4",
    "v6e-64": "v6e:8x8",
    "v6e-256": "v6e:16x16",
    "tpu7x, 4 chips": "tpu7x:2x2x1",
    "2 x v5p-32": "v5p:2x2x4*2",
    "8 H200": "h200:8",
    "16 H100": "h100:16",
}
IN_DOUBT = 0.1  # of a device's memory
_SHORT = {
    "data.rows": "rows",
    "train.microbatches": "microbatches",
    "mesh.context": "context",
    "optim.mu_dtype": "moments",
}


@dataclasses.dataclass(frozen=True)
class Size:
    """Memory of one device that a cell takes.

    Attributes:
      overrides: of the default config, beside the preset of the mesh.
      peak: GiB.
      capacity: GiB.
      compiled: whether the compiler says so, or it is an estimate.
    """

    overrides: Mapping[str, Any]
    peak: float
    capacity: float
    compiled: bool

    @property
    def fits(self) -> bool:
        """Whether a device has as much."""
        return self.peak <= self.capacity

    @property
    def decided(self) -> bool:
        """Whether it is compiled, or estimated far enough from the memory there is."""
        return self.compiled or abs(self.peak / self.capacity - 1) > IN_DOUBT


@functools.cache
def _devices(hardware: str) -> tuple[tuple[Any, ...], int]:
    devices, slices = topology.devices(HARDWARE[hardware])
    return tuple(devices), slices


def capacity(hardware: str) -> float:
    """GiB of memory of a device."""
    return topology.chip(_devices(hardware)[0][0]).memory_gib


def run_of(recipe: str, hardware: str, overrides: Mapping[str, Any]) -> Run:
    """The run of a recipe's default config on hardware. ConfigError: they do not fit together."""
    return Run.of(_config(recipe, hardware, overrides), _devices(hardware)[0], has_records=False)


def _config(recipe: str, hardware: str, overrides: Mapping[str, Any]) -> Any:
    preset = {"mesh.preset": HARDWARE[hardware].partition(":")[0]}
    config = configuration.load(f"configs/{recipe}.py", preset | RECIPES[recipe] | overrides)
    config.mesh.slices = _devices(hardware)[1]
    return config


def needed_rows(recipe: str, hardware: str) -> dict[str, int]:
    """The rows that the mesh asks for, where those of the recipe cannot be divided over it."""
    devices, slices = _devices(hardware)
    config = _config(recipe, hardware, {})
    sizes = sharding.preset(config.mesh.preset, len(devices), slices)
    parts, rows = sizes["data"] * sizes["fsdp"], config.data.rows
    return {"data.rows": math.ceil(rows / parts) * parts} if rows % parts else {}


def reports() -> list[dict[str, Any]]:
    """All that was compiled."""
    return [json.loads(path.read_text()) for path in sorted(REPORTS.glob("*.json"))]


def compiled(recipe: str, hardware: str, known: list[dict[str, Any]]) -> list[Size]:
    """What was compiled of a cell."""
    return [
        Size(found["overrides"], found["memory"]["peak_gib"], found["memory"]["capacity_gib"], True)
        for found in known
        if (found["recipe"], found["hardware"]) == (recipe, hardware)
    ]


def estimate(run: Run, known: list[dict[str, Any]]) -> float | None:
    """GiB of a device that a run's step takes, by what is compiled of the same model.

    Activations are taken to be a + b x tokens; a line through the compiled cells, moved up until
    none is above it. None where nothing of the model is compiled.
    """
    variant, tokens = run.config.model.variant, tokens_at_once(run)
    points = [
        (found["tokens_at_once"], found["memory"]["peak_gib"] - found["kept_gib"])
        for found in known
        if found["variant"] == variant
    ]
    if not points:
        return None
    mean_x, mean_y = (sum(values) / len(points) for values in zip(*points))
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0
    slope = slope or mean_y / mean_x  # of one point: through the origin
    offset = max(y - slope * x for x, y in points)
    return remedies.kept(run) / GIB + max(0.0, offset) + slope * tokens


def tokens_at_once(run: Run) -> float:
    """Tokens that a device handles at once."""
    return remedies.rows_at_once(run) * run.budgets.total


def sizes(recipe: str, hardware: str, known: list[dict[str, Any]]) -> list[Size]:
    """The default config's size, and that of the smallest change that fits; the first may lack.

    Where the default cannot be laid out, only the change is there; where nothing is known of the
    model, nothing is.
    """
    there = capacity(hardware)
    found, rows = compiled(recipe, hardware, known), needed_rows(recipe, hardware)

    def size(overrides: Mapping[str, Any]) -> Size | None:
        for one in found:
            if one.overrides == overrides:
                return one
        peak = estimate(run_of(recipe, hardware, overrides), known)
        return None if peak is None else Size(overrides, peak, there, False)

    first = size(rows)
    if first is None or first.fits:
        return [first] if first else []
    fitting = [one for one in found if one.fits]
    if fitting:
        return [first, fitting[0]]
    run = run_of(recipe, hardware, rows)
    ways = remedies.remedies(run, first.peak * GIB, there * GIB * (1 - IN_DOUBT))
    ways += remedies.remedies(run, first.peak * GIB, there * GIB)
    changes = [rows | way["overrides"] for way in ways]
    tried = [one.overrides for one in found]  # and too large
    changes = [change for change in changes if change not in tried]
    return [first, *filter(None, map(size, changes[:1]))]


def compile_cell(recipe: str, hardware: str, overrides: Mapping[str, Any]) -> Path:
    """Compiles a cell with overrides and keeps what was found."""
    config = _config(recipe, hardware, overrides)
    run = run_of(recipe, hardware, overrides)
    where = HARDWARE[hardware]
    found = check.check(config, where, name=f"{recipe} on {hardware}", quick=True) | {
        "recipe": recipe,
        "hardware": hardware,
        "variant": config.model.variant,
        "overrides": dict(overrides),
        "kept_gib": remedies.kept(run) / GIB,
        "tokens_at_once": tokens_at_once(run),
    }
    told = "".join(f"_{_SHORT.get(key, key)}_{value}" for key, value in overrides.items())
    name = f"{recipe}_{where}{told}".replace(":", "_").replace("*", "_slices_")
    path = REPORTS / f"{name.replace('.', '_')}.json"
    REPORTS.mkdir(parents=True, exist_ok=True)
    atomic.write_text(path, json.dumps(found, indent=1) + "\n")
    return path


def cells() -> Iterator[tuple[str, str]]:
    """Every recipe on all hardware."""
    for recipe in RECIPES:
        for hardware in HARDWARE:
            yield recipe, hardware


def pending(known: list[dict[str, Any]]) -> list[tuple[float, str, str, Mapping[str, Any]]]:
    """(how far from the memory there is, recipe, hardware, overrides) of what is not compiled.

    Those nearest come first, and before them those of which nothing is known.
    """
    found = []
    for recipe, hardware in cells():
        present = sizes(recipe, hardware, known)
        if not present:
            found.append((-1.0, recipe, hardware, needed_rows(recipe, hardware)))
        for size in present:
            if not size.compiled:
                far = abs(math.log(size.peak / size.capacity))
                found.append((far, recipe, hardware, size.overrides))
    return sorted(found, key=lambda one: one[0])


def cell_text(found: list[Size]) -> str:
    """A cell of the table: the default's GiB, then the change that fits and its GiB."""
    if not found:
        return "?"
    parts = []
    for size in found:
        told = ", ".join(
            f"{_SHORT[key]} {value}" for key, value in size.overrides.items() if key in _SHORT
        )
        number = f"**{size.peak:.1f}**" if size.compiled else f"{size.peak:.0f}"
        mark = "" if size.fits else " ✗"
        mark += "" if size.decided else " ?"
        parts.append(f"{told}: {number}{mark}" if told else number + mark)
    return "; ".join(parts)


def table(known: list[dict[str, Any]]) -> str:
    """The whole table; hardware by row."""
    heads = [TITLES.get(recipe, recipe) for recipe in RECIPES]
    lines = ["| hardware, GiB of a device | " + " | ".join(heads) + " |"]
    lines.append("| --- " * (len(heads) + 1) + "|")
    for hardware in HARDWARE:
        row = [cell_text(sizes(recipe, hardware, known)) for recipe in RECIPES]
        lines.append(f"| {hardware}, {capacity(hardware):.1f} | " + " | ".join(row) + " |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Parses the command line and does it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("command", choices=("plan", "compile", "table"))
    parser.add_argument("--limit", type=int, default=1, help="cells to compile")
    parser.add_argument("--only", help="RECIPE@HARDWARE to compile")
    options = parser.parse_args()
    if options.command == "table":
        print(table(reports()), end="")
        return 0
    for _ in range(options.limit if options.command == "compile" else 1):
        left = pending(reports())
        if options.only:
            left = [cell for cell in left if options.only == f"{cell[1]}@{cell[2]}"]
        if options.command == "plan":
            for far, recipe, hardware, overrides in left:
                print(f"{far:6.2f}  {recipe:<18}{hardware:<16}{remedies.flags(overrides)}")
        elif left:
            _, recipe, hardware, overrides = left[0]
            print(f"compiled: {compile_cell(recipe, hardware, overrides)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
