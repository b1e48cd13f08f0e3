"""Adapters from and to the form of PEFT (`models.peft`)."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from unireason_jax.models import functional, peft
from unireason_jax.models.archive import type_name
from unireason_jax.models.janus.config import JanusConfig
from unireason_jax.run import configuration, first_checkpoint
from unireason_jax.run.carry_over import carry
from unireason_jax.training import adapter_base
from unireason_jax.training.checkpoint_manifest import find, read_manifest
from unireason_jax.training.weights import adapters_of, converted_weights

UNLIMITED = 1 << 62


def write(workdir: Path, target: Path, *, which: str, step: int | None) -> list[str]:
    """Writes the adapters of a run for PEFT; returns the names of the files.

    Raises:
      FileNotFoundError, ValueError: no such run or checkpoint, or it is not of adapters.
    """
    model = configuration.model_config(configuration.load_workdir(workdir))
    directory = find(workdir, step)
    if not model.lora or "base" not in read_manifest(directory):
        target_of = "janus" if isinstance(model, JanusConfig) else "bagel"
        raise ValueError(
            f"{workdir}: its run learned no adapters; --to {target_of} writes its weights."
        )
    return peft.write(target, functional.unquantized(model), adapters_of(directory, which))


def read(source: Path, workdir: Path, *, base: Path) -> list[str]:
    """Makes a workdir of an adapter of PEFT, as a run that learned it would have left.

    Args:
      source: with adapter_model.safetensors and adapter_config.json.
      workdir: where to; must not hold a checkpoint yet.
      base: a run or converted release that it stands beside.

    Returns:
      What was done, one line each.

    Raises:
      FileNotFoundError, ValueError: a file is missing or does not fit; nothing has been written.
    """
    config = configuration.load_workdir(base)
    model = configuration.model_config(config)
    made, leaves = peft.read(source, functional.bare(model))
    kept = read_manifest(find(base))
    which = "ema" if kept["leaves"].get("ema") or converted_weights(base) else "params"
    note = adapter_base.note(base, which, made.scale, workdir)
    directory = first_checkpoint.new(workdir)
    shapes = {path: (leaf.shape, type_name(leaf.dtype)) for path, leaf in leaves.items()}

    def produce(path: str) -> Iterator[np.ndarray]:
        yield leaves[path]

    files, known = first_checkpoint.write_leaves(directory, shapes, produce, UNLIMITED)
    with config.unlocked():
        config.init_from = str(base)
        config.lora = ConfigDict(
            {
                "rank": made.rank,
                "alpha": made.alpha,
                "dropout": made.dropout,
                "rslora": made.rslora,
                "targets": made.targets,
            }
        )
    configuration.save(workdir, config)
    files += carry(base, workdir)
    first_checkpoint.finish(directory, known, note)
    count = sum(leaf.size for leaf in leaves.values())
    return [f"{count:,} parameters of adapters, rank {made.rank}", *files]
