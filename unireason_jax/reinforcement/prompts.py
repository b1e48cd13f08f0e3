"""What is asked for: training prompts in an endless order, any stretch of which can be had."""

import dataclasses
from typing import Any, NamedTuple

from unireason_jax.data.sources import WorldSource
from unireason_jax.reinforcement.settings import Policy

_MANY = 1 << 40


class Asked(NamedTuple):
    """A prompt.

    Attributes:
      name: its id.
      prompt: its words.
      family: its kind, for the metrics.
      wanted: what a judge has to know (in the world, the requirement).
    """

    name: str
    prompt: str
    family: str
    wanted: Any


@dataclasses.dataclass(frozen=True)
class WorldPrompts:
    """Prompts of the embedded world.

    Attributes:
      seed: of the prompts.
      policy: shares of the tasks.
      side: cells per side of the canvas.
      held_out: those that no training draws, instead of the others.
    """

    seed: int
    policy: Policy
    side: int
    held_out: bool = False

    def __call__(self, first: int, count: int) -> list[Asked]:
        """Prompts `first` to `first + count`; a pure function of the position."""
        options = {"held_out": self.held_out, "side": self.side}
        source = WorldSource(self.seed, _MANY, dict(self.policy.tasks), **options)
        found = []
        for position in range(first, first + count):
            raw = source.example(position, render=False)
            family = raw.get("domain", raw["tag"])
            found.append(Asked(raw["id"], raw["prompt"], family, raw["requirement"]))
        return found
