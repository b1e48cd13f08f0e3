"""What a cache costs while a text is written, and what fewer bits change."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.inference import toy
from unireason_jax.inference import cache as caches
from unireason_jax.inference import sampler, writing
from unireason_jax.inference.cache import KV_DTYPES, Markers
from unireason_jax.inference.engine import Engine
from unireason_jax.inference.reasoner import Reasoner
from unireason_jax.models import functional
from unireason_jax.models.config import variant


def test_no_token_copies_the_cache():
    config = variant("nano", vit=None, unroll=2)
    config, params = functional.for_sampling(config, functional.init(config, jax.random.key(0)))
    cache, rows = caches.empty(config, 3, 40), 3
    vocab = config.llm.vocab
    numbers = jnp.ones(rows, bool), jnp.zeros(rows, jnp.uint32), jnp.int32(8), jnp.float32(0)
    program = writing.write_text.lower(
        params,
        cache,
        *numbers,
        jnp.float32(1),
        config=config,
        markers=Markers(vocab - 4, vocab - 3, vocab - 2, vocab - 1),
        vocab=vocab,
        max_tokens=8,
        greedy=True,
    )
    shape = ",".join(map(str, cache.k.shape))
    found = program.compile().as_text()
    assert len(re.findall(rf"f32\[{shape}\]\S* scatter\(", found)) == 2
    assert not re.findall(rf"f32\[{shape}\]\S* (?:copy|transpose)\(", found)


PROMPT = np.random.default_rng(0).integers(4, 60, (2, 16)).astype(np.int32)


def seen(dtype, tokens=16):
    """Velocities of a noised image after a prompt whose keys are kept in `dtype`."""
    config, params = toy.config(), toy.params()
    engine = Engine(config, params, toy.spec(), kv_dtype=dtype)
    cache, counts = engine.empty(2, 32), jnp.full(2, tokens)
    cache = sampler.prefill_text(params, cache, jnp.asarray(PROMPT), counts, config=config)
    assert cache.k.dtype == cache.v.dtype == (dtype or "float32")

    @jax.jit
    def velocity(params, cache, x_t):
        model, places = functional.bind(config, params), jnp.tile(jnp.arange(4), (2, 1))
        latent = x_t, jnp.full(2, 0.5), places, jnp.full(2, 4)
        return caches.read_noised(model, cache, *latent, engine.markers)

    x_t = np.random.default_rng(1).normal(size=(2, 4, 24)).astype(np.float32)
    return np.asarray(velocity(params, cache, x_t))


@pytest.mark.usefixtures("quick_compile")
def test_keys_of_fewer_bits_change_little():
    exact = seen(None)
    whole = np.linalg.norm(seen(None, tokens=0) - exact)
    for dtype, most in zip(KV_DTYPES, (0.01, 0.1), strict=True):
        change = np.linalg.norm(seen(dtype) - exact)
        assert 0 < change < most * whole  # of what the whole prompt changes


@pytest.mark.parametrize("dtype", KV_DTYPES)
def test_no_number_is_too_large_to_be_kept(dtype):
    cache = caches.empty(toy.config(), 1, 4, dtype)
    block = caches._Block(cache, jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1), bool), jnp.ones(1))
    new = jnp.full((cache.k.shape[0], 1, 1, cache.k.shape[2], cache.k.shape[4]), -1e4)
    kept = block.write((new, new), jnp.ones(1)).k[:, :, :, 0].astype(jnp.float32)
    assert bool(jnp.all(jnp.isfinite(kept) & (kept < -400)))


def test_an_unknown_dtype_is_refused():
    with pytest.raises(ValueError, match="kv_dtype 'int3' is not one of bfloat16, float8_e4m3fn"):
        Reasoner(toy.config(), toy.params(), toy.spec(), kv_dtype="int3")
