"""What to change: the fewest program edits from what is seen to what was asked for."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from unireason_jax.world.dice import Dice
from unireason_jax.world.edits import Edit, diff
from unireason_jax.world.renderer import render
from unireason_jax.world.requirements import Requirement, Want, in_region, sample_scene
from unireason_jax.world.scenes import (
    CELL,
    SIDE,
    Object,
    Scene,
    cell_names,
    centre,
    make_scene,
    row_column,
)
from unireason_jax.world.verifier import Seen, agrees, cell_seen, check

_SEARCH_LIMIT = 6


def closest_scene(requirement: Requirement, objects: Sequence[Object], side: int = SIDE) -> Scene:
    """Return a scene that satisfies the requirement and is few edits away from the objects.

    Exhaustive with pruning while at most six objects are wanted and seen; beyond that a fresh
    layout. Objects that share a cell with an earlier one are ignored.
    """
    first = {obj.cell: obj for obj in reversed(list(objects))}
    present = [first[cell] for cell in sorted(first)]
    slots = requirement.slots
    if max(len(slots), len(present)) > _SEARCH_LIMIT:
        return sample_scene(requirement, Dice(0, 0, "closest"), side)
    best: tuple[float, Scene | None] = (float("inf"), None)

    def search(chosen: list[Object | None], cost: int) -> None:
        nonlocal best
        if cost + max(0, len(present) - len(slots)) >= best[0]:
            return
        if len(chosen) == len(slots):
            extras = len(present) - sum(obj is not None for obj in chosen)
            layout = _layout(requirement, chosen, present, side)
            if layout is not None and cost + extras + layout[0] < best[0]:
                best = (cost + extras + layout[0], layout[1])
            return
        want = requirement.wants[slots[len(chosen)]]
        unused = [obj for obj in present if obj not in chosen]
        for obj in sorted(unused, key=lambda o: not want.matches(o.look)):
            search([*chosen, obj], cost + (not want.matches(obj.look)))
        search([*chosen, None], cost + 1)

    search([], 0)
    return best[1] or sample_scene(requirement, Dice(0, 0, "closest"), side)


def _layout(
    requirement: Requirement, chosen: list[Object | None], present: list[Object], side: int
) -> tuple[int, Scene] | None:
    """Place chosen objects with the fewest moves: (moves, scene), or None when impossible."""
    slots = requirement.slots
    fresh = [i for i, obj in enumerate(chosen) if obj is None]
    kept = [i for i in range(len(slots)) if i not in fresh]
    gone = {obj.cell for obj in present if obj not in chosen}
    order = [c for c in cell_names(side) if c not in gone] + sorted(gone)
    for moves in range(len(kept) + 1):
        for moved in combinations(kept, moves):
            cells = _place_all(requirement, chosen, {*moved, *fresh}, order, side)
            if cells is not None:
                looks = [
                    _override(requirement.wants[slot], obj) for slot, obj in zip(slots, chosen)
                ]
                objects = (Object(*look, cell) for look, cell in zip(looks, cells))
                return moves, make_scene(objects, side)
    return None


def _override(want: Want, obj: Object | None) -> tuple[str, str, str]:
    old = obj.look if obj else ("circle", "red", "large")
    return want.shape or old[0], want.color or old[1], want.size or old[2]


def _place_all(
    requirement: Requirement,
    chosen: list[Object | None],
    free: set[int],
    order: list[str],
    side: int,
) -> list[str] | None:
    """Keep the cells of slots not in `free` and find cells for the others, or None."""
    slots = requirement.slots
    sequence = sorted(range(len(slots)), key=lambda i: i in free)
    taken = {obj.cell for i, obj in enumerate(chosen) if obj is not None and i not in free}
    old = {i: obj.cell for i, obj in enumerate(chosen) if obj is not None}
    placed: list[tuple[int, tuple[float, float]]] = []
    cells: dict[int, str] = {}

    def search(step: int) -> bool:
        if step == len(sequence):
            return True
        i = sequence[step]
        options = (
            [c for c in order if c not in taken and c != old.get(i)] if i in free else [old[i]]
        )
        region = requirement.wants[slots[i]].region
        for cell in options:
            if region is not None and not in_region(region, cell, side):
                continue
            placed.append((slots[i], centre(cell)))
            if agrees(requirement, placed, step):
                taken.add(cell)
                cells[i] = cell
                if search(step + 1):
                    return True
                if i in free:
                    taken.discard(cell)
            placed.pop()
        return False

    return [cells[i] for i in range(len(slots))] if search(0) else None


def suggest(
    target: Requirement | Scene, objects: Sequence[Seen], *, side: int = SIDE
) -> list[Edit]:
    """Return the program edits that repair what is seen; empty when nothing is wrong.

    Args:
        target: the plan (every cell counts) or a requirement (any valid layout will do).
        objects: what is seen.
        side: cells per side of the canvas.
    """
    found = [Object(*seen.look, cell_seen(seen, side)) for seen in objects]
    if isinstance(target, Requirement):
        if check(target, found, side=side).passed:
            return []
        target = closest_scene(target, found, side)
    return diff(target.objects, found)


def redrawn(image: np.ndarray, objects: tuple[Object, ...], edit: Edit, side: int) -> np.ndarray:
    """The picture with the cells of an edit as they are in the scene after it."""
    clean = render(make_scene(objects, side))
    changed = image.copy()
    for row, column in (row_column(cell) for cell in (edit.cell, edit.to) if cell):
        rows = slice(row * CELL, (row + 1) * CELL)
        columns = slice(column * CELL, (column + 1) * CELL)
        changed[rows, columns] = clean[rows, columns]
    return changed
