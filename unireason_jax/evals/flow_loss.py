"""The flow loss at fixed times: where between data and noise a model errs."""

from typing import Any

import jax
import numpy as np

from unireason_jax.evals.rates import average
from unireason_jax.evals.world.report import Section
from unireason_jax.run.configuration import loss_config
from unireason_jax.run.run import Run
from unireason_jax.training import objective

BUCKETS = 10


def flow_by_time(run: Run, params: Any, *, batches: int = 4) -> Section:
    """Velocity loss on held-out packs with all noised latents at the middle of each time bucket.

    Records, noise and packs are the same in every bucket and for every checkpoint of a config.

    Args:
      run: what the weights belong to.
      params: its weights; they are brought to one device (the world's models are small).
      batches: held-out batches.

    Returns:
      Rows "t 0.0 to 0.1" to "t 0.9 to 1.0" (0 data, 1 noise); the value is the mean over batches of
      the loss as it is trained, with a bootstrap interval over batches.
    """
    params = jax.device_put(params, jax.devices()[0])
    pipeline = run.pipeline(held_out=True, whole=True)
    packs = [next(pipeline) for _ in range(batches)]
    pipeline.close()
    loss, shift = loss_config(run.config), run.config.loss.timestep_shift

    @jax.jit
    def score(params, batch):
        sums = objective.loss_sums(params, batch, model=run.model, loss=loss)
        return sums["flow"] / objective.denominators(batch)["flow"]

    rows = []
    for number in range(BUCKETS):
        t = (number + 0.5) / BUCKETS
        values = [
            float(score(params, at_time(pack, t, shift)))
            for pack in packs
            if pack["latent_weights"].any()
        ]
        name = f"t {number / BUCKETS:.1f} to {(number + 1) / BUCKETS:.1f}"
        rows.append((name, (average(values),)))
    note = "Mean squared velocity error on held-out packs; t = 0 is data, t = 1 noise."
    return Section("flow_by_time", "Flow loss by time", ("loss",), tuple(rows), note)


def at_time(batch: dict[str, np.ndarray], t: float, shift: float) -> dict[str, np.ndarray]:
    """The batch with every noised latent at flow time `t` after the shift; clean ones stay so."""
    before = t / (shift - (shift - 1) * t)
    logits = batch["latent_logits"]
    fixed = np.where(np.isfinite(logits), np.log(before / (1 - before)), logits)
    return {**batch, "latent_logits": fixed.astype(logits.dtype)}
