"""What a picture has to show: groups of things, how they are arranged, and nothing else.

Groups of a wish are of different kinds (shape, or shape and colour), so that every thing belongs to
one group at most whatever its size, and judging needs no search.
"""

from collections.abc import Sequence
from typing import NamedTuple

from unireason_jax.world.dice import Dice
from unireason_jax.world.hard.things import SIDE, Thing, Things, arranged
from unireason_jax.world.scenes import COLORS, SIZES, TRAIN_COLORS, cell_names, row_column

LINES = ("row", "column")
RELATIONS = ("left of", "right of", "above", "below")
HEIGHTS, WIDTHS = ("top", "bottom"), ("left", "right")
_ATTEMPTS = 400


class Group(NamedTuple):
    """`count` things of a kind; None is open.

    `line` asks for one row or column, `behind` for something large behind each, `without` for any
    colour but that one. `places` are quarters of the picture ("top left"), one for each in reading
    order: a sketch that a plan makes, which nothing is judged by.
    """

    count: int
    shape: str
    color: str | None = None
    size: str | None = None
    line: str | None = None
    behind: tuple[str, str] | None = None
    without: str | None = None
    places: tuple[str, ...] = ()

    def is_kin(self, thing: Thing) -> bool:
        """Whether a thing is of this kind, be it of another size or in front of something else."""
        return thing.shape == self.shape and self.color in (None, thing.color)


class Order(NamedTuple):
    """Every thing of group `subject` stands in `relation` to every one of group `target`."""

    subject: int
    relation: str
    target: int


class Wish(NamedTuple):
    """Exactly these groups, in any places that satisfy lines and orders."""

    groups: tuple[Group, ...]
    orders: tuple[Order, ...] = ()


def in_order(relation: str, one: str, other: str) -> bool:
    """Whether a cell is on that side of another: in a row above it, in a column left of it."""
    (row, col), (above, left) = row_column(one), row_column(other)
    return {
        "left of": col < left,
        "right of": col > left,
        "above": row < above,
        "below": row > above,
    }[relation]


def resolved(wish: Wish, dice: Dice) -> Wish:
    """The wish with every size and colour chosen, one size a group; groups of open colour split.

    Held-out pairs of shape and colour are never chosen.
    """
    groups: list[Group] = []
    for group in wish.groups:
        size = "small" if group.behind else group.size or dice.pick(SIZES)
        if group.color:
            groups.append(group._replace(size=size))
            continue
        colors = [c for c in TRAIN_COLORS[group.shape] if c != group.without]
        parts = 1 + (group.count > 1 and dice.chance(0.5))
        first = group.count if parts == 1 else 1 + dice.below(group.count - 1)
        for count, color in zip((first, group.count - first), dice.distinct(colors, parts)):
            groups.append(group._replace(count=count, color=color, size=size, without=None))
    return Wish(tuple(groups), wish.orders)


def objects_of(wish: Wish) -> int:
    """How many objects a picture of it shows."""
    return sum(group.count * (1 + (group.behind is not None)) for group in wish.groups)


def sketched(wish: Wish, things: Things, side: int = SIDE) -> Wish:
    """A resolved wish that says in which quarter of the picture its things stand."""
    groups = []
    for group in wish.groups:
        own = (thing.cell for thing in things if group.is_kin(thing))
        groups.append(group._replace(places=tuple(_quarter(cell, side) for cell in own)))
    return Wish(tuple(groups), wish.orders)


def _quarter(cell: str, side: int) -> str:
    row, col = row_column(cell)
    return f"{HEIGHTS[2 * row >= side]} {WIDTHS[2 * col >= side]}"


def sample_things(wish: Wish, dice: Dice, side: int = SIDE) -> Things:
    """Random places for a resolved wish.

    Raises:
        ValueError: none were found.
    """
    for _ in range(_ATTEMPTS):
        taken: set[str] = set()
        things: list[Thing] = []
        for group, (rows, cols) in zip(wish.groups, _bounds(wish, dice, side)):
            free = [
                cell for cell in cell_names(side) if cell not in taken and _inside(cell, rows, cols)
            ]
            cells = _cells(group, free, dice)
            if len(cells) < group.count:
                break
            taken |= set(cells)
            look = group.shape, group.color, group.size
            things += [Thing(*look, cell, group.behind) for cell in cells]
        else:
            return arranged(things)
    raise ValueError(f"no places for {wish}")


def _bounds(wish: Wish, dice: Dice, side: int) -> Sequence[tuple[list[int], list[int]]]:
    """Rows [first, end) and columns of each group, such that every order holds."""
    bounds = [([0, side], [0, side]) for _ in wish.groups]
    for subject, relation, target in wish.orders:
        axis = 0 if relation in ("above", "below") else 1
        first, last = (subject, target) if relation in ("above", "left of") else (target, subject)
        low, high = bounds[first][axis], bounds[last][axis]
        start, end = max(low[0], high[0]) + 1, min(low[1], high[1])
        cut = start + dice.below(max(end - start, 1))
        low[1], high[0] = min(low[1], cut), max(high[0], cut)
    return bounds


def _inside(cell: str, rows: Sequence[int], cols: Sequence[int]) -> bool:
    row, col = row_column(cell)
    return rows[0] <= row < rows[1] and cols[0] <= col < cols[1]


def _cells(group: Group, free: list[str], dice: Dice) -> list[str]:
    """Cells for a group among the free ones; too few where they have no room for it."""
    if group.line and free:
        axis = LINES.index(group.line)
        fixed = row_column(dice.pick(free))[axis]
        free = [cell for cell in free if row_column(cell)[axis] == fixed]
    return dice.distinct(free, group.count) if len(free) >= group.count else []


def any_color(shape: str, dice: Dice, other_than: Sequence[str] = ()) -> str:
    """A colour that training may show on a shape."""
    return dice.pick([c for c in TRAIN_COLORS[shape] if c not in other_than] or list(COLORS))
