"""Decoding through a cache equals decoding at once."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unireason_jax.models import functional
from unireason_jax.models.config import variant
from unireason_jax.rules.visibility import PADDING, Visibility, build

LENGTHS = [5, 6, 4, 6, 3]
MODES = ["causal", "full", "causal", "noise", "causal"]


@pytest.mark.parametrize("change", [{}, {"attention": "chunked", "chunk": 4}])
@pytest.mark.parametrize("llm", [{}, {"qk_norm": False, "kv_heads": 1}])
def test_prefix_then_suffix_equals_the_whole_row(change, llm):
    config = variant("nano", llm=llm, **change)
    params = jax.jit(functional.init, static_argnums=0)(config, jax.random.key(0))
    model = functional.bind(config, params)
    rng, total = np.random.default_rng(0), sum(LENGTHS)
    seen = build(LENGTHS, MODES)
    latent = np.zeros(total, bool)
    latent[6:10] = latent[16:20] = True
    tokens = jnp.asarray(rng.normal(size=(2, total, config.llm.width)), jnp.float32)
    positions = np.repeat(np.arange(len(LENGTHS)), LENGTHS)

    def decode(part, past=None):
        und, gen = part[~latent[part]], part[latent[part]]
        order = np.concatenate([und, gen])
        ids = Visibility(*(jnp.asarray(x[order])[None].repeat(2, 0) for x in seen))
        at = jnp.asarray(positions[order], jnp.int32)[None].repeat(2, 0)
        u, g, kv = jax.jit(model.decode)(tokens[:, und], tokens[:, gen], at, ids, past)
        states = jnp.concatenate([u, g], axis=1)[:, np.argsort(order)]
        return states, (*kv, ids.key)

    whole, _ = decode(np.arange(total))
    first, past = decode(np.arange(15))
    room = 7
    k, v = (x.swapaxes(2, 3) for x in past[:2])  # a cache has its heads first
    k, v = (jnp.pad(x, [(0, 0), (0, 0), (0, 0), (0, room), (0, 0)]) for x in (k, v))
    past = (
        k + 0.0,
        v.at[:, :, :, 15:].set(9.0),
        jnp.pad(past[2], [(0, 0), (0, room)], constant_values=PADDING),
    )
    second, _ = decode(np.arange(15, total), past)
    np.testing.assert_allclose(first, whole[:, :15], atol=2e-5)
    np.testing.assert_allclose(second, whole[:, 15:], atol=2e-5)


def test_a_cache_that_nobody_sees_changes_nothing():
    config = variant("nano")
    params = jax.jit(functional.init, static_argnums=0)(config, jax.random.key(0))
    model = functional.bind(config, params)
    tokens = jax.random.normal(jax.random.key(1), (1, 6, 32))
    ids = Visibility(*(jnp.asarray(x)[None] for x in build([6], ["causal"])))
    at, none = jnp.arange(6, dtype=jnp.int32)[None], jnp.zeros((1, 0, 32))
    llm = config.llm
    shape = (llm.layers, 1, llm.kv_heads, 9, llm.head_dim)
    k = jax.random.normal(jax.random.key(2), shape)
    past = k, k, jnp.full((1, 9), PADDING, jnp.int32)
    wanted, _, kv = jax.jit(model.decode)(tokens, none, at, ids)
    found, *_ = jax.jit(model.decode)(tokens, none, at, ids, past)
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert kv[0].shape == (llm.layers, 1, 6, llm.kv_heads, llm.head_dim)
    assert model.decode(tokens, none, at, ids, keep_kv=False)[2] is None


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_sampler_reads_the_same_model(dtype):
    """Layers apart and matrices cast beforehand, with a cache and both experts."""
    config = variant("nano", unroll=2, dtype=dtype)
    params = jax.jit(functional.init, static_argnums=0)(config, jax.random.key(0))
    lean, own = functional.for_sampling(config, params)
    assert lean.apart and len(own["stack"]["blocks"]) == config.llm.layers == 2
    assert functional.count(own) == functional.count(params)
    assert (
        own["head"]["kernel"].dtype == dtype
        and own["stack"]["und_norm"]["scale"].dtype == "float32"
    )
    tokens = jax.random.normal(jax.random.key(1), (1, 6, 32))
    ids = Visibility(*(jnp.asarray(x)[None] for x in build([6], ["full"])))
    at, llm = jnp.zeros((1, 6), jnp.int32), config.llm
    k = jax.random.normal(jax.random.key(2), (llm.layers, 1, llm.kv_heads, 3, llm.head_dim))
    past = k.astype(dtype), k.astype(dtype), jnp.zeros((1, 3), jnp.int32)

    def decode(config, params):
        model = functional.bind(config, params)
        return jax.jit(model.decode)(tokens[:, :2], tokens[:, 2:], at, ids, past)

    close = functools.partial(np.testing.assert_allclose, atol=1e-6 if dtype == "float32" else 2e-2)
    jax.tree.map(close, decode(lean, own), decode(config, params))
    assert functional.for_sampling(variant("nano"), params)[0] == variant("nano")
