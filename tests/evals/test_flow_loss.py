"""The flow loss by time: times are what they say, and a model that predicts nothing errs evenly."""

import jax
import numpy as np
import pytest

from unireason_jax.evals.flow_loss import BUCKETS, at_time, flow_by_time
from unireason_jax.models import functional
from unireason_jax.rules import flow
from unireason_jax.run import configuration
from unireason_jax.run.run import Run


@pytest.mark.parametrize("shift", [1.0, 4.0])
def test_noised_latents_get_the_time_and_clean_ones_stay_clean(shift):
    batch = {"latent_logits": np.array([[0.3, -np.inf, -2.0]], np.float32), "other": 1}
    changed = at_time(batch, 0.35, shift)
    times = np.asarray(flow.timesteps(changed["latent_logits"], shift))
    np.testing.assert_allclose(times, [[0.35, 0.0, 0.35]], atol=1e-6)
    assert changed["other"] == 1 and batch["latent_logits"][0, 0] == np.float32(0.3)


def test_zero_velocity_has_the_same_loss_at_every_time(quick_compile):
    made = Run.of(configuration.load("configs/tiny.py"))
    params = functional.init(made.model, jax.random.key(0))
    params["latent_out"] = jax.tree.map(np.zeros_like, params["latent_out"])
    section = flow_by_time(made, params, batches=2)
    losses = [rates[0].value for _, rates in section.rows]
    assert len(losses) == BUCKETS and section.rows[-1][0] == "t 0.9 to 1.0"
    np.testing.assert_allclose(losses, losses[0], rtol=1e-5)
    assert 1.0 < losses[0] < 4.0  # the variance of noise plus that of whitened latents
