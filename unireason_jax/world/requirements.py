"""What a picture has to show: a multiset of object constraints and relations between them.

A requirement says nothing about what it leaves open, so it stands for the whole set of scenes that
satisfy it. The same predicate on centre differences decides relations for scenes and for parsed
pictures; on cell centres it holds with at least one pixel to spare for each object.
"""

from functools import lru_cache
from typing import Any, NamedTuple

from unireason_jax.world.dice import Dice
from unireason_jax.world.scenes import (
    CELL,
    COLORS,
    HELD_OUT_PAIRS,
    SHAPES,
    SIDE,
    SIZES,
    TRAIN_COLORS,
    TRAIN_PAIRS,
    TRAIN_SHAPES,
    Object,
    Scene,
    cell_names,
    centre,
    make_scene,
    row_column,
)

POSITIONS = ("left of", "right of", "above", "below")
RELATIONS = (*POSITIONS, "beside", "apart", "row", "column")
REGIONS = ("top", "bottom", "left", "right", "corner", "middle")
DEAD_ZONE = CELL / 2
DOMINANCE = 2.0
_ATTEMPTS = 200


class Want(NamedTuple):
    """`count` objects of which each has the attributes that are given; None is open.

    `region` is a cell name or one of `REGIONS`.
    """

    shape: str | None = None
    color: str | None = None
    size: str | None = None
    region: str | None = None
    count: int = 1

    def matches(self, look: tuple[str, str, str]) -> bool:
        """Return whether a (shape, colour, size) has every attribute that is given."""
        return (
            self.shape in (None, look[0])
            and self.color in (None, look[1])
            and self.size in (None, look[2])
        )


class Relation(NamedTuple):
    """Every object of want `subject` stands in `relation` to every object of want `target`."""

    subject: int
    relation: str
    target: int


class Requirement(NamedTuple):
    """Exactly these objects, in any layout that satisfies the relations."""

    wants: tuple[Want, ...]
    relations: tuple[Relation, ...] = ()

    @property
    def slots(self) -> list[int]:
        """The want index of every demanded object."""
        return [i for i, want in enumerate(self.wants) for _ in range(want.count)]

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able description that leaves out what is open."""
        wants = [{k: v for k, v in w._asdict().items() if v is not None} for w in self.wants]
        return {"wants": wants, "relations": [list(relation) for relation in self.relations]}


def requirement_from_dict(raw: dict[str, Any]) -> Requirement:
    """Return the requirement that `Requirement.to_dict` described."""
    wants = tuple(Want(**want) for want in raw["wants"])
    return Requirement(wants, tuple(Relation(*relation) for relation in raw["relations"]))


def requirement_of(scene: Scene) -> Requirement:
    """Return the requirement that only this very scene satisfies."""
    return Requirement(tuple(Want(*obj) for obj in scene.objects))


def related(relation: str, dy: float, dx: float) -> bool:
    """Return whether a subject at offset (dy, dx) pixels from its target is in the relation.

    The four positions need a dead zone of half a cell and a dominant axis; `beside` is a
    neighbouring cell, `apart` anything that is not even a diagonal neighbour.

    Raises:
        KeyError: for an unknown relation word.
    """
    down, across = abs(dy), abs(dx)
    if relation == "left of":
        return -dx >= DEAD_ZONE and across >= down + DOMINANCE
    if relation == "right of":
        return dx >= DEAD_ZONE and across >= down + DOMINANCE
    if relation == "above":
        return -dy >= DEAD_ZONE and down >= across + DOMINANCE
    if relation == "below":
        return dy >= DEAD_ZONE and down >= across + DOMINANCE
    if relation == "beside":
        return DEAD_ZONE <= down + across <= 1.5 * CELL
    if relation == "apart":
        return max(down, across) >= 1.5 * CELL
    if relation == "row":
        return down <= DEAD_ZONE / 2
    if relation == "column":
        return across <= DEAD_ZONE / 2
    raise KeyError(f"unknown relation {relation!r}; use one of {RELATIONS}")


def in_region(region: str, cell: str, side: int = SIDE) -> bool:
    """Return whether a cell lies in a region (a cell name or one of `REGIONS`).

    Raises:
        KeyError: for an unknown region word.
    """
    row, col = row_column(cell)
    last = side - 1
    if region == "top":
        return row == 0
    if region == "bottom":
        return row == last
    if region == "left":
        return col == 0
    if region == "right":
        return col == last
    if region == "corner":
        return row in (0, last) and col in (0, last)
    if region == "middle":
        return 0 < row < last and 0 < col < last
    if region in cell_names(side):
        return region == cell
    raise KeyError(f"unknown region {region!r}; use a cell name or one of {REGIONS}")


@lru_cache(maxsize=4096)
def _region_bits(region: str | None, side: int) -> int:
    cells = cell_names(side)
    return sum(1 << i for i, c in enumerate(cells) if region is None or in_region(region, c, side))


@lru_cache(maxsize=4096)
def _related_bits(relation: str, target: int, side: int, as_subject: bool) -> int:
    """Bits of the cells that are in the relation to a cell (or, not as_subject, have it as one)."""
    cells = cell_names(side)
    y, x = centre(cells[target])
    bits = 0
    for i, cell in enumerate(cells):
        dy, dx = centre(cell)[0] - y, centre(cell)[1] - x
        if i != target and related(relation, *((dy, dx) if as_subject else (-dy, -dx))):
            bits |= 1 << i
    return bits


@lru_cache(maxsize=1 << 16)
def _members(bits: int) -> tuple[int, ...]:
    return tuple(i for i in range(bits.bit_length()) if bits >> i & 1)


def sample_look(want: Want, dice: Dice, *, unseen_pairs: bool = False) -> tuple[str, str, str]:
    """Fill in what a want leaves open, uniformly; held-out pairs only if `unseen_pairs`."""
    shape, color = want.shape, want.color
    if shape is None and color is None:
        shape, color = dice.pick(TRAIN_PAIRS)
    elif shape is None:
        shape = dice.pick(SHAPES if unseen_pairs else TRAIN_SHAPES[color])
    elif color is None:
        color = dice.pick(COLORS if unseen_pairs else TRAIN_COLORS[shape])
    return shape, color, want.size or dice.pick(SIZES)


def sample_cells(requirement: Requirement, dice: Dice, side: int = SIDE) -> list[str]:
    """Return different cells, one for each slot, that satisfy regions and relations.

    Raises:
        ValueError: when no layout was found (the requirement contradicts itself or the grid).
    """
    names = cell_names(side)
    slots = requirement.slots
    for _ in range(_ATTEMPTS):
        free = (1 << len(names)) - 1
        placed: list[int] = []
        for slot in slots:
            options = free & _region_bits(requirement.wants[slot].region, side)
            for subject, relation, target in requirement.relations:
                for other, cell in zip(slots, placed):
                    if subject == slot and target == other:
                        options &= _related_bits(relation, cell, side, True)
                    if target == slot and subject == other:
                        options &= _related_bits(relation, cell, side, False)
            if not options:
                break
            cell = dice.pick(_members(options))
            placed.append(cell)
            free &= ~(1 << cell)
        else:
            return [names[cell] for cell in placed]
    raise ValueError(f"no layout on a {side} x {side} grid satisfies {requirement}")


def sample_scene(
    requirement: Requirement, dice: Dice, side: int = SIDE, *, unseen_pairs: bool = False
) -> Scene:
    """Return a random scene that satisfies the requirement.

    Held-out (shape, colour) pairs appear only when the requirement names them, or for
    `unseen_pairs`.
    """
    looks = [
        sample_look(requirement.wants[slot], dice, unseen_pairs=unseen_pairs)
        for slot in requirement.slots
    ]
    cells = sample_cells(requirement, dice, side)
    return make_scene((Object(*look, cell) for look, cell in zip(looks, cells)), side)


def names_held_out_pair(requirement: Requirement) -> bool:
    """Return whether the requirement itself asks for a held-out (shape, colour) pair."""
    return any((want.shape, want.color) in HELD_OUT_PAIRS for want in requirement.wants)


def geneval_record(tag: str, prompt: str, requirement: Requirement) -> dict[str, Any]:
    """Return the prompt in GenEval's JSONL schema, with `class` = shape.

    Keys beyond GenEval's own: `size` in an include clause.
    """
    include = []
    for i, want in enumerate(requirement.wants):
        clause: dict[str, Any] = {"class": want.shape, "count": want.count}
        if want.color:
            clause["color"] = want.color
        if want.size:
            clause["size"] = want.size
        for subject, relation, target in requirement.relations:
            if subject == i:
                clause["position"] = [relation, target]
        include.append(clause)
    record: dict[str, Any] = {"tag": tag, "include": include}
    if tag == "counting":
        record["exclude"] = [{"class": c["class"], "count": c["count"] + 1} for c in include]
    return {**record, "prompt": prompt}
