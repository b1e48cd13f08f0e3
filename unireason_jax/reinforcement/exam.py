"""Held-out prompts during a reinforcement run: how often the model is right, and does it repair."""

from collections.abc import Sequence

from unireason_jax.evals.rates import Rate, wilson
from unireason_jax.inference.reasoner import Reasoner
from unireason_jax.reinforcement import crew, rollouts
from unireason_jax.reinforcement.prompts import Asked
from unireason_jax.reinforcement.rewards import Reward, Score
from unireason_jax.reinforcement.settings import Policy

SEED = 20_26  # of all draws: every examination of a run sees the same noise


def examine(
    reasoner: Reasoner, policy: Policy, asked: Sequence[Asked], reward: Reward
) -> dict[str, Rate]:
    """Rates with 95 % intervals, of all prompts; every process examines its share of them.

    Args:
      reasoner: the model, with the settings that it is used with: no noise, likeliest words.
      policy: template and rounds.
      asked: held-out prompts.
      reward: the judge; prompts whose score is missing are left out.

    Returns:
      right_first and right_last of first and last images, repair of wrong first images, damage to
      right ones.
    """
    own = [asked[n] for n in crew.share(len(asked))]
    found = reward(rollouts.play_out(reasoner, policy, own, seed=SEED))
    told = crew.shared("examination", [score and score.plain() for score in found])
    return rates([Score(*score) for score in told if score is not None])


def rates(scores: Sequence[Score]) -> dict[str, Rate]:
    """The rates of `examine`."""
    pairs = [(score.passed[0], score.passed[-1]) for score in scores]
    return {
        "right_first": wilson(first for first, _ in pairs),
        "right_last": wilson(last for _, last in pairs),
        "repair": wilson(last for first, last in pairs if not first),
        "damage": wilson(not last for first, last in pairs if first),
    }


def numbers(found: dict[str, Rate]) -> dict[str, float]:
    """Rates that have anything to count, with their intervals, for the metrics."""
    return {
        f"eval/{name}{end}": value
        for name, rate in found.items()
        if rate.count
        for end, value in (("", rate.value), ("_low", rate.low), ("_high", rate.high))
    }
