"""Program edits on scenes: apply them, and find the fewest that lead from one scene to another."""

from collections.abc import Iterable
from itertools import combinations
from typing import NamedTuple

from unireason_jax.world.scenes import Object, cell_of


class Edit(NamedTuple):
    """One edit of the object at `cell`.

    add: shape, colour, size are the new object's. change: those given replace the object's.
    move: `to` is the free cell it goes to. swap: `to` is the other object's cell. none: no edit.
    """

    op: str
    cell: str = ""
    to: str = ""
    shape: str | None = None
    color: str | None = None
    size: str | None = None


NO_CHANGE = Edit("none")


def apply_edit(objects: Iterable[Object], edit: Edit) -> tuple[Object, ...]:
    """Return the objects after one edit, in reading order.

    Raises:
        ValueError: when the edit names an empty or a taken cell, or the op is unknown.
    """
    by_cell = {obj.cell: obj for obj in objects}
    op, cell, to = edit[:3]
    if op == "none":
        return tuple(sorted(by_cell.values(), key=cell_of))
    if (cell in by_cell) != (op != "add"):
        raise ValueError(
            f"cannot {op} at {cell}: the cell is {'taken' if op == 'add' else 'empty'}"
        )
    if op == "add":
        by_cell[cell] = Object(edit.shape, edit.color, edit.size or "large", cell)
    elif op == "remove":
        del by_cell[cell]
    elif op == "change":
        old = by_cell[cell]
        look = (edit.shape or old.shape, edit.color or old.color, edit.size or old.size)
        by_cell[cell] = Object(*look, cell)
    elif op in ("move", "swap"):
        if (to in by_cell) != (op == "swap"):
            raise ValueError(f"cannot {op} {cell} and {to}: wrong occupancy of {to}")
        here, there = by_cell.pop(cell), by_cell.pop(to, None)
        by_cell[to] = here._replace(cell=to)
        if there is not None:
            by_cell[cell] = there._replace(cell=cell)
    else:
        raise ValueError(f"unknown edit {op!r}; use add, remove, change, move, swap or none")
    return tuple(sorted(by_cell.values(), key=cell_of))


def diff(target: Iterable[Object], found: Iterable[Object]) -> list[Edit]:
    """Return few edits that turn `found` into `target`, both given as objects with cells.

    Objects in the right cell are changed in place; pairs that only changed places are swapped or
    moved; the rest is removed and added. Applied in the order given, every edit is possible; a
    cell seen twice keeps its first object and the others cannot be edited away.
    """
    goal = {obj.cell: obj for obj in target}
    seen: dict[str, Object] = {}
    for obj in found:
        seen.setdefault(obj.cell, obj)
    edits: list[Edit] = []
    wrong = [cell for cell in sorted(goal) if cell in seen and seen[cell] != goal[cell]]
    for first, second in combinations(wrong, 2):
        if first in wrong and second in wrong:
            if (seen[first].look, seen[second].look) == (goal[second].look, goal[first].look):
                edits.append(Edit("swap", first, second))
                wrong = [cell for cell in wrong if cell not in (first, second)]
    for cell in wrong:
        size = None if seen[cell].size == goal[cell].size else goal[cell].size
        edits.append(Edit("change", cell, "", goal[cell].shape, goal[cell].color, size))
    missing = [goal[cell] for cell in sorted(goal) if cell not in seen]
    for cell in sorted(seen):
        if cell in goal:
            continue
        twin = next((obj for obj in missing if obj.look == seen[cell].look), None)
        if twin is None:
            edits.append(Edit("remove", cell))
        else:
            missing.remove(twin)
            edits.append(Edit("move", cell, twin.cell))
    edits += [Edit("add", obj.cell, "", *obj.look) for obj in missing]
    return sorted(edits, key=lambda edit: edit.cell)
