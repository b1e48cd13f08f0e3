"""What a cache costs while a text is written."""

import re

import jax
import jax.numpy as jnp

from unireason_jax.inference import cache as caches
from unireason_jax.inference import writing
from unireason_jax.inference.cache import Markers
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
