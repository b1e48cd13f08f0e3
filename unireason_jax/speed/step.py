"""`unireason bench step`: the train step of a recipe on the devices here, without data.

Rows are full (`compilation.reference_row`) and weights random, so that speed is that of the program
alone. Beside the data sheet's FLOP/s stands what a large bfloat16 matmul reaches on the same
device: no step can do better.
"""

import statistics
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unireason_jax.compilation.reference_row import reference_row
from unireason_jax.data.rows import Budgets
from unireason_jax.models import functional
from unireason_jax.pods import batches
from unireason_jax.run import configuration
from unireason_jax.run.run import Run
from unireason_jax.training import metrics
from unireason_jax.training.state import initialize


def run(
    path: str,
    overrides: Mapping[str, Any],
    *,
    tokens: int,
    steps: int,
    matmul: int,
    profile: str | None,
) -> dict[str, Any]:
    """Times the step.

    Args:
      path: config file.
      overrides: of its leaves, by dotted key.
      tokens: of a row, shared out between the streams as in the config's budgets.
      steps: timed steps; two more come before.
      matmul: rows and columns of the matrices that the ceiling is measured with.
      profile: folder for a recording of one more step by the JAX profiler, or None.

    Returns:
      Plain numbers. FLOPs are those the model needs: padding, masked pairs and recomputation are
      not counted.

    Raises:
      ConfigError, ValueError: config, devices and tokens do not fit together.
    """
    if steps < 1:
        raise ValueError(f"steps must be >= 1, not {steps}")
    config = configuration.load(path, overrides)
    made = Run.of(config, has_records=False)
    model, rows = made.model, config.data.rows
    row = reference_row(model, budgets_of(config, tokens))
    counts = {k: n * rows for k, n in metrics.batch_counts(row).items()}
    spec = {k: ((rows, *v.shape[1:]), v.dtype) for k, v in row.items()}
    key = jax.random.key(0)
    with jax.set_mesh(made.mesh):
        batch = batches.global_batch(
            made.mesh, {k: np.repeat(v, rows // jax.process_count(), 0) for k, v in row.items()}
        )
        state = initialize(lambda: _drawn(made, key), made.optimizer, made.shardings)
        start = time.perf_counter()
        compiled = made.lower_step(spec).compile()
        compile_s, walls = time.perf_counter() - start, []
        for _ in range(2 + steps):
            start = time.perf_counter()
            state, measured = jax.block_until_ready(compiled(state, batch))
            walls.append(time.perf_counter() - start)
        if profile:
            with jax.profiler.trace(profile):
                state, measured = jax.block_until_ready(compiled(state, batch))
    seconds, devices = statistics.median(walls[2:]), made.mesh.size
    needed = metrics.train_flops(model, counts, und_backward=0.0 if made.loss.detach_und else 2.0)
    reached = needed / seconds / devices
    ceiling = metrics.measured_flops(matmul, jnp.bfloat16, calls=10)
    sheet = metrics.peak_flops()
    return {
        "bench": "step",
        "config": path,
        "device": jax.devices()[0].device_kind,
        "devices": devices,
        "parameters": functional.count(made.abstract.params),
        "rows": rows,
        "row_tokens": row["positions"].shape[1],
        "steps": steps,
        "wall_min_s": min(walls[2:]),
        "wall_median_s": seconds,
        "compile_s": compile_s,
        "tokens_per_s": rows * row["positions"].shape[1] / seconds,
        "model_flops_per_s": reached,
        "matmul_flops_per_s": ceiling,
        "of_matmul_ceiling": reached / ceiling,
        "mfu": reached / sheet if sheet else None,
        "loss": float(measured["loss"]),
    } | metrics.memory()


def _drawn(made: Run, key: jax.Array) -> dict[str, Any]:
    """Random parameters in the dtypes that a run keeps them in."""
    drawn = functional.init(made.model, key)
    return jax.tree.map(lambda x, like: x.astype(like.dtype), drawn, made.abstract.params)


def budgets_of(config: Any, tokens: int) -> Budgets:
    """The config's budgets scaled to a row of `tokens`; those over 128 in whole tiles of 128.

    Raises:
      ValueError: the config has none, or the row is too short to share out.
    """
    whole = sum(config.data.budgets.values())
    if not whole:
        raise ValueError("config.data.budgets: set text, vit and latent, to share a row out.")
    text, vit = (tokens * config.data.budgets[k] // whole for k in ("text", "vit"))
    text, vit = (n - n % 128 if n > 128 else n for n in (text, vit))
    if text < 32:
        raise ValueError(f"--tokens-per-row {tokens}: only {text} are text; give more.")
    return Budgets(text, vit, tokens - text - vit)
