"""Step caches: some steps of a drawing foretell the velocities that the others compute.

What is kept are the velocities of every guidance branch by itself; guidance, its renormalisation
and the solver act on what comes out, at every step. Which steps compute is a rule:

    taylor  every `every`-th of them (TaylorSeer, Liu et al. 2025)
    tea     when what an image looks like to the model has changed by `threshold`: an image's own
            decision, whoever is drawn beside it (TeaCache, Liu et al. 2024)

The first `order + 1` steps and the last always compute, and so does one where guidance begins: what
was not computed before cannot be foretold.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

RULES = ("taylor", "tea")


@dataclasses.dataclass(frozen=True)
class StepCache:
    """Which steps compute, and how the others are foretold.

    Attributes:
      rule: one of `RULES`.
      order: of the polynomial in flow time through the last computed velocities; 0 repeats the
        last one.
      every: "taylor": the distance between steps that compute.
      threshold: "tea": the summed relative change of the embedded latents at which a step computes.
    """

    rule: str = "taylor"
    order: int = 1
    every: int = 2
    threshold: float = 0.1

    def __post_init__(self) -> None:
        """Raises ValueError on values that cannot work."""
        if self.rule not in RULES:
            raise ValueError(f"cache: rule {self.rule!r} is not one of {', '.join(RULES)}.")
        for name, least, most in (("order", 0, 2), ("every", 1, 100)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
                raise ValueError(
                    f"cache: {name} must be a whole number from {least} to {most}, not {value!r}."
                )
        if not 0 <= self.threshold < math.inf:
            raise ValueError(f"cache: threshold must be a number >= 0, not {self.threshold!r}.")

    def computes(self, steps: int, starts: Sequence[int]) -> np.ndarray:
        """Which of the steps compute for every image: [steps] bool.

        Args:
          steps: how many there are.
          starts: those at which a branch is computed for the first time.
        """
        number = np.arange(steps)
        found = (number <= self.order) | (number == steps - 1) | np.isin(number, list(starts))
        if self.rule == "taylor":
            found |= (steps - 1 - number) % self.every == 0
        return found


CACHES = {
    "none": None,
    "taylor": StepCache(),
    "taylor2": StepCache(order=2),
    "tea": StepCache("tea", order=0, threshold=0.1),
}
"""Step caches by name, as an option gives them."""


class Memory(NamedTuple):
    """What a cache keeps of a drawing of B images under n branches.

    Attributes:
      velocities: [order + 1, n * B, T, P] float32, the newest first; branch by branch.
      times: [order + 1, B] float32 flow times at which they were computed.
      held: [B] int32, how many of them there are.
      seen: [B, T, D] float32 embedded latents of the step before; [B, 0, D] where no rule asks.
      change: [B] float32, summed relative change of these since a step computed.
      passes: [B] int32, forward passes that each image asked for.
    """

    velocities: jax.Array
    times: jax.Array
    held: jax.Array
    seen: jax.Array
    change: jax.Array
    passes: jax.Array

    @property
    def copies(self) -> int:
        """n."""
        return self.velocities.shape[1] // self.held.shape[0]

    def for_branches(self, copies: int) -> "Memory":
        """The same for other branches: the first of them stay, others are not known yet."""
        if copies == self.copies:
            return self
        first = self.velocities[:, : self.held.shape[0] * copies]
        if copies < self.copies:
            return self._replace(velocities=first)
        velocities = jnp.concatenate([self.velocities[:, : self.held.shape[0]]] * copies, axis=1)
        return self._replace(velocities=velocities, held=jnp.zeros_like(self.held))

    def look(self, seen: jax.Array, valid: jax.Array) -> "Memory":
        """Sums up how much the embedded latents [B, T, D] changed on tokens that count [B, T]."""
        real = valid[..., None]
        moved = jnp.sum(jnp.where(real, jnp.abs(seen - self.seen), 0.0), axis=(1, 2))
        size = jnp.sum(jnp.where(real, jnp.abs(self.seen), 0.0), axis=(1, 2))
        change = self.change + moved / jnp.maximum(size, 1e-12)
        return self._replace(seen=seen, change=change)

    def keep(self, velocities: jax.Array, t: jax.Array, needed: jax.Array) -> "Memory":
        """Takes velocities [n * B, T, P] of time t for the images that needed them [B]."""
        rows = jnp.tile(needed, self.copies)[:, None, None]
        newest = jnp.concatenate([velocities[None], self.velocities[:-1]])
        times = jnp.concatenate([jnp.full_like(self.times[:1], t), self.times[:-1]])
        return self._replace(
            velocities=jnp.where(rows, newest, self.velocities),
            times=jnp.where(needed, times, self.times),
            held=jnp.where(needed, jnp.minimum(self.held + 1, len(self.times)), self.held),
            change=jnp.where(needed, 0.0, self.change),
            passes=self.passes + needed * self.copies,
        )

    def foretell(self, t: jax.Array) -> jax.Array:
        """Velocities [n * B, T, P] at time t; those computed at t are given as they are."""
        there = jnp.arange(len(self.times))[:, None] < self.held
        total = jnp.zeros_like(self.velocities[0])
        for this, (time, known) in enumerate(zip(self.times, self.velocities)):
            weight = jnp.where(there[this], 1.0, 0.0)
            for other, at in enumerate(self.times):
                if other != this:
                    factor = (t - at) / jnp.where(time == at, 1.0, time - at)
                    weight = weight * jnp.where(there[other], factor, 1.0)
            total = total + jnp.tile(weight, self.copies)[:, None, None] * known
        return total


def empty(order: int, noise: jax.Array, copies: int, seen: jax.Array) -> Memory:
    """A memory of nothing.

    Args:
      order: of the polynomial.
      noise: [B, T, P], for its shape.
      copies: n, number of branches.
      seen: [B, T, D], the latents as the first step embeds them.
    """
    rows = len(noise)
    return Memory(
        velocities=jnp.zeros((order + 1, copies * rows, *noise.shape[1:]), jnp.float32),
        times=jnp.zeros((order + 1, rows), jnp.float32),
        held=jnp.zeros(rows, jnp.int32),
        seen=seen,
        change=jnp.zeros(rows, jnp.float32),
        passes=jnp.zeros(rows, jnp.int32),
    )
