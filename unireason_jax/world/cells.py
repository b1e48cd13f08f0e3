"""A lossless discrete codec for the world: every cell of a clean picture is one of a few.

It stands in for the VQ tokenizer of a large model that draws with codes: stride 8, no learned
weights. Code 0 is the empty cell, the others are objects in the order of `renderer.tiles`.
"""

import functools

import numpy as np

from unireason_jax.world.renderer import tiles
from unireason_jax.world.scenes import BACKGROUND, CELL


class CellCodes:
    """Encodes pictures whose sides are multiples of 8 to codes [H / 8, W / 8] and back.

    Attributes:
        stride: pixels per code and side, 8.
        codes: how many there are.
    """

    stride = CELL

    @functools.cached_property
    def table(self) -> np.ndarray:
        """The cells, uint8 [codes, 8, 8, 3]."""
        blank = np.full((CELL, CELL, 3), BACKGROUND, np.uint8)
        return np.stack([blank, *tiles().values()])

    @property
    def codes(self) -> int:
        """How many different cells there are."""
        return len(self.table)

    def encode(self, image: np.ndarray) -> np.ndarray:
        """uint8 [H, W, 3] -> int32 [H / 8, W / 8]; of a cell that is none of them, the nearest.

        Raises:
            ValueError: a side is not a multiple of 8.
        """
        height, width = image.shape[:2]
        if height % CELL or width % CELL:
            raise ValueError(f"image of {height} x {width} pixels: give multiples of {CELL}.")
        rows, columns = height // CELL, width // CELL
        cells = image.reshape(rows, CELL, columns, CELL, 3).transpose(0, 2, 1, 3, 4)
        flat = cells.reshape(rows * columns, 1, -1).astype(np.float32)
        known = self.table.reshape(1, len(self.table), -1).astype(np.float32)
        return np.square(flat - known).sum(-1).argmin(-1).reshape(rows, columns).astype(np.int32)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """int32 [h, w] -> uint8 [h * 8, w * 8, 3]."""
        rows, columns = codes.shape
        cells = self.table[np.clip(codes, 0, len(self.table) - 1)].transpose(0, 2, 1, 3, 4)
        return cells.reshape(rows * CELL, columns * CELL, 3)
