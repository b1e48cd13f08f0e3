"""`unireason bench loader`: a config's whole pipeline, and the step that it feeds, in one run."""

import functools
import statistics
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from unireason_jax.models import functional
from unireason_jax.pods import batches
from unireason_jax.run.run import BatchSpec, Run
from unireason_jax.training import state


def run(config: ConfigDict, *, batches: int, steps: int) -> dict[str, Any]:
    """Draws batches as fast as the pipeline makes them, then trains steps as fast as they go.

    Args:
      config: records, rows, workers and model; the weights are random.
      batches: timed batches, after the first.
      steps: timed steps on one of the batches, after the first; 0 leaves the step out.

    Returns:
      Plain numbers: seconds to measure and plan, tokens, rows and records a second of wall and of
      CPU time (of this process; CPU seconds of workers are not seen), the pipeline's stats, the
      same of the step, and how many times as fast as the step the pipeline is.
    """
    made = Run.of(config)
    made.pipeline().close()  # whatever is only found out once
    start, start_cpu = time.perf_counter(), time.process_time()
    pipeline = made.pipeline()
    built, built_cpu = time.perf_counter() - start, time.process_time() - start_cpu
    try:
        batch = next(pipeline)
        start, start_cpu = time.perf_counter(), time.process_time()
        for _ in range(batches):
            next(pipeline)
        wall, cpu = time.perf_counter() - start, time.process_time() - start_cpu
        stats = pipeline.stats()
    finally:
        pipeline.close()
    workers, rows = config.data.workers, config.data.rows
    tokens = batches * rows * pipeline.budgets.total
    found = {
        "bench": "loader",
        "workers": workers,
        "records": config.data.examples,
        "build_wall_s": built,
        "build_cpu_s": built_cpu,
        "plan": pipeline.plan.report(),
        "batches": batches,
        "rows": rows,
        "row_tokens": pipeline.budgets.total,
        "wall_s": wall,
        "cpu_s": cpu,
        "tokens_per_wall_s": tokens / wall,
        "tokens_per_cpu_s": tokens / cpu if not workers else None,
        "rows_per_wall_s": batches * rows / wall,
        "stats": stats,
    }
    return found | (_step(made, pipeline.batch_spec(), batch, steps, found) if steps else {})


def _step(
    made: Run,
    spec: BatchSpec,
    local: Mapping[str, np.ndarray],
    steps: int,
    loader: Mapping[str, Any],
) -> dict[str, float | None]:
    """Tokens a second of the training step (medians), beside those of the pipeline."""
    walls, cpus = [], []
    with jax.set_mesh(made.mesh):
        init = functools.partial(functional.init, made.model, jax.random.key(made.config.seed))
        current = state.initialize(init, made.optimizer, made.shardings)
        batch = batches.global_batch(made.mesh, local)
        step = made.lower_step(spec).compile()
        for _ in range(1 + steps):
            start, start_cpu = time.perf_counter(), time.process_time()
            current, _ = jax.block_until_ready(step(current, batch))
            walls.append(time.perf_counter() - start)
            cpus.append(time.process_time() - start_cpu)
    tokens = loader["rows"] * loader["row_tokens"]
    wall, cpu = (tokens / statistics.median(seconds[1:]) for seconds in (walls, cpus))
    own = loader["tokens_per_cpu_s"]
    return {
        "steps": steps,
        "step_tokens_per_wall_s": wall,
        "step_tokens_per_cpu_s": cpu,
        "times_the_step_wall": loader["tokens_per_wall_s"] / wall,
        "times_the_step_cpu": own and own / cpu,
    }
