"""Draw scenes: hard edges, no anti-aliasing, one object per cell.

A large object covers 7 x 7 pixels of its 8 x 8 cell, a small one 5 x 5, both with the same centre
pixel, so neighbours keep a gap of at least one pixel.
"""

from functools import lru_cache

import numpy as np

from unireason_jax.world.scenes import (
    BACKGROUND,
    CELL,
    PALETTE,
    SHAPES,
    SIZES,
    Scene,
    row_column,
)

DIAMETER = {"small": 5, "large": 7}
WINDOW = 7


def shape_mask(shape: str, size: str) -> np.ndarray:
    """Return the bool [7, 7] mask of a shape, centred on pixel (3, 3).

    Raises:
        KeyError: for an unknown shape or size word.
    """
    diameter = DIAMETER[size]
    radius = diameter // 2
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    drawings = {
        "circle": y * y + x * x <= radius * radius + 1,
        "square": np.ones_like(y, bool),
        "triangle": 2 * np.abs(x) <= y + radius + 1,
        "cross": (np.minimum(np.abs(y - x), np.abs(y + x)) <= 1) & (np.abs(y) + np.abs(x) < 6),
    }
    margin = (WINDOW - diameter) // 2
    return np.pad(drawings[shape], margin)


@lru_cache
def tiles() -> dict[tuple[str, str, str], np.ndarray]:
    """Return the 8 x 8 x 3 uint8 picture of every (shape, colour, size)."""
    table = {}
    for shape in SHAPES:
        for size in SIZES:
            mask = np.pad(shape_mask(shape, size), ((0, CELL - WINDOW), (0, CELL - WINDOW)))
            for color, rgb in PALETTE.items():
                tile = np.where(mask[..., None], rgb, BACKGROUND).astype(np.uint8)
                tile.flags.writeable = False
                table[shape, color, size] = tile
    return table


@lru_cache
def blank(side: int) -> np.ndarray:
    """Return the read-only empty canvas, uint8 [side * 8, side * 8, 3]."""
    canvas = np.full((side * CELL, side * CELL, 3), BACKGROUND, np.uint8)
    canvas.flags.writeable = False
    return canvas


def render(scene: Scene) -> np.ndarray:
    """Draw a scene: uint8 [H, W, 3] with H = W = 8 * side."""
    image = blank(scene.side).copy()
    table = tiles()
    for shape, color, size, cell in scene.objects:
        row, col = row_column(cell)
        image[row * CELL : row * CELL + CELL, col * CELL : col * CELL + CELL] = table[
            shape, color, size
        ]
    return image
