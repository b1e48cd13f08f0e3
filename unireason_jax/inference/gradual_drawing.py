"""Drawing an image a few steps at a time, so that others are looked after and it can be seen.

The times of the steps are numbers of the program, not part of it: images of one size share it,
whatever their steps, shift and interval.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from unireason_jax.data import images
from unireason_jax.inference import context as contexts
from unireason_jax.inference import step_cache
from unireason_jax.inference.cache import Cache, Markers, concat_rows
from unireason_jax.inference.context import Context
from unireason_jax.inference.engine import bucket
from unireason_jax.inference.integration import Drawing, timed
from unireason_jax.inference.settings import FlowSettings
from unireason_jax.inference.step_cache import Memory, StepCache
from unireason_jax.inference.turns import Turn, grid_places
from unireason_jax.models import functional

STEPS = 4
"""Steps of one piece at most."""


class State(NamedTuple):
    """An image on its way.

    Attributes:
      x: [1, T, P] float32 latents.
      before: what the solver remembers, see `Drawing.step`.
      memory: of the step cache, or None.
      velocity: [1, T, P] float32 of the last step.
    """

    x: jax.Array
    before: jax.Array | None
    memory: Memory | None
    velocity: jax.Array


@functools.partial(jax.jit, static_argnames=("config", "markers", "settings"))
def draw_some(
    params: Any,
    branches: Cache,
    state: State,
    rows: tuple[jax.Array, jax.Array],
    count: jax.Array,
    positions: jax.Array,
    counts: jax.Array,
    scales: tuple[jax.Array, jax.Array],
    *,
    config: Any,
    markers: Markers,
    settings: FlowSettings,
) -> State:
    """The first `count` of some steps, `rows` as `Drawing.step`; the rest as `integrate`."""
    model = functional.bind(config, params)
    drawing = Drawing(model, positions, counts, scales, markers, settings)

    def step(number: jax.Array, state: State) -> State:
        row = jax.tree.map(lambda array: array[number], rows)
        carry, velocity = drawing.step(branches, tuple(state[:3]), (tuple(row[0]), row[1]))
        return State(*carry, velocity)

    return jax.lax.fori_loop(0, count, step, state)


def shortened(flow: FlowSettings) -> FlowSettings:
    """As few steps as run every program of these settings, for who only wants them compiled."""
    kinds = {guided for *_, guided in flow.segments()}
    for timesteps in range(2, flow.timesteps):
        few = dataclasses.replace(flow, timesteps=timesteps)
        if {guided for *_, guided in few.segments()} == kinds:
            return few
    return flow


class Gradual:
    """The image that a context of one row draws.

    Args:
      context: what is drawn from; it must stay as it is.
      seed: uint32 of the noise.
      grid: latent tokens (rows, columns).
      flow: how to integrate.
      guides: poorer contexts: without text, then without images; none, one or both.

    Attributes:
      done: steps that are done.
    """

    def __init__(
        self,
        context: Context,
        seed: int,
        grid: tuple[int, int],
        flow: FlowSettings,
        guides: Sequence[Sequence[Turn]],
    ):
        engine = context.engine
        self.engine, self.grid, self.flow, self.done = engine, grid, flow, 0
        branches = context.branches([0], {0: 0}, [{0: guide} for guide in guides])
        self.contexts = {True: _joined(branches), False: branches[0]}
        self.copies = {True: len(branches), False: 1}
        places = grid_places(grid, engine.spec)
        positions = np.zeros((1, bucket(len(places), 1)), np.int32)
        positions[0, : len(places)] = places
        self.positions, self.counts = positions, np.array([len(places)], np.int32)
        seeds = np.full(positions.shape, seed, np.uint32)
        x = contexts.noise(engine.place(seeds), positions, engine.spec.patch_sizes[1])
        memory = None
        if flow.cache is not None:
            how = {"config": engine.config, "cache": flow.cache}
            memory = _remembering(engine.params, x, positions, **how)
        self.state = State(x, None, memory, self._zeros(x))

    @property
    def steps(self) -> int:
        """Steps of the image."""
        return self.flow.timesteps - 1

    @property
    def passes(self) -> int:
        """Forward passes through the model so far."""
        if self.state.memory is not None:
            return int(self.engine.fetch(self.state.memory.passes)[0])
        return self.flow.forwards(self.copies[True])

    def draw(self) -> None:
        """Goes on for at most STEPS steps, not beyond where guidance turns on or off."""
        segments = self.flow.segments()
        first, last, guided = next(segment for segment in segments if self.done < segment[1])
        state, copies = self.state, self.copies[guided]
        if self.done == first:
            before = None if self.flow.solver == "euler" else self._zeros(state.x)
            memory = state.memory and state.memory.for_branches(copies)
            state = state._replace(before=before, memory=memory)
        count = min(STEPS, last - self.done)
        times, computes = np.zeros((STEPS, 3), np.float32), np.ones(STEPS, bool)
        begin = self.done - first
        times[:count] = timed(self.flow, first, last)[begin : begin + count]
        computes[:count] = self.flow.computes()[self.done : self.done + count]
        self.state = draw_some(
            self.engine.params,
            self.contexts[guided],
            state,
            (times, computes),
            np.int32(count),
            self.positions,
            self.counts,
            tuple(np.full(1, scale, np.float32) for scale in self.flow.scales),
            config=self.engine.config,
            markers=self.engine.markers,
            settings=dataclasses.replace(
                self.flow.program, timesteps=2, shift=1.0, interval=(0.0, 1.0)
            ),
        )
        self.done += count

    def image(self) -> np.ndarray:
        """What the latents will become as far as the last velocity tells: uint8 [H, W, 3].

        After the last step it is the image.
        """
        spec = self.engine.spec
        x, velocity = self.engine.fetch((self.state.x, self.state.velocity))
        tokens = (x - self.flow.times()[self.done] * velocity)[0, : self.counts[0]]
        size = {"rows": self.grid[0], "columns": self.grid[1], "patch": spec.latent_patch}
        return spec.codec.decode(images.unpatchify(tokens, **size))

    def _zeros(self, like: jax.Array) -> jax.Array:
        """[1, T, P] float32 of the shape of latents."""
        return self.engine.place(np.zeros(like.shape, np.float32))


@jax.jit
def _joined(branches: tuple[Cache, ...]) -> Cache:
    """The contexts as rows of one."""
    return concat_rows(list(branches))


@functools.partial(jax.jit, static_argnames=("config", "cache"))
def _remembering(
    params: Any, x: jax.Array, positions: jax.Array, *, config: Any, cache: StepCache
) -> Memory:
    """What a step cache holds before the first step, from the noise."""
    seen = jnp.zeros((len(x), 0, 0), jnp.float32)
    if cache.rule == "tea":
        seen = functional.bind(config, params).embed_latents(x, jnp.ones(x.shape[:2]), positions)
    return step_cache.empty(cache.order, x, 1, seen)
