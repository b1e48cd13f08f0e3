"""What a training step of a recipe costs: compiled operations, and the memory of its state.

XLA counts the body of a loop once. So the step is compiled without loops, its layers unrolled and
its attention dense, which suits models of the world's size; `unireason compile_check` is for large
ones.
"""

import math
import time
from typing import Any

import jax
from etils import epath

from unireason_jax.run import configuration
from unireason_jax.run.run import Run
from unireason_jax.training.optim import flatten


def run(workdir: epath.PathLike) -> dict[str, Any]:
    """Compiles the step of a run's config and counts.

    Args:
      workdir: directory of a run; only its config is read.

    Returns:
      Tokens of a batch, parameters, trainable parameters, bytes of moments and average,
      floating-point operations of a compiled step and bytes of its temporaries.

    Raises:
      FileNotFoundError: the directory is not that of a training run.
    """
    config = configuration.load_workdir(workdir)
    layers = configuration.model_config(config).llm.layers
    config.model.update({"unroll": layers, "attention": "dense"})
    made = Run.of(config)
    pipeline = made.pipeline()
    pipeline.close()
    spec = pipeline.batch_spec()
    started = time.process_time()
    with jax.set_mesh(made.mesh):
        compiled = made.lower_step(spec).compile()
    seconds = time.process_time() - started
    flops = compiled.cost_analysis()["flops"]
    tokens = math.prod(spec["positions"][0])
    return {
        "bench": "stages",
        "run": str(workdir),
        "tokens": tokens,
        "parameters": _size(made.abstract.params),
        "trainable": _size(made.optimizer.split(made.abstract.params)[0]),
        "optimizer_bytes": _bytes(made.abstract.opt_state.inner),
        "average_bytes": _bytes(made.abstract.ema),
        "step_flops": flops,
        "flops_per_token": round(flops / tokens),
        "temporary_bytes": compiled.memory_analysis().temp_size_in_bytes,
        "compile_cpu_s": round(seconds, 2),
    }


def ratios(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """What the first costs as a share of the second."""
    kinds = ("tokens", "trainable", "optimizer_bytes", "average_bytes", "step_flops")
    kinds += ("flops_per_token", "temporary_bytes")
    shares = {kind: round(first[kind] / second[kind], 4) for kind in kinds}
    return {"bench": "stages", "run": f"{first['run']} / {second['run']}", **shares}


def _size(tree: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in flatten(tree).values())


def _bytes(tree: Any) -> int:
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
