"""Integrating a flow from noise to an image under guidance."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unireason_jax.inference.cache import Cache, Markers, concat_rows, read_noised
from unireason_jax.inference.settings import FlowSettings
from unireason_jax.rules import flow


def guided_velocity(
    model: Any,
    branches: Cache,
    x_t: jax.Array,
    t: jax.Array,
    positions: jax.Array,
    counts: jax.Array,
    scales: tuple[jax.Array, jax.Array],
    *,
    markers: Markers,
    settings: FlowSettings,
) -> jax.Array:
    """The velocity of B images under guidance, from one pass over the rows of all branches.

    Args:
      model: a bound `Bagel`.
      branches: n * B rows, the contexts [full | without text | without images], the first n.
      x_t: [B, T, P] noised latents.
      t: float32 scalar time.
      positions: [B, T] int32 places in the latent grid.
      counts: [B] int32 tokens that count.
      scales: text and image scale, each [B] float32.
      markers: control ids.
      settings: the renormalisation is used.

    Returns:
      [B, T, P] float32.
    """
    copies = branches.rows // x_t.shape[0]
    tiled = [jnp.concatenate([array] * copies) for array in (x_t, positions, counts)]
    times = jnp.full(branches.rows, t)
    velocity = read_noised(model, branches, tiled[0], times, *tiled[1:], markers)
    parts = jnp.split(velocity, copies)
    if copies == 1:
        return parts[0]
    return flow.guide(
        parts[0],
        parts[1],
        parts[2] if copies == 3 else None,
        text_scale=scales[0],
        image_scale=scales[1],
        renorm=settings.renorm,
        renorm_min=settings.renorm_min,
    )


def integrate(
    model: Any,
    branches: tuple[Cache, ...],
    noise: jax.Array,
    positions: jax.Array,
    counts: jax.Array,
    scales: tuple[jax.Array, jax.Array],
    *,
    markers: Markers,
    settings: FlowSettings,
) -> tuple[jax.Array, jax.Array]:
    """Integrates dx = v dt from noise at t = 1 to an image at t = 0 with the steps of a solver.

    Branches outside the guidance interval are not computed, and a branch that is not given (equal
    to another, or its scale is off) never is: text-to-image gives two. A solver looks back no
    further than to where guidance turned on or off: the velocity jumps there.

    Args:
      model: a bound `Bagel`.
      branches: caches of B rows and equal slots: the full context, then that without text, then
        that without images.
      noise: [B, T, P] float32 standard normal.
      positions: [B, T] int32 places in the latent grid.
      counts: [B] int32 tokens that count.
      scales: text and image scale, each [B] float32.
      markers: control ids.
      settings: times, interval and renormalisation (its scales are not read).

    Returns:
      Scaled latents [B, T, P] float32, and the velocities of the N - 1 steps [N - 1, B, T, P].
    """
    times = settings.times()
    guided = concat_rows(list(branches)) if len(branches) > 1 else branches[0]
    fixed = {"markers": markers, "settings": settings}

    def run(x: jax.Array, first: int, last: int, context: Cache) -> tuple[jax.Array, jax.Array]:
        ends = times[first : last + 1]
        rows = np.stack([ends[:-1], ends[1:], flow.look_back(settings.solver, ends)], axis=1)

        def step(carry: tuple, row: jax.Array) -> tuple[tuple, jax.Array]:
            (x, before), (t, following, weight) = carry, row
            v = guided_velocity(model, context, x, t, positions, counts, scales, **fixed)
            if settings.solver == "euler":
                return (x - v * (t - following), before), v
            now = flow.remembered(settings.solver, x, v, t)
            return (x - (v + weight * (now - before)) * (t - following), now), v

        before = None if settings.solver == "euler" else jnp.zeros_like(x)
        (x, _), velocities = jax.lax.scan(step, (x, before), jnp.asarray(rows))
        return x, velocities

    velocities = []
    for first, last, on in settings.segments():
        noise, v = run(noise, first, last, guided if on else branches[0])
        velocities.append(v)
    return noise, jnp.concatenate(velocities)
