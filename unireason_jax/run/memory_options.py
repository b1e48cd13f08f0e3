"""What a device would hold of a run if its weights, or its optimizer, were kept in another way."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from unireason_jax.run import configuration
from unireason_jax.run.run import Run
from unireason_jax.training.state import bytes_per_device

_GIB = 1 << 30
FROZEN = [{"model.frozen_dtype": kind} for kind in ("float32", "bfloat16", "int8", "nf4")]
RULES = [
    {"optim.name": "adamw", "optim.mu_dtype": "float32", "optim.nu_dtype": "float32"},
    {"optim.name": "adamw", "optim.mu_dtype": "bfloat16", "optim.nu_dtype": "bfloat16"},
    {"optim.name": "adamw", "optim.mu_dtype": "int8", "optim.nu_dtype": "int8"},
    {"optim.name": "adafactor", "optim.mu_dtype": "float32", "optim.nu_dtype": "float32"},
    {"optim.name": "muon", "optim.mu_dtype": "float32", "optim.nu_dtype": "float32"},
]


def sizes(run: Run) -> dict[str, int]:
    """Bytes on one device of what a run keeps from step to step, and of its gradients."""
    abstract, places = run.abstract, run.shardings
    trainable = [run.optimizer.split(tree.params)[0] for tree in (abstract, places)]
    return {
        "parameters": bytes_per_device(abstract.params, places.params),
        "optimizer state": bytes_per_device(abstract.opt_state, places.opt_state),
        "moving average": bytes_per_device(abstract.ema, places.ema),
        "gradients": bytes_per_device(*trainable),
    }


def changed(run: Run, overrides: Mapping[str, Any]) -> Run:
    """The run with keys of its config in another way."""
    config = run.config.copy_and_resolve_references()
    configuration.apply(config, overrides)
    platform = run.devices[0].platform if run.devices else None
    model = configuration.model_config(config, platform)
    return dataclasses.replace(run, config=config, model=model)


def table(run: Run) -> str:
    """GiB on one device, activations left out, for every way to keep frozen weights and moments."""
    ways = [*(FROZEN if run.model.lora or run.config.optim.freeze else []), *RULES]
    lines = [f"  {'kept as':<42}{'weights':>9}{'moments':>9}{'average':>9}{'gradients':>11}"]
    for way in ways:
        try:
            found = sizes(changed(run, way))
        except ValueError:  # of few bits, where no kernel of the layers is frozen
            continue
        numbers = [size / _GIB for size in found.values()]
        cells = "".join(f"{n:>{width}.2f}" for n, width in zip(numbers, (9, 9, 9, 11)))
        lines.append(f"  {_named(way):<42}{cells}  = {sum(numbers):.2f} GiB")
    return "\n".join(lines)


def _named(way: Mapping[str, str]) -> str:
    """A choice in words."""
    if "optim.name" not in way:
        return f"model.frozen_dtype={way['model.frozen_dtype']}"
    kept = "" if way["optim.name"] != "adamw" else f", moments {way['optim.mu_dtype']}"
    return f"optim.name={way['optim.name']}{kept}"
