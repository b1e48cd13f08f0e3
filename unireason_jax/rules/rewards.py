"""From scores of images to the reward of a trajectory (UMM-Reflection)."""

import itertools
from collections.abc import Sequence

PROGRESS, DAMAGE, PREMATURE = 0.3, 0.5, 0.5


def trajectory_reward(
    scores: Sequence[float], *, premature: bool, penalty: float = PREMATURE
) -> float:
    """What a trajectory of images earns (UMM-Reflection).

    The last score, plus 0.3 for all progress, plus 0.3 for progress beside the largest step of it,
    minus 0.5 for all damage, minus 0.5 for saying done while the picture is wrong. Damage weighs
    more than progress, so that breaking and repairing does not pay.

    Args:
      scores: of the images in order, the first draft's first; in [0, 1], at least one.
      premature: the model stopped at a wrong picture.
      penalty: what that costs.
    """
    steps = [after - before for before, after in itertools.pairwise(scores)]
    gains = [step for step in steps if step > 0]
    progress = sum(gains)
    further = progress - max(gains, default=0.0)
    damage = -sum(step for step in steps if step < 0)
    earned = scores[-1] + PROGRESS * (progress + further) - DAMAGE * damage
    return earned - penalty * premature
