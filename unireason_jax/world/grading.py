"""Partial credit: how much of what was asked for a picture shows.

A picture that passes the strict verdict is worth 1. Any other is worth less than a half (as in
UMM-Reflection's graded GenEval): 0.4 times the share of objects that are as wanted, surplus ones
counted against it. So right objects in wrong places are worth 0.4.
"""

from collections.abc import Sequence

import numpy as np

from unireason_jax.world.hard.judge import check_image
from unireason_jax.world.hard.wishes import Wish
from unireason_jax.world.parser import parse
from unireason_jax.world.requirements import Requirement
from unireason_jax.world.scenes import CELL
from unireason_jax.world.verifier import Seen, check

MOST = 0.4  # of a picture that does not pass


def grade(requirement: Requirement | Wish, image: np.ndarray) -> float:
    """Worth of a picture in [0, 1]: 1 where it passes, below a half elsewhere.

    Args:
        requirement: what was asked for; a wish is of the harder world, which grades by families.
        image: uint8 [H, W, 3].
    """
    if isinstance(requirement, Wish):
        return check_image(requirement, image).grade
    seen = parse(image)
    verdict = check(requirement, seen.objects, seen.residual, side=image.shape[0] // CELL)
    return 1.0 if verdict.passed else MOST * agreement(requirement, seen.objects)


def agreement(requirement: Requirement, objects: Sequence[Seen]) -> float:
    """Objects that are as wanted, over those wanted and those too many: in [0, 1]."""
    left = list(objects)
    found = 0
    for want in sorted(requirement.wants, key=lambda w: sum(v is None for v in w[:3])):
        for _ in range(want.count):
            match = next((seen for seen in left if want.matches(seen.look)), None)
            if match is not None:
                left.remove(match)
                found += 1
    return found / (len(requirement.slots) + len(left))
