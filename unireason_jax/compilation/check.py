"""One program compiled for one topology, and what there is to say about it."""

import contextlib
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from unireason_jax.compilation import (
    assignment,
    figures,
    hlo,
    programs,
    remedies,
    summary,
    topology,
)
from unireason_jax.compilation.reference_row import reference_row
from unireason_jax.data.rows import Budgets
from unireason_jax.models import functional
from unireason_jax.pods import batches
from unireason_jax.run import configuration
from unireason_jax.run.run import Run
from unireason_jax.storage import atomic
from unireason_jax.training import metrics


class DoesNotFit(RuntimeError):
    """The program needs more memory than a device has; the message says how much."""


_REMATERIALISED = re.compile(r"\[SPMD\] Involuntary full rematerialization[^\n]*")
_SIZE = r"([\d.]+)([KMGT])"
# The second where temporaries alone are too much: a bound, as the compiler looks no further.
_USED = (
    re.compile(rf"Used {_SIZE} of {_SIZE} hbm"),
    re.compile(rf"HLO temporaries \({_SIZE}\) exceeds available HBM \({_SIZE}\)"),
)


def check(
    config: Any, where: str, program: str = "train", *, name: str, quick: bool = False
) -> dict[str, Any]:
    """Compiles one program for a topology; what the report says, as plain values.

    Of a program for which the compiler finds no room this is its memory, without what it does.

    Args:
      config: the resolved config; `mesh.slices` is set to the topology's slices.
      where: the topology (see `topology`).
      program: one of `programs.PROGRAMS`.
      name: of the report.
      quick: stop when memory is assigned, before machine code is made (see `assignment`).

    Raises:
      TopologyError: the topology cannot be had.
      ConfigError, ValueError: config and topology do not fit together.
      DoesNotFit: the compiler found no way into the memory of a device.
    """
    unit = programs.PROGRAMS[program]
    devices, config.mesh.slices = topology.devices(where)
    budgets = programs.budgets_of(config, program)
    start, cpu = time.monotonic(), _cpu_seconds()
    run = programs.run_of(program, config, devices)
    with metrics.heartbeat(f"{name} for {where}"), _captured_log() as log:
        try:
            if quick:
                memory, text = _assigned(program, run, where, budgets)
            else:
                memory, text = _compiled(program, run, budgets)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            memory, text = _wanted(name, where, str(error)), ""
    spent = {
        "seconds": time.monotonic() - start,
        "cpu_seconds": _cpu_seconds() - cpu,
        "warnings": sorted(set(_REMATERIALISED.findall(log()))),
    }
    found = {"program": name, "topology": where, "unit": unit, "config": _changed(config)}
    found |= about(run, budgets, program) | {"quick": quick, "memory": memory}
    if text:
        found |= describe(run, budgets, text)
    if program == "train" and memory.get("margin", 0.0) < 0:
        sizes = (memory[size] * figures.GIB for size in ("peak_gib", "capacity_gib"))
        found["remedies"] = remedies.remedies(run, *sizes)
    return found | spent


def _compiled(program: str, run: Run, budgets: Budgets) -> tuple[dict[str, float], str]:
    """Memory and HLO text of a program that is compiled to its end."""
    executable = programs.lower(program, run, budgets).compile()
    chip = topology.chip(run.mesh.devices.flat[0])
    return figures.memory(executable.memory_analysis(), chip), executable.as_text()


def _assigned(program: str, run: Run, where: str, budgets: Budgets) -> tuple[dict[str, float], str]:
    """The same of a program that is compiled until memory is assigned."""
    found = assignment.assign(program, run.config, where, budgets)
    return figures.margin(found.memory, topology.chip(run.mesh.devices.flat[0])), found.text


def _cpu_seconds() -> float:
    """Of this process and of those that it has waited for."""
    return sum(os.times()[:4])


def _wanted(name: str, where: str, refused: str) -> dict[str, float]:
    """Memory as the compiler's refusal tells it.

    Raises:
      DoesNotFit: it does not tell.
    """
    told = next(filter(None, (form.search(refused) for form in _USED)), None)
    if told is None:
        first = refused.split("\n")[0].rstrip(".")
        raise DoesNotFit(f"{name} does not fit on {where}: {first}. {_GENERAL}")
    powers = {"K": -2, "M": -1, "G": 0, "T": 1}
    peak, capacity = (float(told[n]) * 1024.0 ** powers[told[n + 1]] for n in (1, 3))
    return {"peak_gib": peak, "capacity_gib": capacity, "margin": 1 - peak / capacity}


def require_fit(found: Mapping[str, Any]) -> None:
    """Ends in an error where the program's peak is above a device's memory.

    Raises:
      DoesNotFit: with both sizes, and what makes the program smaller.
    """
    memory = found["memory"]
    if memory.get("margin", 0.0) < 0:
        sizes = f"{memory['peak_gib']:.1f} GiB of {memory['capacity_gib']:.1f} GiB on a device"
        what = f"{found['program']} does not fit on {found['topology']}"
        raise DoesNotFit(f"{what}: {sizes}. {remedy(found)}")


_GENERAL = (
    "Use more chips, shorter rows (--config.data.budgets), more devices a row "
    "(--config.mesh.context, --config.mesh.tensor), or --config.model.remat=full."
)


def remedy(found: Mapping[str, Any]) -> str:
    """What makes the program of a report that does not fit smaller, in a sentence."""
    ways = [
        f"{remedies.flags(way['overrides'])} ({way['gib']:.1f} GiB)"
        for way in found.get("remedies", ())
    ]
    if ways:
        return f"By estimate it fits with {'; or with '.join(ways)}."
    if "remedies" in found:
        return f"Neither microbatches, moments nor context are enough. {_GENERAL}"
    return _GENERAL


def about(run: Run, budgets: Budgets, program: str) -> dict[str, Any]:
    """What is known of a program before it is compiled, and who compiles it."""
    device, is_one_each = run.mesh.devices.flat[0], program in ("text", "image")
    return {
        "device": device.device_kind,
        "devices": run.mesh.size,
        "mesh": " x ".join(f"{axis} {n}" for axis, n in run.mesh.shape.items() if n > 1) or "1",
        "rows": batches.row_parts(run.mesh) if is_one_each else run.config.data.rows,
        "microbatches": run.microbatches if program == "train" else 1,
        "tokens": budgets.total,
        "parameters": functional.size(run.model),
        "remat": run.model.remat,
        "compiler": topology.compiler(device),
    }


def describe(run: Run, budgets: Budgets, text: str) -> dict[str, Any]:
    """What an optimized program, as HLO text, says about a run."""
    chip, parsed = topology.chip(run.mesh.devices.flat[0]), hlo.parse(text)
    context, config = run.mesh.shape["context"], run.config
    row = reference_row(run.model, budgets.rounded(context))
    work = figures.Work(
        model=run.model,
        row=row,
        rows=config.data.rows,
        devices=run.mesh.size,
        context=context,
        und_trained=not run.loss.detach_und,
    )
    trains = "train_step" in text.split("\n", 1)[0]
    found: dict[str, Any] = {
        "collectives": figures.collectives(parsed),
        "square_buffers": parsed.square_buffers(_token_counts(budgets, work.context)),
        "loops_counted_once": len(parsed.unknown_loops),
    }
    if not topology.is_gpu(run.mesh.devices.flat[0]):
        if trains:
            found["flops"] = figures.flops(parsed, work)
        found["speed"] = figures.speed(parsed, chip, found)
    return found


def save(found: dict[str, Any], folder: Path) -> Path:
    """Writes <name>_<topology>.json and .md; returns the latter."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = re.sub(r"[^a-z0-9*]+", "_", f"{found['program']} {found['topology']}".lower())
    path = folder / f"{stem.replace('*', '_slices_')}.md"
    atomic.write_text(path.with_suffix(".json"), json.dumps(found, indent=2) + "\n")
    atomic.write_text(path, summary.markdown(found))
    return path


def _token_counts(budgets: Budgets, context: int) -> set[int]:
    """Sizes of a dimension of tokens that would make an attention matrix too large to have."""
    sizes = {budgets.total, budgets.und, budgets.latent, budgets.vit}
    return {n for size in sizes for n in (size, size // context) if n > 1024}


def _changed(config: Any) -> str:
    """What the config says about the model, in words."""
    if config.lora.rank:
        model = configuration.model_config(config)
        kept = configuration.frozen_dtype(config, model)
        return f"model {config.model.variant} in {kept}, adapters of rank {config.lora.rank}"
    return f"model {config.model.variant}, frozen {', '.join(config.optim.freeze) or 'nothing'}"


@contextlib.contextmanager
def _captured_log() -> Iterator[Any]:
    """Collects what XLA writes to standard error; yields a function that returns it."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        text: list[str] = []
        try:
            yield lambda: text[0]
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            text.append(file.read().decode(errors="replace"))
