"""Three optimiser steps of the official training loop, with its own batch and noise."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.golden import TrainStep, read
from unireason_jax.models import functional, huggingface, official_names
from unireason_jax.rules import flow
from unireason_jax.training import objective, optim

pytestmark = pytest.mark.usefixtures("quick_compile")
FILES = ("adamw_bagel_defaults", "adamw_bagel_nowarmup", "adamw_unireason_sft_short")


def packed(step, reweighted):
    """The golden training step as one packed row in the form the pipeline yields."""
    t = step.tensors
    text = np.searchsorted(t["in.packed_text_indexes"], t["in.ce_loss_indexes"])
    labels = np.full((1, step.text), -1, np.int32)
    labels[0, text] = t["in.packed_label_ids"]
    weights = np.zeros(labels.shape, np.float32)
    weights[0, text] = t["in.ce_loss_weights"] if reweighted else 1.0
    noised = np.isin(t["in.packed_vae_token_indexes"], t["in.mse_loss_indexes"])
    seen = {f"vis_{name}": getattr(step.visibility, name) for name in step.visibility._fields}
    return {
        "text_ids": step.int32("in.packed_text_ids"),
        "text_labels": jnp.asarray(labels),
        "text_weights": jnp.asarray(weights),
        "vit_patches": jnp.asarray(t["in.packed_vit_tokens"])[None],
        "vit_positions": step.int32("in.packed_vit_position_ids"),
        "vit_images": jnp.asarray(step.images, jnp.int32)[None],
        "latents": jnp.asarray(step.x0)[None],
        "latent_positions": step.int32("in.packed_latent_position_ids"),
        "latent_weights": jnp.asarray(noised, jnp.float32)[None],
        "latent_logits": jnp.asarray(t["in.packed_timesteps"])[None],
        "noise_seeds": jnp.zeros((1, step.latent), jnp.uint32),
        "positions": step.positions,
        **seen,
    }


@pytest.fixture(scope="module")
def golden(goldens, quick_compile):
    """(config, parameters, golden step, compiled metrics and gradients)."""
    config = huggingface.read_config(goldens)
    step = TrainStep(goldens / "train_step.safetensors", config.latent.patch)
    shift = json.loads((goldens / "config.json").read_text())["timestep_shift"]
    noise = jnp.asarray(step.tensors["in.noise"])[None]

    @jax.jit
    def grads(params, batch, ce_weight):
        loss = objective.LossConfig(ce_weight=ce_weight, timestep_shift=shift, ce_chunk=8)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(flow, "token_noise", lambda *_: noise)
            return objective.loss_and_grads(params, {}, batch, model=config, loss=loss)

    return config, huggingface.load(goldens, config), step, grads


@pytest.mark.parametrize("file", FILES)
def test_three_steps(goldens, golden, file):
    config, params, step, grads = golden
    wanted, meta = read(goldens / f"{file}.safetensors")
    recipe = meta["variant"]
    optimizer = optim.make_optimizer(
        optim.OptimConfig(
            lr=recipe["lr"],
            schedule=recipe["sched"],
            warmup_steps=recipe["warmup"],
            total_steps=recipe["total"],
            min_lr=recipe["min_lr"],
            b1=recipe["beta1"],
            b2=recipe["beta2"],
            eps=recipe["eps"],
            clip_norm=recipe["clip"],
            ema=recipe["ema"],
        ),
        functional.logical_axes(config),
    )
    assert recipe["mse_weight"] == 1.0
    update = jax.jit(optimizer.update)
    batch = packed(step, recipe["ce_loss_reweighting"])
    moved, opt_state, ema = params, optimizer.init(params), optimizer.init_ema(params)
    for n in range(3):
        metrics, found = grads(moved, batch, recipe["ce_weight"])
        moved, opt_state, ema, more = update(
            trainable=moved, opt_state=opt_state, ema=ema, grads=found, loss=metrics["loss"]
        )
        metrics |= more
        for ours, theirs in (
            ("loss", "loss"), ("loss/ce", "ce"), ("loss/flow", "mse"), ("grad_norm", "grad_norm")
        ):  # fmt: skip
            np.testing.assert_allclose(metrics[ours], wanted[f"out.{theirs}"][n], rtol=2e-5)
        np.testing.assert_allclose(metrics["lr"], wanted["out.lr"][n], rtol=1e-4)
    start = official_names.official_tensors(config, params)
    rate = float(np.sum(wanted["out.lr"]))
    for tree, kind in ((moved, "param"), (ema, "ema")):
        found, compared = official_names.official_tensors(config, tree), 0
        scale = rate * (1 if kind == "param" else 1 - recipe["ema"])
        for name in found:
            golden_value = wanted.get(f"out.{kind}_step3.{name}")
            if golden_value is None:
                continue
            compared += 1
            assert np.abs(golden_value - start[name]).max() > 0
            gap = np.abs(found[name] - golden_value)
            # eps is so small that an element whose gradient is rounding noise moves by +-lr.
            rounding = 3e-8 * max(np.abs(golden_value).max(), 1)
            assert gap.max() <= 2 * scale + rounding, (kind, name)
            assert np.mean(gap > 0.01 * scale + rounding) < 0.01, (kind, name)
        assert compared == 13
