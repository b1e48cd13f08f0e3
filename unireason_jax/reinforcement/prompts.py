"""What is asked for: training prompts in an endless order, any stretch of which can be had."""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from unireason_jax.data.sources import WorldSource
from unireason_jax.inference import requests
from unireason_jax.reinforcement.settings import Policy
from unireason_jax.storage import paths

_MANY = 1 << 40


class Asked(NamedTuple):
    """A prompt.

    Attributes:
      name: its id.
      prompt: its words.
      family: its kind, for the metrics.
      wanted: what a judge has to know (in the world, the requirement).
      given: plan ("explanation") and "draft" that a trajectory starts from; what is not there is
        written and drawn by the model.
    """

    name: str
    prompt: str
    family: str
    wanted: Any
    given: Mapping[str, Any] = MappingProxyType({})


class Prompts(Protocol):
    """Prompts in an endless order."""

    def __call__(self, first: int, count: int) -> list[Asked]:
        """Prompts `first` to `first + count`; a pure function of the position."""


def training(policy: Policy, seed: int, side: int) -> Prompts:
    """What a run is reinforced on: a file, or the world.

    Raises:
      ValueError: the file cannot be read, or a line of it.
    """
    path = policy.prompts_from
    return FilePrompts.read(path) if path else WorldPrompts(seed, policy, side)


def held_out(policy: Policy, seed: int, side: int) -> Prompts:
    """What it is examined on; raises as `training`."""
    if policy.held_out:
        return FilePrompts.read(policy.held_out)
    return WorldPrompts((seed + 1) % 2**32, policy, side, held_out=True)


@dataclasses.dataclass(frozen=True)
class FilePrompts:
    """Prompts of a file, in turn.

    Attributes:
      asked: each once.
    """

    asked: tuple[Asked, ...]

    @classmethod
    def read(cls, path: str) -> "FilePrompts":
        """Reads a file as `generate --prompts` does. Raises ValueError for a line that is none."""
        found, refused = requests.read_file(paths.of(path))
        if refused:
            raise ValueError(f"config.rl: {refused[0].told}")
        if not found:
            raise ValueError(f"config.rl: {path} holds no prompts.")
        return cls(tuple(Asked(one.name, one.prompt, "prompts", {}) for one in found))

    def __call__(self, first: int, count: int) -> list[Asked]:
        """See `Prompts`; a second round through the file has other names, hence other draws."""
        found = []
        for position in range(first, first + count):
            turn, place = divmod(position, len(self.asked))
            one = self.asked[place]
            found.append(one._replace(name=f"{one.name} {turn}" if turn else one.name))
        return found


@dataclasses.dataclass(frozen=True)
class WorldPrompts:
    """Prompts of the embedded world.

    Attributes:
      seed: of the prompts.
      policy: shares of the tasks; those of refinement give their drafts, half of them faulty.
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
            has_draft = "refine" in source.task(position)
            raw = source.example(position, render=has_draft)
            given = {name: raw[name] for name in ("explanation", "draft") if has_draft}
            family = raw.get("domain", raw["tag"])
            found.append(Asked(raw["id"], raw["prompt"], family, raw["requirement"], given))
        return found
