"""What drawing code by code computes: the head on generated codes, and on nothing else."""

import functools
import math

import jax
import jax.numpy as jnp

from unireason_jax.inference import cache as caches
from unireason_jax.inference import sampler
from unireason_jax.models import functional
from unireason_jax.models.config import variant
from unireason_jax.models.janus.config import CodesConfig

BATCH, CODES, VOCAB = 3, 80, 384  # widths that no other matrix of the model has


def products(jaxpr, times=1):
    """Shapes of all matrix products of a program, and how often each runs."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation.outvars[0].aval.shape, times
        runs = times * equation.params.get("length", 1)
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from products(inner, runs)


def rows_of(width, guided):
    """How many rows a matrix of so many columns is multiplied with to draw pictures of 16 codes."""
    model = variant("janus_nano", codes=CodesConfig(size=CODES, width=8, side=4))
    assert model.llm.vocab == VOCAB
    context = caches.empty(model, BATCH, 48)
    draw = functools.partial(
        sampler.draw_codes, config=model, markers=caches.Markers(1, 2, 3, 4), count=16
    )
    seeds, number = jnp.zeros(BATCH, jnp.uint32), jnp.float32(1)
    branches = (context,) * (1 + guided)
    traced = jax.make_jaxpr(draw)(functional.abstract(model), branches, seeds, number, number)
    found = [(shape, times) for shape, times in products(traced.jaxpr) if shape[-1] == width]
    return sum(math.prod(shape[:-1]) * times for shape, times in found)


def test_the_head_is_applied_to_generated_codes_alone():
    """Once a code and row; never to the prompt, nor to what is in the cache."""
    assert rows_of(CODES, guided=True) == 16 * 2 * BATCH
    assert rows_of(CODES, guided=False) == 16 * BATCH


def test_the_head_of_words_is_not_applied():
    assert rows_of(VOCAB, guided=True) == 0
