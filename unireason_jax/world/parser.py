"""Read a picture back into objects: matching pursuit over shape, size, colour and place.

For a colour k with value p_k the gain of explaining pixel x by it instead of the background b is
s_k(x) = |x - b|^2 - |x - p_k|^2 = 2 (x - b) . (p_k - b) - |p_k - b|^2, the log likelihood ratio
under isotropic Gaussian noise. The best sum of s_k over a template at any offset is accepted while
it reaches `ACCEPT` of what the clean object would give; the template and its one-pixel skirt are
erased, and the search repeats. `ACCEPT`, `MUSHY` and `MAX_OBJECTS` are part of the benchmark:
change none of them without renaming it.
"""

from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from unireason_jax.world.renderer import WINDOW, shape_mask
from unireason_jax.world.scenes import (
    BACKGROUND,
    CELL,
    COLORS,
    PALETTE,
    SHAPES,
    SIZES,
    Object,
    nearest_cell,
)

ACCEPT = 0.4
MUSHY = 60.0
MAX_OBJECTS = 12
_PAD = 2
_HALF = WINDOW // 2


class Found(NamedTuple):
    """One object seen in a picture: its look, centre pixel, and gain as a fraction of ideal."""

    shape: str
    color: str
    size: str
    y: float
    x: float
    fit: float

    @property
    def look(self) -> tuple[str, str, str]:
        """The object without its place: (shape, colour, size)."""
        return self[:3]


class Parse(NamedTuple):
    """All objects seen in a picture and the fraction of pixels that none of them explains."""

    objects: tuple[Found, ...]
    residual: float


class _Templates(NamedTuple):
    looks: list[tuple[str, str]]
    masks: np.ndarray  # f32 [49, M]
    skirts: np.ndarray  # bool [M, 9, 9]
    directions: np.ndarray  # f32 [3, K], 2 (p_k - b)
    ideal: np.ndarray  # f32 [M, K]
    offset: np.ndarray  # f32 [M, K], n_m |p_k - b|^2


@lru_cache
def _templates() -> _Templates:
    looks = [(shape, size) for shape in SHAPES for size in SIZES]
    masks = np.stack([shape_mask(*look) for look in looks])
    wide = np.pad(masks, ((0, 0), (1, 1), (1, 1)))
    skirts = np.zeros_like(wide)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            skirts |= np.roll(wide, (dy, dx), (1, 2))
    contrast = np.array(list(PALETTE.values()), np.float32) - np.array(BACKGROUND, np.float32)
    areas = masks.sum((1, 2)).astype(np.float32)
    energy = areas[:, None] * (contrast**2).sum(1)
    flat = masks.reshape(len(looks), -1).T.astype(np.float32)
    return _Templates(looks, np.ascontiguousarray(flat), skirts, 2 * contrast.T, energy, energy)


def _gains(excess: np.ndarray, bank: _Templates) -> np.ndarray:
    """Gain f32 [h - 6, w - 6, M, K] of every template and colour at every window of [h, w, 3]."""
    windows = np.lib.stride_tricks.sliding_window_view(excess, (WINDOW, WINDOW), axis=(0, 1))
    rows, cols = windows.shape[:2]
    sums = windows.reshape(rows * cols * 3, WINDOW * WINDOW) @ bank.masks
    sums = sums.reshape(rows * cols, 3, -1).transpose(0, 2, 1)
    gains = sums.reshape(-1, 3) @ bank.directions
    return gains.reshape(rows, cols, *bank.offset.shape) - bank.offset


def parse(image: np.ndarray) -> Parse:
    """Return the objects in a picture and its unexplained fraction.

    Args:
        image: uint8 or float [H, W, 3] in 0..255.

    Raises:
        ValueError: when the array is not [H, W, 3].
    """
    if image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"expected a picture [H, W, 3], got {image.shape}")
    bank = _templates()
    height, width = image.shape[:2]
    excess = np.zeros((height + 2 * _PAD, width + 2 * _PAD, 3), np.float32)
    excess[_PAD:-_PAD, _PAD:-_PAD] = image
    excess[_PAD:-_PAD, _PAD:-_PAD] -= np.array(BACKGROUND, np.float32)
    gains = _gains(excess, bank)
    found = []
    while len(found) < MAX_OBJECTS:
        row, col, mask, color = np.unravel_index(int(gains.argmax()), gains.shape)
        fit = float(gains[row, col, mask, color] / bank.ideal[mask, color])
        if fit < ACCEPT:
            break
        shape, size = bank.looks[mask]
        y, x = row + _HALF - _PAD, col + _HALF - _PAD
        found.append(Found(shape, COLORS[color], size, float(y), float(x), fit))
        _erase(excess, bank.skirts[mask], row, col)
        top, left = max(row - WINDOW, 0), max(col - WINDOW, 0)
        bottom, right = row + 2 * WINDOW + 1, col + 2 * WINDOW + 1
        region = _gains(excess[top:bottom, left:right], bank)
        gains[top : top + region.shape[0], left : left + region.shape[1]] = region
    rest = excess[_PAD:-_PAD, _PAD:-_PAD]
    residual = float(((rest * rest).sum(-1) > MUSHY * MUSHY).mean())
    found.sort(key=lambda seen: nearest_cell(seen.y, seen.x, height // CELL))
    return Parse(tuple(found), residual)


def _erase(excess: np.ndarray, skirt: np.ndarray, row: int, col: int) -> None:
    top, left = max(row - 1, 0), max(col - 1, 0)
    view = excess[top : row + WINDOW + 1, left : col + WINDOW + 1]
    view[skirt[top - row + 1 :, left - col + 1 :][: view.shape[0], : view.shape[1]]] = 0


def to_objects(found: Iterable[Found], side: int) -> tuple[Object, ...]:
    """Return seen objects as scene objects in the nearest cells (cells may repeat), in order."""
    objects = [Object(*seen.look, nearest_cell(seen.y, seen.x, side)) for seen in found]
    return tuple(sorted(objects, key=lambda obj: obj.cell))
