"""The exact judge: does a picture, or a list of objects, show what was asked for?

`check` is the strict convention (exactly the wanted objects), `check_geneval` GenEval's (wanted
objects among others, unless excluded; Ghosh et al. 2023).
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from unireason_jax.world.parser import Found, parse, to_objects
from unireason_jax.world.requirements import (
    Requirement,
    Want,
    in_region,
    related,
)
from unireason_jax.world.scenes import (
    CELL,
    SIDE,
    Object,
    Scene,
    centre,
    nearest_cell,
    row_column,
)

MAX_RESIDUAL = 0.06
Seen = Object | Found


class Verdict(NamedTuple):
    """Whether a picture passes, why not, and its unexplained fraction of pixels."""

    passed: bool
    reasons: tuple[str, ...] = ()
    residual: float = 0.0


class EditVerdict(NamedTuple):
    """A verdict on an edit, and how much it disturbed the rest.

    `outside` is the mean absolute difference to the input picture outside the edited cells, in
    0..255 (0 for a perfectly kept background).
    """

    passed: bool
    reasons: tuple[str, ...]
    residual: float
    outside: float


def _place(seen: Seen) -> tuple[float, float]:
    return (seen.y, seen.x) if isinstance(seen, Found) else centre(seen.cell)


def cell_seen(seen: Seen, side: int) -> str:
    """Return the cell of a scene object, or the nearest cell of a parsed one."""
    return nearest_cell(seen.y, seen.x, side) if isinstance(seen, Found) else seen.cell


def _fits(want: Want, seen: Seen, side: int) -> bool:
    if not want.matches(seen.look):
        return False
    return want.region is None or in_region(want.region, cell_seen(seen, side), side)


def agrees(
    requirement: Requirement, placed: Sequence[tuple[int, tuple[float, float]]], last: int
) -> bool:
    """Return whether the last placed (slot, (y, x)) keeps all relations to the others."""
    slot, (y, x) = placed[last]
    for subject, relation, target in requirement.relations:
        for i, (other, (v, u)) in enumerate(placed):
            if i == last:
                continue
            if slot == subject and other == target and not related(relation, y - v, x - u):
                return False
            if slot == target and other == subject and not related(relation, v - y, u - x):
                return False
    return True


def _assign(requirement: Requirement, objects: Sequence[Seen], side: int) -> bool:
    """Return whether every slot can have an object of its own, relations included."""
    slots = requirement.slots
    placed: list[tuple[int, tuple[float, float]]] = []
    used = [False] * len(objects)

    def search() -> bool:
        if len(placed) == len(slots):
            return True
        slot = slots[len(placed)]
        for i, seen in enumerate(objects):
            if used[i] or not _fits(requirement.wants[slot], seen, side):
                continue
            placed.append((slot, _place(seen)))
            used[i] = True
            if agrees(requirement, placed, len(placed) - 1) and search():
                return True
            placed.pop()
            used[i] = False
        return False

    return len(objects) >= len(slots) and search()


def _say(words: Iterable[str | None]) -> str:
    return " ".join(word for word in words if word)


def _reasons(requirement: Requirement, objects: Sequence[Seen], side: int) -> list[str]:
    """Name missing and extra objects; without any, name what is in the wrong place."""
    left = list(objects)
    missing = []
    for want in sorted(requirement.wants, key=lambda w: sum(v is None for v in w[:3])):
        for _ in range(want.count):
            match = next((seen for seen in left if want.matches(seen.look)), None)
            if match is None:
                missing.append(f"missing {_say((want.size, want.color, want.shape)) or 'object'}")
            else:
                left.remove(match)
    extra = [f"extra {_say((seen.size, seen.color, seen.shape))}" for seen in left]
    if missing or extra:
        return missing + extra
    places = []
    for want in requirement.wants:
        if want.region and not any(_fits(want, seen, side) for seen in objects):
            places.append(f"{_say((want.color, want.shape)) or 'object'} not at {want.region}")
    for subject, relation, target in requirement.relations:
        a, b = requirement.wants[subject], requirement.wants[target]
        one, two = _say((a.color, a.shape)) or "object", _say((b.color, b.shape)) or "object"
        places.append(f"{one} not {relation} {two}")
    return places or ["no assignment of objects to what was asked for"]


def check(
    requirement: Requirement, objects: Sequence[Seen], residual: float = 0.0, *, side: int = SIDE
) -> Verdict:
    """Strict verdict: exactly the wanted objects, all relations, residual at most 6 %.

    Args:
        requirement: what was asked for.
        objects: parsed objects, or the objects of a scene.
        residual: unexplained fraction of pixels, from `parse`.
        side: cells per side of the canvas.
    """
    reasons = []
    if len(objects) != len(requirement.slots) or not _assign(requirement, objects, side):
        reasons = _reasons(requirement, objects, side)
    if residual > MAX_RESIDUAL:
        reasons.append(f"residual {residual:.3f}")
    return Verdict(not reasons, tuple(reasons), residual)


def check_geneval(
    record: dict[str, Any], objects: Sequence[Seen], residual: float = 0.0, *, side: int = SIDE
) -> Verdict:
    """GenEval's verdict on a JSONL record (`include`, `exclude`): other objects are allowed.

    `exclude` fails when at least its `count` objects of its class are seen. Positions follow this
    world's `related`, which is stricter about diagonals than GenEval's boxes.
    """
    wants, relations = [], []
    for i, clause in enumerate(record["include"]):
        wants.append(
            Want(clause["class"], clause.get("color"), clause.get("size"), None, clause["count"])
        )
        if "position" in clause:
            relations.append((i, *clause["position"]))
    requirement = Requirement(tuple(wants), tuple(relations))
    reasons = [] if _assign(requirement, objects, side) else _reasons(requirement, objects, side)
    for clause in record.get("exclude", ()):
        if sum(seen.shape == clause["class"] for seen in objects) >= clause["count"]:
            reasons.append(f"too many {clause['class']}")
    return Verdict(not reasons, tuple(reasons), residual)


def check_image(requirement: Requirement, image: np.ndarray) -> Verdict:
    """Parse a uint8 [H, W, 3] picture and give the strict verdict on it."""
    seen = parse(image)
    return check(requirement, seen.objects, seen.residual, side=image.shape[0] // CELL)


def check_edit(
    requirement: Requirement, source: Scene, target: Scene, before: np.ndarray, after: np.ndarray
) -> EditVerdict:
    """Verdict on an edited picture.

    The edited cells are those where `source` differs from what is seen in `after` if that passes,
    otherwise from the reference `target`.

    Args:
        requirement: what the edited picture has to show, kept objects included.
        source: the scene before the edit.
        target: one right scene after the edit.
        before: uint8 [H, W, 3] input picture.
        after: uint8 [H, W, 3] edited picture.

    Raises:
        ValueError: when the two pictures differ in shape.
    """
    if before.shape != after.shape:
        raise ValueError(f"input picture is {before.shape} but the edited one is {after.shape}")
    seen = parse(after)
    verdict = check(requirement, seen.objects, seen.residual, side=source.side)
    reference = to_objects(seen.objects, source.side) if verdict.passed else target.objects
    edited = {obj.cell for obj in set(source.objects) ^ set(reference)}
    outside = np.ones(before.shape[:2], bool)
    for cell in edited:
        row, col = row_column(cell)
        outside[row * CELL : row * CELL + CELL, col * CELL : col * CELL + CELL] = False
    change = np.abs(before.astype(np.int16) - after.astype(np.int16))[outside]
    return EditVerdict(*verdict, float(change.mean()) if change.size else 0.0)
