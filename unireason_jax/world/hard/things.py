"""What stands in a cell, and its picture.

A cell holds nothing, one object, or a small object in front of a large circle or square: those
cover every small shape, so that the picture of both lies in the span of `world.basis`.
"""

from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from unireason_jax.world import renderer
from unireason_jax.world.scenes import CELL, COLORS, SHAPES, cell_names, row_column

SIDE = 6
SIDES = (4, 5, 6)
"""Cells per side: as a rule, and of the canvases that there are."""
BACKS = ("circle", "square")


class Thing(NamedTuple):
    """An object, the name of its cell, and the large (shape, colour) behind it, if any."""

    shape: str
    color: str
    size: str
    cell: str
    behind: tuple[str, str] | None = None

    @property
    def look(self) -> tuple[str, str, str, tuple[str, str] | None]:
        """The thing without its place."""
        return self.shape, self.color, self.size, self.behind


Things = tuple[Thing, ...]
Look = tuple[str, str, str, tuple[str, str] | None]


def arranged(things: Iterable[Thing]) -> Things:
    """Things in reading order.

    Raises:
        ValueError: a cell outside of the canvas, or one that holds two things; or something large
            in front of something.
    """
    ordered = tuple(sorted(things, key=lambda thing: thing.cell))
    cells = [thing.cell for thing in ordered]
    if len(set(cells)) < len(cells) or not set(cells) <= set(cell_names(SIDE)):
        raise ValueError(f"cells {cells} are not different cells of {SIDE} x {SIDE}")
    for thing in ordered:
        if thing.behind and (thing.size != "small" or thing.behind[0] not in BACKS):
            raise ValueError(f"{thing}: only small things stand in front, of one of {BACKS}")
    return ordered


def objects(things: Iterable[Thing]) -> int:
    """How many objects are painted."""
    return sum(1 + (thing.behind is not None) for thing in things)


@lru_cache
def tiles() -> dict[Look, np.ndarray]:
    """The uint8 [8, 8, 3] picture of every look."""
    alone = renderer.tiles()
    found: dict[Look, np.ndarray] = {(*look, None): tile for look, tile in alone.items()}
    for shape in SHAPES:
        mask = np.pad(renderer.shape_mask(shape, "small"), ((0, 1), (0, 1)))[..., None]
        for color in COLORS:
            front = alone[shape, color, "small"]
            for back in BACKS:
                for other in COLORS:
                    if other != color:
                        tile = np.where(mask, front, alone[back, other, "large"])
                        found[shape, color, "small", (back, other)] = tile
    return found


def most_objects(side: int) -> int:
    """How many objects a canvas shows at most: 9 on 6 x 6 cells, 5 on 4 x 4."""
    return 2 * side - 3


def render(things: Iterable[Thing], side: int = SIDE) -> np.ndarray:
    """Paints things: uint8 [8 side, 8 side, 3]."""
    image, table = renderer.blank(side).copy(), tiles()
    for thing in things:
        row, col = row_column(thing.cell)
        place = np.s_[row * CELL : row * CELL + CELL, col * CELL : col * CELL + CELL]
        image[place] = table[thing.look]
    return image
