"""A training step against the official one, through the split-packed layout."""

import json

import jax
import numpy as np
import pytest

from tests.models.golden import TrainStep, relative
from unireason_jax.models import functional, huggingface, official_names

# The bias of the ViT's keys has no effect on the softmax: its gradient is rounding noise.
NOISE = "vit_model.vision_model.encoder.layers."


@pytest.fixture(scope="module", params=["auto", "chunked"])
def setup(goldens, request):
    """(config, params, golden batch, timestep shift), for both attention backends."""
    config = huggingface.read_config(goldens, attention=request.param, chunk=16)
    step = TrainStep(goldens / "train_step.safetensors", config.latent.patch)
    shift = json.loads((goldens / "config.json").read_text())["timestep_shift"]
    return config, huggingface.load(goldens, config), step, shift


def test_forward(setup):
    config, params, step, shift = setup
    forward = jax.jit(lambda p: step.forward(functional.bind(config, p), shift))
    for name, found in forward(params).items():
        assert relative(found, step.tensors["out." + name]) < 1e-5, name


@pytest.mark.parametrize("detach", [False, True])
def test_gradients(setup, detach):
    config, params, step, shift = setup
    prefix = "grad_freeze_und." if detach else "grad."

    @jax.jit
    @jax.grad
    def grad(params):
        model = functional.bind(config, params)
        return step.forward(model, shift, detach_und=detach)["loss"]

    official = official_names.official_tensors(config, grad(params))
    wanted = {n.removeprefix(prefix): x for n, x in step.tensors.items() if n.startswith(prefix)}
    for name, found in official.items():
        if name.startswith(NOISE) and name.endswith("k_proj.bias"):
            assert np.abs(found).max() < 1e-6
        elif name in wanted:
            assert relative(found, wanted[name]) < 1e-4, name
        else:
            assert not np.any(found), name
    assert len(wanted) == (38 if detach else 125)
