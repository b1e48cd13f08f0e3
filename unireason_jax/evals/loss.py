"""The training loss on held-out packs: no dropout, the same batches every time."""

import functools
from collections.abc import Iterable, Mapping

import jax
import numpy as np
from jax.sharding import Mesh

from unireason_jax.models.config import BagelConfig
from unireason_jax.pods import batches
from unireason_jax.run.run import Run
from unireason_jax.training import objective
from unireason_jax.training.objective import LossConfig
from unireason_jax.training.optim import Params


def held_out(run: Run) -> "LossEvaluator | None":
    """The evaluator of a run's loss on its held-out packs, or None where it is switched off."""
    if not run.config.eval.every:
        return None
    pipeline = run.pipeline(held_out=True)
    packs = [next(pipeline) for _ in range(run.config.eval.batches)]
    pipeline.close()
    return LossEvaluator(packs, mesh=run.mesh, model=run.model, loss=run.loss)


class LossEvaluator:
    """Joint loss over a fixed list of held-out batches.

    Noise and times of a record are keyed by the record, so two evaluations differ by the weights
    alone.

    Args:
      batches: process-local packed batches (numpy), kept in host memory.
      mesh: the mesh the weights live on.
      model: the model's shape.
      loss: the loss's options.
    """

    def __init__(
        self,
        batches: Iterable[Mapping[str, np.ndarray]],
        *,
        mesh: Mesh,
        model: BagelConfig,
        loss: LossConfig,
    ):
        self._batches, self._mesh, self._loss = list(batches), mesh, loss
        if not self._batches:
            raise ValueError("eval.batches is 0; set it to 1 or more, or eval.every=0.")
        sums = functools.partial(objective.loss_sums, model=model, loss=loss)
        self._sums = jax.jit(lambda p, b: (sums(p, b), objective.denominators(b)))

    def __call__(self, params: Params) -> dict[str, float]:
        """Scores of the weights: {"eval/loss", "eval/loss/ce", "eval/loss/flow", ...}."""
        parts = [
            self._sums(params, batches.global_batch(self._mesh, batch)) for batch in self._batches
        ]
        total = jax.tree.map(lambda *x: np.sum(x, dtype=np.float64), *jax.device_get(parts))
        scores = jax.device_get(objective.combine(*total, self._loss)[1])
        return {f"eval/{name}": float(value) for name, value in scores.items()}
