"""Reads a picture cell by cell: of all cells that there can be, the nearest one.

`MUSHY` is part of the benchmark: change it, and results of before no longer compare.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from unireason_jax.world.hard.things import SIDES, Look, Thing, Things, tiles
from unireason_jax.world.scenes import BACKGROUND, CELL, cell_names

MUSHY = 60.0
"""Distance in RGB from which a pixel counts as unexplained."""


class Seen(NamedTuple):
    """What a picture shows, in reading order, and the fraction of pixels that it leaves open."""

    things: Things
    residual: float


@lru_cache
def _table() -> tuple[list[Look | None], np.ndarray, np.ndarray]:
    blank = np.full((CELL, CELL, 3), BACKGROUND, np.uint8)
    looks: list[Look | None] = [None, *tiles()]
    flat = np.stack([blank, *tiles().values()]).reshape(len(looks), -1).astype(np.float32)
    return looks, flat, (flat * flat).sum(1)


def read(image: np.ndarray) -> Seen:
    """What a picture [8 side, 8 side, 3] of values 0..255 shows.

    Raises:
        ValueError: a picture of another size.
    """
    side = image.shape[0] // CELL
    if side not in SIDES or image.shape != (side * CELL, side * CELL, 3):
        edges = " or ".join(str(cells * CELL) for cells in SIDES)
        raise ValueError(f"expected a square picture of {edges} pixels, not {image.shape}")
    looks, flat, norms = _table()
    cells = image.reshape(side, CELL, side, CELL, 3).transpose(0, 2, 1, 3, 4)
    cells = cells.reshape(side * side, -1).astype(np.float32)
    nearest = (norms - 2 * cells @ flat.T).argmin(1)
    gap = (cells - flat[nearest]).reshape(side * side, CELL * CELL, 3)
    residual = float(((gap * gap).sum(-1) > MUSHY * MUSHY).mean())
    found = zip(cell_names(side), nearest.tolist())
    things = (Thing(*looks[n][:3], cell, looks[n][3]) for cell, n in found if n)
    return Seen(tuple(things), residual)
