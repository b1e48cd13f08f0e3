"""Scenes: coloured shapes on a small grid, and what a prompt or a fact demands of them.

A canvas is `side` x `side` cells of `CELL` pixels; a cell holds at most one object and is called
by row letter and column number, `a1` (top left) to `d4`. Cell names sort in reading order.
"""

import zlib
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, NamedTuple

CELL = 8
SIDE = 4
NANO_SIDE = 3
SHAPES = ("circle", "square", "triangle", "cross")
SIZES = ("small", "large")
PALETTE = {
    "red": (230, 25, 25),
    "green": (20, 170, 40),
    "blue": (40, 70, 240),
    "yellow": (250, 235, 30),
    "magenta": (235, 40, 220),
    "cyan": (30, 225, 235),
    "orange": (255, 125, 0),
    "white": (255, 255, 255),
}
COLORS = tuple(PALETTE)
BACKGROUND = (16, 16, 20)
CENTRE = 3.0

HELD_OUT_PAIRS = frozenset(
    {("circle", "magenta"), ("square", "cyan"), ("triangle", "orange"), ("cross", "white")}
)
PAIRS = tuple((shape, color) for shape in SHAPES for color in COLORS)
TRAIN_PAIRS = tuple(pair for pair in PAIRS if pair not in HELD_OUT_PAIRS)
TRAIN_COLORS = {s: tuple(c for c in COLORS if (s, c) not in HELD_OUT_PAIRS) for s in SHAPES}
TRAIN_SHAPES = {c: tuple(s for s in SHAPES if (s, c) not in HELD_OUT_PAIRS) for c in COLORS}


class Object(NamedTuple):
    """One object: shape, colour and size words and the name of its cell."""

    shape: str
    color: str
    size: str
    cell: str

    @property
    def look(self) -> tuple[str, str, str]:
        """The object without its place: (shape, colour, size)."""
        return self[:3]


class Scene(NamedTuple):
    """Objects in reading order on a grid of `side` x `side` cells."""

    objects: tuple[Object, ...]
    side: int = SIDE

    @property
    def pixels(self) -> int:
        """Height and width of the canvas in pixels."""
        return self.side * CELL

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able description."""
        return {"side": self.side, "objects": [obj._asdict() for obj in self.objects]}


def make_scene(objects: Iterable[Object], side: int = SIDE) -> Scene:
    """Return a scene with its objects in reading order.

    Raises:
        ValueError: when a cell is outside the grid or holds two objects.
    """
    ordered = tuple(sorted(objects, key=cell_of))
    cells = [obj.cell for obj in ordered]
    if len(set(cells)) != len(cells):
        raise ValueError(f"two objects share a cell in {cells}")
    outside = [cell for cell in cells if cell not in cell_names(side)]
    if outside:
        raise ValueError(f"cells {outside} are outside the {side} x {side} grid")
    return Scene(ordered, side)


def scene_from_dict(raw: dict[str, Any]) -> Scene:
    """Return the scene that `Scene.to_dict` described."""
    return make_scene((Object(**obj) for obj in raw["objects"]), raw["side"])


def cell_of(obj: Object) -> str:
    """Return the name of an object's cell (a sort key for reading order)."""
    return obj.cell


@lru_cache
def cell_names(side: int = SIDE) -> tuple[str, ...]:
    """Return the names of all cells in reading order: a1, a2, ... (index = row * side + column)."""
    return tuple(f"{chr(97 + row)}{col + 1}" for row in range(side) for col in range(side))


def row_column(cell: str) -> tuple[int, int]:
    """Return the (row, column) of a cell name, both counted from 0."""
    return ord(cell[0]) - 97, ord(cell[1]) - 49


def centre(cell: str) -> tuple[float, float]:
    """Return the pixel (y, x) at the centre of an object drawn in a cell."""
    row, col = row_column(cell)
    return row * CELL + CENTRE, col * CELL + CENTRE


def nearest_cell(y: float, x: float, side: int = SIDE) -> str:
    """Return the name of the cell that the pixel (y, x) lies in, clipped to the grid."""
    row = min(max(int(y // CELL), 0), side - 1)
    col = min(max(int(x // CELL), 0), side - 1)
    return cell_names(side)[row * side + col]


def is_held_out_prompt(prompt: str) -> bool:
    """Return whether a prompt string belongs to the 10 % that training never sees.

    The rule is CRC-32 of the text modulo 10, stable over platforms, Python versions and seeds.
    """
    return zlib.crc32(prompt.encode()) % 10 == 3


def has_held_out_pair(objects: Iterable[Object]) -> bool:
    """Return whether any object has a (shape, colour) pair that training never sees."""
    return any((obj.shape, obj.color) in HELD_OUT_PAIRS for obj in objects)
