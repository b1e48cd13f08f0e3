"""The exact judge of the harder world: family by family, how much of a wish a picture shows."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from unireason_jax.world.hard.reader import read
from unireason_jax.world.hard.things import Thing
from unireason_jax.world.hard.wishes import LINES, Wish, in_order
from unireason_jax.world.scenes import row_column

FAMILIES = ("count", "attribute", "occlusion", "line", "order", "extra")
MAX_RESIDUAL = 0.06
MOST = 0.49  # worth of a picture that is not right


class Verdict(NamedTuple):
    """What is right, by family: shares in [0, 1] of the families that a wish has; `extra` always.

    `residual` is the unexplained fraction of pixels.
    """

    shares: dict[str, float]
    residual: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether everything is right, and the picture clear."""
        return all(share == 1 for share in self.shares.values()) and self.residual <= MAX_RESIDUAL

    @property
    def grade(self) -> float:
        """1 where it passes; elsewhere the mean share, scaled to stay below a half."""
        return 1.0 if self.passed else MOST * sum(self.shares.values()) / len(self.shares)


def check(wish: Wish, things: Sequence[Thing], residual: float = 0.0) -> Verdict:
    """Holds things against a wish."""
    kin = [[thing for thing in things if group.is_kin(thing)] for group in wish.groups]
    groups = list(zip(wish.groups, kin))
    found: dict[str, list[float]] = {name: [] for name in FAMILIES}
    for group, own in groups:
        found["count"].append(max(0.0, 1 - abs(len(own) - group.count) / group.count))
        if group.size or group.without:
            right = [
                group.size in (None, thing.size) and thing.color != group.without for thing in own
            ]
            found["attribute"].append(_share(right))
        found["occlusion"].append(_share([thing.behind == group.behind for thing in own]))
        if group.line:
            found["line"].append(_in_line(own, LINES.index(group.line)))
    for subject, relation, target in wish.orders:
        pairs = [(a.cell, b.cell) for a in kin[subject] for b in kin[target]]
        found["order"].append(_share([in_order(relation, *pair) for pair in pairs]))
    strangers = len(things) - sum(map(len, kin))
    found["extra"].append(1 / (1 + strangers))
    shares = {name: sum(values) / len(values) for name, values in found.items() if values}
    return Verdict(shares, residual)


def check_image(wish: Wish, image: np.ndarray) -> Verdict:
    """The verdict on a picture, uint8 [48, 48, 3]."""
    seen = read(image)
    return check(wish, seen.things, seen.residual)


def _share(right: Sequence[bool]) -> float:
    """The share that is right; nothing to be wrong is no credit."""
    return sum(right) / len(right) if right else 0.0


def _in_line(things: Sequence[Thing], axis: int) -> float:
    """The largest share of things in one row (axis 0) or column (1)."""
    if not things:
        return 0.0
    return float(np.bincount([row_column(t.cell)[axis] for t in things]).max() / len(things))
