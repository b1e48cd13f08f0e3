"""`unireason bench rollouts`: what a rollout costs beside drawing the same for show.

Prompts of a config are played out in turns by the rollouts of `unireason rl`, whose stochastic
steps, latents and log-probabilities are kept, and by the model's usual sampler, as `generate` does:
one conversation of as many prompts as there were siblings, with equal rows, points in time, tokens
and temperature. Trajectories differ in length, so images a second are compared; each image has a
text before it in both.
"""

import dataclasses
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from unireason_jax.inference import load
from unireason_jax.inference.reasoner import Reasoner
from unireason_jax.reinforcement import prompts, rollouts, settings
from unireason_jax.reinforcement.prompts import Asked
from unireason_jax.reinforcement.settings import Policy
from unireason_jax.run import configuration
from unireason_jax.world.scenes import CELL


def run(
    checkpoint: str,
    config: str,
    overrides: Mapping[str, Any] = MappingProxyType({}),
    *,
    iterations: int = 3,
    seed: int = 0,
) -> dict:
    """Plays out the prompts of `iterations` iterations, after those of one that compiles.

    Args:
      checkpoint: the model, as `load` takes it.
      config: a config of `unireason rl`, e.g. configs/rl_hard.py:small.
      overrides: leaves of it.
      iterations: timed ones.
      seed: of the prompts and of all chance.

    Returns:
      Plain numbers; `rollout_rate` is images a CPU-second of rollouts divided by those of
      drawing for show.

    Raises:
      FileNotFoundError, ValueError: no such checkpoint or config, or one that cannot be played.
    """
    policy = settings.policy(configuration.load(config, overrides))
    model = load.load(checkpoint)
    usual = model.settings
    recorded = rollouts.settings_of(policy, usual)
    same = ("text", "max_text", "max_reflection", "batch_rows")
    flow = dataclasses.replace(usual.flow, timesteps=recorded.flow.timesteps)
    shown = dataclasses.replace(usual, flow=flow, **{k: getattr(recorded, k) for k in same})
    ask, count = prompts.training(policy, seed, usual.size[0] // CELL), policy.prompts
    ways = {
        "rollouts": (recorded, _rolled, count),
        "shown": (shown, _shown, count * policy.group),
    }
    spent, images = dict.fromkeys(ways, 0.0), dict.fromkeys(ways, 0)
    for number in range(iterations + 1):
        for way, (model.settings, play, asked) in ways.items():
            start = time.process_time()
            drawn = play(model, policy, ask(number * asked, asked), seed + number)
            if number:  # the first one compiled
                spent[way] += time.process_time() - start
                images[way] += drawn
    a_second = {way: images[way] / spent[way] for way in ways}
    found = {"bench": "rollouts", "config": config, "rows": policy.batch_rows, "images": images}
    rate = a_second["rollouts"] / a_second["shown"]
    return found | {"images_per_cpu_s": a_second, "rollout_rate": rate}


def _rolled(model: Reasoner, policy: Policy, asked: list[Asked], seed: int) -> int:
    """Rolls out groups; the number of images that were drawn."""
    siblings = rollouts.roll(model, policy, asked, seed=seed)
    return _drafts(policy, asked) + sum(len(one.drawings) for one in siblings if one)


def _shown(model: Reasoner, policy: Policy, asked: list[Asked], seed: int) -> int:
    """Plays out conversations by the usual sampler; the number of images that were drawn."""
    traces = [one.trace for one in rollouts.play_out(model, policy, asked, seed=seed)]
    steps = [step for trace in traces for step in trace.steps if not step.given]
    return _drafts(policy, asked) + sum(step.kind == "image" for step in steps)


def _drafts(policy: Policy, asked: list[Asked]) -> int:
    """How many drafts trajectories begin with that nobody gave, so that they were drawn first."""
    return sum(policy.template == "refine_t2i" and "draft" not in one.given for one in asked)
