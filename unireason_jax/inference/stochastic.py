"""Drawing with stochastic steps: what a flow is reinforced on (Flow-GRPO, arXiv 2505.05470).

A window of the steps from noise to an image is Gaussian (see `rules.stochastic_steps`), the others
are Euler steps. There is no guidance: what is drawn is what one forward pass per step says, so that
training can say it again.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from unireason_jax.inference.cache import Cache, Markers, read_noised
from unireason_jax.inference.settings import FlowSettings
from unireason_jax.models import functional
from unireason_jax.rules import flow, stochastic_steps


class Moves(NamedTuple):
    """The stochastic steps of B images, K of each.

    Attributes:
      points: [K + 1, B, T, P] float32 latents before each step and after the last.
      times: [K + 1] float32 flow times of the points.
      logps: [K, B] float32 log-probabilities, means over the numbers of an image.
    """

    points: jax.Array
    times: jax.Array
    logps: jax.Array


@functools.partial(jax.jit, static_argnames=("config", "markers", "settings", "window"))
def draw_moves(
    params: Any,
    cache: Cache,
    seeds: jax.Array,
    noise: jax.Array,
    positions: jax.Array,
    counts: jax.Array,
    start: jax.Array,
    level: jax.Array,
    *,
    config: Any,
    markers: Markers,
    settings: FlowSettings,
    window: int,
) -> tuple[jax.Array, Moves]:
    """Draws B images, stochastic in the steps start <= i < start + window.

    The noise of a step depends on the image's seed, the step and the token's place only.

    Args:
      params: the model's parameters.
      cache: B rows.
      seeds: [B, T] uint32, one number per image.
      noise: [B, T, P] float32 standard normal, where the images start.
      positions: [B, T] int32 places in the latent grid.
      counts: [B] int32 tokens that count.
      start: int32, first stochastic step.
      level: float32 noise level a of these steps; 0 is the Euler step.
      config, markers: of the model.
      settings: times; its guidance is not read.
      window: K, at most the number of steps.

    Returns:
      Scaled latents [B, T, P] float32, and the moves.
    """
    model, times = functional.bind(config, params), jnp.asarray(settings.times())
    real = jnp.arange(noise.shape[1]) < counts[:, None]

    def step(x: jax.Array, number: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        t, following = times[number], times[number + 1]
        at = jnp.full(cache.rows, t)
        velocity = read_noised(model, cache, x, at, positions, counts, markers)
        inside = (number >= start) & (number < start + window)
        mean, std = stochastic_steps.sde_step(x, velocity, t, following, level=level)
        drawn = flow.token_noise(_of_step(seeds, number), positions, x.shape[-1])
        is_random = inside & (level > 0)
        moved = jnp.where(is_random, mean + std * drawn, x - velocity * (t - following))
        each = stochastic_steps.log_prob(moved, mean, jnp.where(is_random, std, 0.0))
        logps = jnp.sum(jnp.where(real, each, 0.0), axis=1) / jnp.maximum(counts, 1)
        return moved, (x, logps)

    x, (before, logps) = jax.lax.scan(step, noise, jnp.arange(len(times) - 1))
    points = jnp.concatenate([before, x[None]])
    found = Moves(
        points=jax.lax.dynamic_slice_in_dim(points, start, window + 1),
        times=jax.lax.dynamic_slice_in_dim(times, start, window + 1),
        logps=jax.lax.dynamic_slice_in_dim(logps, start, window),
    )
    return x, found


def _of_step(seeds: jax.Array, number: jax.Array) -> jax.Array:
    """[B, T] uint32 seeds of a step's noise, from those of the images."""

    def one(seed: jax.Array) -> jax.Array:
        return jax.random.bits(jax.random.fold_in(jax.random.key(seed), number), dtype=jnp.uint32)

    return jnp.broadcast_to(jax.vmap(one)(seeds[:, 0])[:, None], seeds.shape)
