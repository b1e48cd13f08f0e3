"""Adapters as what they stand for: gradients, merging, few bits, and none at all."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.batches import packed_batch
from unireason_jax.models import functional, lora, quantized
from unireason_jax.models.config import variant
from unireason_jax.models.sizes import LoraConfig, QuantizedConfig
from unireason_jax.training import objective
from unireason_jax.training.objective import LossConfig
from unireason_jax.training.optim import flatten, unflatten

pytestmark = pytest.mark.usefixtures("quick_compile")
NANO = variant("nano", vit=None)
EVERYWHERE = LoraConfig(3, alpha=2.0, targets=("/kernel$",))
ADAPTED = functional.with_adapters(NANO, EVERYWHERE)
BATCH = packed_batch(NANO, vit=0)


@pytest.fixture(scope="module")
def params():
    """Of the adapted model, by path; every leaf random, so that nothing hides behind a zero."""
    drawn = flatten(jax.jit(lambda key: functional.init(ADAPTED, key))(jax.random.key(0)))
    keys = jax.random.split(jax.random.key(1), len(drawn))
    return {
        path: leaf + 0.02 * jax.random.normal(key, leaf.shape)
        for key, (path, leaf) in zip(keys, drawn.items())
    }


@functools.partial(jax.jit, static_argnames="model")
def gradients(trainable, frozen, model):
    fixed = {"model": model, "loss": LossConfig()}
    metrics, grads = objective.loss_and_grads(
        unflatten(trainable), unflatten(frozen), BATCH, **fixed
    )
    return metrics["loss"], flatten(grads)


def test_adapters_learn_what_full_training_would_projected_and_merge_exactly(params):
    own = lora.own(params)
    base = {path: leaf for path, leaf in params.items() if not lora.is_part(path)}
    merged = dict(base)
    for path in functional.adapted_kernels(ADAPTED):
        parts = [own[part] for part in lora.parts_of(path)]
        merged[path] = lora.merged(base[path], *parts, EVERYWHERE.scale)
    assert len(own) == 2 * sum(path.endswith("/kernel") for path in base)
    loss, grads = gradients(own, base, ADAPTED)
    whole, full = gradients(merged, {}, NANO)
    assert abs(float(loss - whole)) < 1e-5
    for path in functional.adapted_kernels(ADAPTED):
        (name_a, name_b), kernel = lora.parts_of(path), full[path]
        lead = own[name_a].ndim + own[name_b].ndim - kernel.ndim - 2
        pull = jax.vjp(lambda a, b: lora._multiplied(a, b, lead), own[name_a], own[name_b])[1]  # noqa: B023
        for name, wanted in zip((name_a, name_b), pull(EVERYWHERE.scale * kernel)):
            size = float(jnp.linalg.norm(wanted))
            assert float(jnp.linalg.norm(grads[name] - wanted)) <= 2e-5 * size + 1e-9, name


def test_fresh_adapters_change_no_bit(params):
    base = {path: leaf for path, leaf in params.items() if not lora.is_part(path)}
    fresh = jax.jit(functools.partial(functional.init_adapters, ADAPTED))(jax.random.key(0))
    assert set(fresh) == set(lora.own(params))
    with_fresh = jax.jit(functools.partial(outputs, model=ADAPTED))(base | fresh)
    for one, two in zip(with_fresh, jax.jit(functools.partial(outputs, model=NANO))(base)):
        np.testing.assert_array_equal(one, two)


def outputs(flat, model):
    """Logits and velocities of the batch."""
    bagel = functional.bind(model, unflatten(flat))
    und = bagel.embed_text(BATCH["text_ids"])
    gen = bagel.embed_latents(BATCH["latents"], jnp.full((4, 8), 0.5), BATCH["latent_positions"])
    seen = objective.Visibility(*(BATCH[f"vis_{name}"] for name in ("key", "lo", "hi", "own")))
    und, gen, _ = bagel.decode(und, gen, BATCH["positions"], seen, keep_kv=False)
    return bagel.logits(und), bagel.velocity(gen)


@pytest.mark.parametrize(("kind", "bound"), [("int8", 0.012), ("nf4", 0.16)])
def test_few_bits_stay_near(params, kind, bound):
    model = dataclasses.replace(ADAPTED, quantized=QuantizedConfig(kind))
    packed = functional.encoded(model, params)
    assert not any(path.startswith("stack/blocks") and path.endswith("kernel") for path in packed)
    whole = jax.jit(functools.partial(outputs, model=ADAPTED))(params)
    near = jax.jit(functools.partial(outputs, model=model))(packed)
    for one, two in zip(near, whole):
        error = float(jnp.linalg.norm(one - two) / jnp.linalg.norm(two))
        assert 1e-4 < error < bound


@pytest.mark.parametrize("kind", ["int8", "nf4"])
@pytest.mark.parametrize("inputs", [1, 2])
def test_codes_stand_for_the_nearest_level(kind, inputs):
    kernel = jax.random.normal(jax.random.key(0), (3, 4, 6, 5))  # [layers, *inputs, *outputs]
    kernel = kernel.at[0, :, :, 0].set(0.0)
    parts = quantized.encode(kernel, kind=kind, lead=1, inputs=inputs)
    found = quantized.decode(**parts, kind=kind, lead=1, inputs=inputs)
    again = quantized.encode(found, kind=kind, lead=1, inputs=inputs)
    np.testing.assert_array_equal(again["codes"], parts["codes"])
    assert not np.any(found[0, :, :, 0])
    over = tuple(range(1, 1 + inputs)) if kind == "int8" else (inputs,)
    largest = jnp.max(jnp.abs(kernel), axis=over, keepdims=True)
    step = 1 / 127 if kind == "int8" else max(np.diff(quantized.LEVELS))
    assert float(jnp.max(jnp.abs(found - kernel) / jnp.where(largest > 0, largest, 1))) <= step / 2


def test_a_target_that_names_no_kernel_is_refused():
    wrong = functional.with_adapters(NANO, LoraConfig(2, targets=("q_proj",)))
    with pytest.raises(ValueError, match=r"lora.targets: 'q_proj' matches no kernel; paths look"):
        functional.abstract(wrong)


def test_dropout_is_drawn_anew_by_update_and_layer(params):
    def hidden(key):
        model = functional.with_adapters(NANO, dataclasses.replace(EVERYWHERE, dropout=0.5))
        bagel = functional.bind(model, unflatten(params), key)
        return bagel.stack.blocks.und.query.lora.key, bagel.velocity(jnp.ones((1, 2, 32)))

    keys, one = hidden(jax.random.key(0))
    assert keys.shape == (2,) and len(np.unique(jax.random.key_data(keys), axis=0)) == 2
    assert np.any(one != hidden(jax.random.key(1))[1])
    np.testing.assert_array_equal(one, hidden(jax.random.key(0))[1])
