"""One iteration: prompts, rollouts, rewards, advantages, packed rows, and what is told of them.

Every process of a job rolls out and judges its share of the siblings. What is known of all of them
is told around, so that advantages, rows and metrics are those of one process.
"""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Mesh

from unireason_jax.data.bagel.tokens import SampleSpec
from unireason_jax.inference.reasoner import Reasoner
from unireason_jax.reinforcement import crew, passing, rewards, rollouts, rows, update
from unireason_jax.reinforcement.prompts import Asked
from unireason_jax.reinforcement.rewards import Reward, Score
from unireason_jax.reinforcement.rollouts import Trajectory
from unireason_jax.reinforcement.rows import Outline
from unireason_jax.reinforcement.settings import Policy
from unireason_jax.rules.advantages import group_advantages, penalise_malformed
from unireason_jax.training.metrics import Clock


class Account(NamedTuple):
    """What every process knows of a trajectory, JSON-able.

    Attributes:
      family: of its prompt.
      ended: how, see `inference.trace.Trace`.
      texts: tokens of each text that it wrote.
      score: what the judge says.
      reward: what it is worth.
    """

    family: str
    ended: str
    texts: Sequence[int]
    score: Score
    reward: float

    @classmethod
    def of(cls, one: Trajectory, score: Score, penalty: float) -> "Account":
        """That of a scored trajectory; `penalty` as in `rewards.worth`."""
        texts = [len(text.ids) for text in one.texts.values()]
        reward = float(rewards.worth(one, score, penalty))
        return cls(one.asked.family, one.trace.ended, texts, score.plain(), reward)

    @classmethod
    def read(cls, told: Sequence[Any] | None) -> "Account | None":
        """What another process has told; None of a trajectory that could not be judged."""
        if told is None:
            return None
        *facts, score, reward = told
        return cls(*facts, Score(*score), reward)


@dataclasses.dataclass(frozen=True, eq=False)
class Judged:
    """Trajectories of whole groups, with what they are worth.

    Attributes:
      accounts: of all of them, in order, siblings next to each other.
      advantages: of each.
      trajectories: those of this process, by their number among the accounts.
      dropped: groups that were left out because a score was missing.
    """

    accounts: Sequence[Account]
    advantages: Sequence[float]
    trajectories: Mapping[int, Trajectory]
    dropped: int

    @property
    def credit(self) -> list[bool]:
        """Of each, whether its drawing is reinforced: not that of a malformed one."""
        return [not one.score.malformed for one in self.accounts]


def judge(own: Sequence[Trajectory | None], reward: Reward, policy: Policy) -> Judged:
    """Rewards, and advantages by group; a group with a score that is missing is left out.

    Args:
      own: this process's `crew.share` of the siblings of all groups.
      reward: the judge.
      policy: of the run.
    """
    found = iter(reward([one for one in own if one is not None]))
    scored = [(one, one and next(found)) for one in own]
    penalty = policy.reward.wrong_stop
    told = [score and Account.of(one, score, penalty) for one, score in scored]
    known = [Account.read(one) for one in crew.shared("rewards", told)]
    groups = [range(n, n + policy.group) for n in range(0, len(known), policy.group)]
    whole = [group for group in groups if all(known[n] is not None for n in group)]
    kept = [n for group in whole for n in group]
    accounts = [known[n] for n in kept]
    mine = dict(zip(crew.share(len(known)), own))
    trajectories = {place: mine[n] for place, n in enumerate(kept) if n in mine}
    advantages = _advantages(accounts, policy) if accounts else []
    return Judged(accounts, advantages, trajectories, len(groups) - len(whole))


def _advantages(accounts: Sequence[Account], policy: Policy) -> list[float]:
    """Of trajectories of whole groups."""
    worth = np.array([one.reward for one in accounts]).reshape(-1, policy.group)
    malformed = np.array([one.score.malformed for one in accounts]).reshape(-1, policy.group)
    options = {"scale": policy.scale, "clip": policy.advantage_clip}
    found = group_advantages(jnp.asarray(worth, jnp.float32), **options)
    return np.asarray(penalise_malformed(found, jnp.asarray(malformed))).ravel().tolist()


def iterate(
    reasoner: Reasoner,
    policy: Policy,
    asked: Sequence[Asked],
    reward: Reward,
    *,
    seed: int,
    clock: Clock,
    mesh: Mesh,
    folder: epath.Path,
) -> tuple[Judged, dict[str, jax.Array], int]:
    """Rolls out, judges and packs.

    Args:
      reasoner: the model of this moment, with `rollouts.settings_of`.
      policy: of the run.
      asked: the prompts.
      reward: the judge.
      seed: uint32 of all randomness.
      clock: what takes how long.
      mesh: of the update.
      folder: that all processes see, for what they pass to each other.

    Returns:
      What was judged, and `pack` of it; ({}, 0) where every group was left out.
    """
    with clock("rollout"):
        own = rollouts.roll(reasoner, policy, asked, seed=seed, folder=folder)
        crew.together("rollouts")
    with clock("reward"):
        judged = judge(own, reward, policy)
    if not judged.accounts:
        return judged, {}, 0
    with clock("pack"):
        spec, size = reasoner.engine.spec, reasoner.settings.size
        return judged, *pack(judged, spec, policy, size, mesh=mesh, folder=folder)


def pack(
    judged: Judged,
    spec: SampleSpec,
    policy: Policy,
    size: tuple[int, int],
    *,
    mesh: Mesh,
    folder: epath.Path,
) -> tuple[dict[str, jax.Array], int]:
    """What was judged as microbatches of rows; `size` is that of the pictures in pixels.

    Returns:
      Global arrays [M, rows, ...], M a power of two, and how many of the M hold anything.

    Raises:
      ConfigError: a trajectory is longer than a row.
    """
    moves, cell = policy.flow.weight > 0, spec.codec.stride * spec.latent_patch
    played = {n: rows.play(one, spec, moves=moves) for n, one in judged.trajectories.items()}
    outlines = crew.shared("outlines", [Outline.of(one) for one in played.values()])
    outlines = [Outline(*one) for one in outlines]
    plan = rows.plan(outlines, judged.credit, policy.budgets, per=policy.rows)
    numbers = update.fed(mesh, many=plan.many, per=plan.per)
    wanted = [{n for row in fed for n in plan.members[row]} for fed in numbers]
    played = passing.passed(played, wanted, folder)
    tokens = (size[0] // cell) * (size[1] // cell)
    given = judged.advantages, judged.credit, spec, policy.budgets
    fill = rows.Filler(plan, *given, image_tokens=tokens)
    made = {row: fill(row, played) for row in numbers[jax.process_index()]}
    return update.stacked(mesh, made, many=plan.many, per=plan.per), plan.count


def numbers(judged: Judged, policy: Policy) -> dict[str, float]:
    """What an iteration's rollouts were like, for the metrics.

    right/first and right/last are of first and last images; repair: wrong first images that end
    right; damage: right first images that end wrong (absent where there are none).
    """
    found = {"groups/dropped": float(judged.dropped)}
    accounts = judged.accounts
    if not accounts:
        return found
    values = np.array([one.reward for one in accounts])
    pairs = [(one.score.passed[0], one.score.passed[-1]) for one in accounts]
    wrong, right = (
        [last for first, last in pairs if first == is_right] for is_right in (False, True)
    )
    found |= _mean("repair", wrong) | _mean("damage", [not last for last in right])
    found |= _mean("length/text", [length for one in accounts for length in one.texts])
    return found | {
        "reward": statistics.fmean(values.tolist()),
        "right/first": statistics.fmean(first for first, _ in pairs),
        "right/last": statistics.fmean(last for _, last in pairs),
        "malformed": statistics.fmean(one.score.malformed for one in accounts),
        "images": statistics.fmean(len(one.score.images) for one in accounts),
        "stopped": statistics.fmean(one.ended == "stop" for one in accounts),
        "groups/equal": float((np.ptp(values.reshape(-1, policy.group), axis=1) == 0).mean()),
        **by_family(judged),
    }


def by_family(judged: Judged) -> dict[str, float]:
    """Mean reward of each kind of prompt."""
    groups: dict[str, list[float]] = {}
    for one in judged.accounts:
        groups.setdefault(one.family, []).append(one.reward)
    return {f"reward/{name}": statistics.fmean(found) for name, found in sorted(groups.items())}


def _mean(name: str, values: Sequence[float]) -> Mapping[str, float]:
    return {name: statistics.fmean(values)} if values else {}
