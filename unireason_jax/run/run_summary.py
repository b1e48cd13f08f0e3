"""What a run would do, said before it costs anything: parameters, memory, batch, config."""

import json
import math
from collections.abc import Mapping
from typing import Any

import jax
from ml_collections import ConfigDict

from unireason_jax.models.config import ModelConfig
from unireason_jax.pods import batches
from unireason_jax.run import configuration, hardware, memory_options
from unireason_jax.run.run import BatchSpec, Run
from unireason_jax.training.objective import LossConfig
from unireason_jax.training.optim import Optimizer, Params, flatten, frozen_paths

_GIB = 1 << 30


def parameter_table(shapes: Params, optimizer: Optimizer) -> str:
    """Parameters by module: their number, how many of them train, the largest leaf."""
    flat = flatten(shapes)
    frozen = frozen_paths(flat, optimizer.config.freeze)
    rows: dict[str, list] = {}
    for path, leaf in flat.items():
        row = rows.setdefault(path.rsplit("/", 2)[0], [0, 0, ()])
        size = math.prod(leaf.shape)
        row[0] += size
        row[1] += 0 if path in frozen else size
        row[2] = max(row[2], leaf.shape, key=math.prod)
    lines = [f"{'module':<32}{'parameters':>16}{'trainable':>16}  largest leaf"]
    for name, (size, trained, shape) in rows.items():
        moving = f"{trained:,}" if trained else "frozen"
        lines.append(f"{name:<32}{size:>16,}{moving:>16}  {shape}")
    sums = [sum(row[column] for row in rows.values()) for column in (0, 1)]
    lines.append(f"{'total':<32}{sums[0]:>16,}{sums[1]:>16,}")
    return "\n".join(lines)


def path_list(shapes: Params, optimizer: Optimizer) -> str:
    """Every parameter by path, as `optim.freeze` sees it."""
    flat = flatten(shapes)
    frozen = frozen_paths(flat, optimizer.config.freeze)
    lines = [
        f"  {path:<56}{leaf.shape!s:<24}{'frozen' if path in frozen else ''}".rstrip()
        for path, leaf in flat.items()
    ]
    return "\n".join(lines)


def batch_table(spec: Mapping[str, tuple[tuple[int, ...], Any]]) -> str:
    """Shape and dtype of every array of the global batch."""
    return "\n".join(
        f"  {name:<20}{'x'.join(map(str, shape)):<20}{dtype}"
        for name, (shape, dtype) in spec.items()
    )


def activation_bytes(
    model: ModelConfig, loss: LossConfig, *, rows: int, und: int, gen: int, text: int
) -> int:
    """Rough bytes of activations that one device keeps for the backward pass.

    Float32 layer inputs always; what a layer computes inside as well unless it is recomputed, and
    then for one layer only; scores of one chunk of queries; one chunk of logits.

    Args:
      model: the model's shape.
      loss: the loss's options.
      rows: rows of a microbatch on the device.
      und, gen, text: tokens of a row in the und block, the gen block and the text stream.
    """
    llm, tokens = model.llm, und + gen
    item = 2 if model.dtype == "bfloat16" else 4
    inside = item * (3 * llm.mlp + llm.head_dim * (2 * llm.heads + 2 * llm.kv_heads))
    inside += 4 * 4 * llm.width
    layers = llm.layers if model.remat == "none" else 1
    kept = tokens * (llm.layers * 4 * llm.width + layers * inside)
    scores = 4 * llm.heads * min(model.chunk, tokens) * tokens
    logits = 2 * 4 * min(loss.ce_chunk, text) * llm.vocab
    return rows * (kept + scores + logits)


def memory_table(run: Run, activations: int) -> str:
    """GiB on one device: the state exactly, gradients exactly, activations as an estimate."""
    rows = memory_options.sizes(run) | {"activations (estimate)": activations}
    rows["total"] = sum(rows.values())
    return "\n".join(f"  {name:<28}{size / _GIB:>10.3f} GiB" for name, size in rows.items())


def config_text(config: ConfigDict) -> str:
    """The resolved config as JSON."""
    return json.dumps(configuration.plain(config), indent=2)


def run_lines(run: Run) -> str:
    """Devices, mesh, how rows are divided, and the dtype of the matmuls."""
    mesh, device = run.mesh, run.mesh.devices.flat[0]
    sizes = ", ".join(f"{axis}={size}" for axis, size in mesh.shape.items())
    return (
        f"{mesh.size} x {device.device_kind} ({device.platform}), {jax.process_count()} process(es)"
        f" | mesh {sizes} | {run.config.data.rows} rows in {run.microbatches} microbatch(es) | "
        f"jax {jax.__version__}\n{hardware.dtype_sentence(run.model.dtype)}"
    )


def describe(run: Run, batch: BatchSpec) -> str:
    """Config, parameters, batch and memory of a run."""
    rows = run.config.data.rows // (batches.row_parts(run.mesh) * run.microbatches)
    images = "code_weights" if "code_weights" in batch else "latent_weights"
    text, vit, gen = (batch[name][0][1] for name in ("text_ids", "vit_images", images))
    tokens = {"und": text + vit, "gen": gen, "text": text}
    activations = activation_bytes(run.model, run.loss, rows=rows, **tokens)
    return "\n".join(
        (
            config_text(run.config),
            parameter_table(run.abstract.params, run.optimizer),
            path_list(run.abstract.params, run.optimizer),
            run_lines(run),
            batch_table(batch),
            "memory of one device:",
            memory_table(run, activations),
            "of these, without activations, by choice:",
            memory_options.table(run),
        )
    )
