"""Integrating a flow from noise to an image under guidance."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from unireason_jax.inference import step_cache
from unireason_jax.inference.cache import Cache, Markers, concat_rows, read_noised
from unireason_jax.inference.settings import FlowSettings
from unireason_jax.inference.step_cache import Memory
from unireason_jax.rules import flow


class Path(NamedTuple):
    """How B images were drawn in N - 1 steps.

    Attributes:
      latents: [B, T, P] float32, scaled; the images.
      velocities: [N - 1, B, T, P] float32, guided.
      passes: [B] int32, forward passes that each image asked for.
    """

    latents: jax.Array
    velocities: jax.Array
    passes: jax.Array


class Drawing(NamedTuple):
    """What B images are drawn from.

    Attributes:
      model: a bound `Bagel`.
      positions: [B, T] int32 places in the latent grid.
      counts: [B] int32 tokens that count.
      scales: text and image scale, each [B] float32.
      markers: control ids.
      settings: how to integrate; its scales are not read.
    """

    model: Any
    positions: jax.Array
    counts: jax.Array
    scales: tuple[jax.Array, jax.Array]
    markers: Markers
    settings: FlowSettings

    def velocities(self, branches: Cache, x_t: jax.Array, t: jax.Array) -> jax.Array:
        """Velocities [n * B, T, P] of all branches, from one pass over their rows.

        Args:
          branches: n * B rows, the contexts [full | without text | without images], the first n.
          x_t: [B, T, P] noised latents.
          t: float32 scalar time.
        """
        copies = branches.rows // x_t.shape[0]
        tiled = [jnp.concatenate([array] * copies) for array in (x_t, self.positions, self.counts)]
        times = jnp.full(branches.rows, t)
        return read_noised(self.model, branches, tiled[0], times, *tiled[1:], self.markers)

    def guided(self, velocities: jax.Array) -> jax.Array:
        """The velocity [B, T, P] under guidance by those of n branches [n * B, T, P]."""
        parts = jnp.split(velocities, len(velocities) // len(self.counts))
        if len(parts) == 1:
            return parts[0]
        return flow.guide(
            parts[0],
            parts[1],
            parts[2] if len(parts) == 3 else None,
            text_scale=self.scales[0],
            image_scale=self.scales[1],
            renorm=self.settings.renorm,
            renorm_min=self.settings.renorm_min,
        )

    def embedded(self, x_t: jax.Array, t: jax.Array) -> jax.Array:
        """The latents as the model embeds them [B, T, D], for the rule "tea"; else [B, 0, 0]."""
        if self.settings.cache.rule != "tea":
            return jnp.zeros((len(x_t), 0, 0), jnp.float32)
        return self.model.embed_latents(x_t, jnp.full(x_t.shape[:2], t), self.positions)

    def remembered(
        self, memory: Memory, branches: Cache, x_t: jax.Array, t: jax.Array, computes: jax.Array
    ) -> tuple[Memory, jax.Array]:
        """As `velocities`, computed where `computes` (scalar bool) or an image's rule says so."""
        needed = jnp.broadcast_to(computes, self.counts.shape)
        if self.settings.cache.rule == "tea":
            valid = jnp.arange(x_t.shape[1]) < self.counts[:, None]
            memory = memory.look(self.embedded(x_t, t), valid)
            needed |= memory.change >= self.settings.cache.threshold

        def compute(memory: Memory) -> Memory:
            return memory.keep(self.velocities(branches, x_t, t), t, needed)

        memory = jax.lax.cond(jnp.any(needed), compute, lambda memory: memory, memory)
        return memory, memory.foretell(t)

    def step(self, branches: Cache, carry: tuple, row: tuple) -> tuple[tuple, jax.Array]:
        """One step of the solver.

        Args:
          branches: as `velocities`.
          carry: the latents [B, T, P], what the solver remembers (None for Euler), the memory.
          row: (t, the time after it, weight of `flow.look_back`), and whether the step computes.

        Returns:
          The carry after it, and the guided velocity [B, T, P].
        """
        (x, before, memory), ((t, following, weight), computed) = carry, row
        if memory is None:
            v = self.velocities(branches, x, t)
        else:
            memory, v = self.remembered(memory, branches, x, t, computed)
        v = self.guided(v)
        if before is None:
            return (x - v * (t - following), before, memory), v
        now = flow.remembered(self.settings.solver, x, v, t)
        return (x - (v + weight * (now - before)) * (t - following), now, memory), v


def timed(settings: FlowSettings, first: int, last: int) -> np.ndarray:
    """(t, the time after it, weight of the look back) of steps of one segment: [n, 3] float32."""
    ends = settings.times()[first : last + 1]
    return np.stack([ends[:-1], ends[1:], flow.look_back(settings.solver, ends)], axis=1)


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
) -> Path:
    """Integrates dx = v dt from noise at t = 1 to an image at t = 0 with the steps of a solver.

    Branches outside the guidance interval are not computed, and a branch that is not given (equal
    to another, or its scale is off) never is: text-to-image gives two. A solver looks back no
    further than to where guidance turned on or off: the velocity jumps there. A step cache keeps
    what branches go on.

    Args:
      model: a bound `Bagel`.
      branches: caches of B rows and equal slots: the full context, then that without text, then
        that without images.
      noise: [B, T, P] float32 standard normal.
      positions: [B, T] int32 places in the latent grid.
      counts: [B] int32 tokens that count.
      scales: text and image scale, each [B] float32.
      markers: control ids.
      settings: times, interval, renormalisation, solver and cache (its scales are not read).
    """
    drawing = Drawing(model, positions, counts, scales, markers, settings)
    guided = concat_rows(list(branches)) if len(branches) > 1 else branches[0]
    times, computes = settings.times(), settings.computes()
    memory, velocities = None, []
    if settings.cache is not None:
        seen = drawing.embedded(noise, jnp.float32(times[0]))
        memory = step_cache.empty(settings.cache.order, noise, 1, seen)

    def run(
        x: jax.Array, memory: Memory | None, first: int, last: int, context: Cache
    ) -> tuple[jax.Array, Memory | None, jax.Array]:
        rows = jnp.asarray(timed(settings, first, last)), computes[first:last]
        step = functools.partial(drawing.step, context)
        if memory is not None:
            memory = memory.for_branches(context.rows // len(x))
        start = x, None if settings.solver == "euler" else jnp.zeros_like(x), memory
        (x, _, memory), v = jax.lax.scan(step, start, rows)
        return x, memory, v

    x = noise
    for first, last, on in settings.segments():
        x, memory, v = run(x, memory, first, last, guided if on else branches[0])
        velocities.append(v)
    passes = jnp.full(len(x), settings.forwards(len(branches)), jnp.int32)
    passes = passes if memory is None else memory.passes
    return Path(x, jnp.concatenate(velocities), passes)
