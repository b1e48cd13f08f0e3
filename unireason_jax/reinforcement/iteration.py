"""One iteration: prompts, rollouts, rewards, advantages, packed rows, and what is told of them."""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np

from unireason_jax.data.bagel.tokens import SampleSpec
from unireason_jax.inference.reasoner import Reasoner
from unireason_jax.reinforcement import rewards, rollouts, rows
from unireason_jax.reinforcement.prompts import Asked
from unireason_jax.reinforcement.rewards import Reward, Score
from unireason_jax.reinforcement.rollouts import Trajectory
from unireason_jax.reinforcement.settings import Policy
from unireason_jax.rules.advantages import group_advantages, penalise_malformed
from unireason_jax.training.metrics import Clock


@dataclasses.dataclass(frozen=True, eq=False)
class Judged:
    """Trajectories of whole groups, in order, with what they are worth.

    Attributes:
      trajectories: siblings next to each other.
      scores, rewards, advantages: of each.
      dropped: groups that were left out because a score was missing.
    """

    trajectories: Sequence[Trajectory]
    scores: Sequence[Score]
    rewards: Sequence[float]
    advantages: Sequence[float]
    dropped: int


def judge(groups: Sequence[Sequence[Trajectory | None]], reward: Reward, policy: Policy) -> Judged:
    """Rewards, and advantages by group; a group with a score that is missing is left out."""
    known = [one for group in groups for one in group if one is not None]
    found = iter(reward(known))
    scored = [[(one, one and next(found)) for one in group] for group in groups]
    whole = [group for group in scored if all(score is not None for _, score in group)]
    if not whole:
        return Judged([], [], [], [], len(groups))
    penalty = policy.reward.wrong_stop
    worth = np.array([[rewards.worth(*pair, penalty) for pair in group] for group in whole])
    malformed = np.array([[score.malformed for _, score in group] for group in whole])
    options = {"scale": policy.scale, "clip": policy.advantage_clip}
    advantages = group_advantages(jnp.asarray(worth, jnp.float32), **options)
    advantages = np.asarray(penalise_malformed(advantages, jnp.asarray(malformed)))
    flat = [pair for group in whole for pair in group]
    return Judged(
        [one for one, _ in flat],
        [score for _, score in flat],
        worth.ravel().tolist(),
        advantages.ravel().tolist(),
        len(groups) - len(whole),
    )


def iterate(
    reasoner: Reasoner,
    policy: Policy,
    asked: Sequence[Asked],
    reward: Reward,
    *,
    seed: int,
    clock: Clock,
) -> tuple[Judged, dict[str, np.ndarray], int]:
    """Rolls out, judges and packs.

    Args:
      reasoner: the model of this moment, with `rollouts.settings_of`.
      policy: of the run.
      asked: the prompts.
      reward: the judge.
      seed: uint32 of all randomness.
      clock: what takes how long.

    Returns:
      What was judged, and `rows.pack` of it; ({}, 0) where every group was left out.
    """
    with clock("rollout"):
        groups = rollouts.roll(reasoner, policy, asked, seed=seed)
    with clock("reward"):
        judged = judge(groups, reward, policy)
    if not judged.trajectories:
        return judged, {}, 0
    with clock("pack"):
        return judged, *pack(judged, reasoner.engine.spec, policy, reasoner.settings.size)


def pack(
    judged: Judged, spec: SampleSpec, policy: Policy, size: tuple[int, int]
) -> tuple[dict[str, np.ndarray], int]:
    """`rows.pack` of what was judged; `size` is that of the pictures in pixels."""
    moves, cell = policy.flow.weight > 0, spec.codec.stride * spec.latent_patch
    played = [rows.play(one, spec, moves=moves) for one in judged.trajectories]
    return rows.pack(
        played,
        judged.advantages,
        spec,
        policy.budgets,
        rows=policy.rows,
        image_tokens=(size[0] // cell) * (size[1] // cell),
        credit=[not score.malformed for score in judged.scores],
    )


def numbers(judged: Judged, policy: Policy) -> dict[str, float]:
    """What an iteration's rollouts were like, for the metrics.

    right/first and right/last are of first and last images; repair: wrong first images that end
    right; damage: right first images that end wrong (absent where there are none).
    """
    found = {"groups/dropped": float(judged.dropped)}
    if not judged.trajectories:
        return found
    pairs = [(score.passed[0], score.passed[-1]) for score in judged.scores]
    wrong, right = (
        [last for first, last in pairs if first == is_right] for is_right in (False, True)
    )
    found |= _mean("repair", wrong) | _mean("damage", [not last for last in right])
    texts = [text for one in judged.trajectories for text in one.texts.values()]
    found |= _mean("length/text", [len(text.ids) for text in texts])
    values = np.array(judged.rewards).reshape(-1, policy.group)
    return found | {
        "reward": statistics.fmean(judged.rewards),
        "right/first": statistics.fmean(first for first, _ in pairs),
        "right/last": statistics.fmean(last for _, last in pairs),
        "malformed": statistics.fmean(score.malformed for score in judged.scores),
        "images": statistics.fmean(len(score.images) for score in judged.scores),
        "stopped": statistics.fmean(one.trace.ended == "stop" for one in judged.trajectories),
        "groups/equal": float((np.ptp(values, axis=1) == 0).mean()),
        **by_family(judged),
    }


def by_family(judged: Judged) -> dict[str, float]:
    """Mean reward of each kind of prompt."""
    groups: dict[str, list[float]] = {}
    for one, reward in zip(judged.trajectories, judged.rewards):
        groups.setdefault(one.asked.family, []).append(reward)
    return {f"reward/{name}": statistics.fmean(found) for name, found in sorted(groups.items())}


def _mean(name: str, values: Sequence[float]) -> Mapping[str, float]:
    return {name: statistics.fmean(values)} if values else {}
