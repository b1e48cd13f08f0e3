"""Drawing a picture code by code: the loop, its guidance and its randomness (Janus-Pro).

Every picture is two rows of one cache, its conversation and the same with the prompt blanked out,
and both are fed the code that was chosen. Noise belongs to the picture: it is keyed by the
picture's seed and the code's place, so a picture is the same alone and among others.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from unireason_jax.inference.cache import Cache, append_causal
from unireason_jax.inference.values import number


@dataclasses.dataclass(frozen=True)
class CodeSettings:
    """How codes are chosen.

    Attributes:
      guidance: w in u + w (c - u) of the logits with (c) and without the prompt (u); 1 or less
        turns guidance off.
      temperature: the guided logits are divided by it; 0 takes the likeliest code.
    """

    guidance: float = 5.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        """Raises ValueError on values outside their range."""
        for field in ("guidance", "temperature"):
            object.__setattr__(self, field, number(field, getattr(self, field), least=0))


class Step(NamedTuple):
    """One code of B pictures, as it was chosen.

    Attributes:
      hidden: [B or 2 B, D] what the generation head read: with the prompt, then without.
      logits: [B or 2 B, codes] float32, in the same order.
      guided: [B, codes] float32, before the temperature.
      code: [B] int32.
    """

    hidden: jax.Array
    logits: jax.Array
    guided: jax.Array
    code: jax.Array


def choose(
    logits: jax.Array, noise: jax.Array, guidance: jax.Array, temperature: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The next code of every picture, guidance first, then temperature; all in float32.

    Args:
      logits: [B, codes] with the prompt; or [2 B, codes], followed by those without.
      noise: [B, codes] Gumbel noise; the likeliest of p(code) then is a sample of p.
      guidance: float32, see `CodeSettings`.
      temperature: float32.

    Returns:
      The guided logits [B, codes] and the codes [B] int32.
    """
    guided = logits[: len(noise)]
    if len(logits) > len(noise):
        without = logits[len(noise) :]
        guided = without + guidance * (guided - without)
    sampled = jax.nn.log_softmax(guided / jnp.maximum(temperature, 1e-6)) + noise
    scores = jnp.where(temperature > 0, sampled, guided)
    return guided, jnp.argmax(scores, axis=-1).astype(jnp.int32)


def drawing(
    model: Any,
    cache: Cache,
    start: jax.Array,
    noise: jax.Array,
    guidance: jax.Array,
    temperature: jax.Array,
) -> tuple[Cache, Step]:
    """Draws the codes of B pictures, one after another.

    Args:
      model: a bound `Janus`.
      cache: B rows, or 2 B with those without the prompt behind; room for `len(noise)` tokens.
      start: int32 id of the start of an image, the first token that is fed.
      noise: [N, B, codes] Gumbel noise of the N codes.
      guidance: float32, see `CodeSettings`.
      temperature: float32.

    Returns:
      The cache, with the start of the image and all codes but the last in it, and the N steps.
    """
    every = jnp.ones(cache.rows, jnp.int32)

    def step(state: tuple[Cache, jax.Array], gumbel: jax.Array) -> tuple[Any, Step]:
        cache, token = state
        cache, hidden = append_causal(model, cache, token, every)
        logits = model.code_logits(hidden[:, 0])
        guided, code = choose(logits, gumbel, guidance, temperature)
        fed = jnp.tile(code, cache.rows // len(code))[:, None]
        return (cache, model.embed_codes(fed)), Step(hidden[:, 0], logits, guided, code)

    first = model.embed_text(jnp.broadcast_to(start, (cache.rows, 1)))
    (cache, _), steps = jax.lax.scan(step, (cache, first), noise)
    return cache, steps


def gumbel(seeds: jax.Array, codes: int, count: int) -> jax.Array:
    """Noise [count, B, codes] float32 of pictures with seeds [B] uint32, keyed by place as well."""

    def one(place: jax.Array, seed: jax.Array) -> jax.Array:
        return jax.random.gumbel(jax.random.fold_in(jax.random.key(seed), place), (codes,))

    rows = jax.vmap(one, in_axes=(None, 0))
    return jax.vmap(rows, in_axes=(0, None))(jnp.arange(count), seeds)
