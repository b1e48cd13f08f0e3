"""Drafts with injected faults, and the traces that repair them one edit at a time.

A fault breaks what the prompt asks for (not merely the plan), so every faulty draft is rejected by
the verifier. The repair is minimal: it leads back to the planned scene and leaves every other cell
bit-identical. Follows the refinement data of UniReason (paper, section 4.2), with the verifier's
program diff in the place of a judge's text.
"""

from typing import NamedTuple

from unireason_jax.world.dice import Dice
from unireason_jax.world.edits import Edit, apply_edit, diff
from unireason_jax.world.language import reflection_text
from unireason_jax.world.requirements import Requirement
from unireason_jax.world.scenes import (
    SIZES,
    TRAIN_COLORS,
    TRAIN_PAIRS,
    TRAIN_SHAPES,
    Object,
    Scene,
    cell_names,
    make_scene,
)
from unireason_jax.world.verifier import check

FAULTS = ("missing", "extra", "color", "shape", "size", "relation", "count")
# At the first look and at the second a picture is as often right as wrong: what to say is in the
# picture, not in how often it was looked at.
NONE_SHARE = 0.5
TWO_SHARE = 0.25
_ATTEMPTS = 12


class Round(NamedTuple):
    """One reflection, the edit it asks for, and the scene after it."""

    reflection: str
    edit: Edit
    scene: Scene


class Trace(NamedTuple):
    """A draft scene, the kinds of its faults, and the rounds that repair it (none: it is right)."""

    draft: Scene
    faults: tuple[str, ...]
    rounds: tuple[Round, ...]

    @property
    def final(self) -> Scene:
        """The scene after the last round."""
        return self.rounds[-1].scene if self.rounds else self.draft


def applicable_faults(requirement: Requirement) -> list[str]:
    """Return the kinds of fault that can break a requirement; the rare ones count twice."""
    kinds = ["missing", "extra"]
    wants = requirement.wants
    for kind in ("color", "shape", "size"):
        if any(getattr(want, kind) is not None for want in wants):
            kinds.append(kind)
    if requirement.relations or any(want.region for want in wants):
        kinds += ["relation"] * 2
    if any(want.count > 1 for want in wants):
        kinds += ["count"] * 2
    return kinds


def _fault(dice: Dice, kind: str, scene: Scene) -> Edit | None:
    """Draw an edit that makes a right scene wrong, or None when the draw does not fit the kind."""
    obj: Object = dice.pick(scene.objects)
    taken = {other.cell for other in scene.objects}
    free = [cell for cell in cell_names(scene.side) if cell not in taken]
    if kind == "color":
        color = dice.pick([c for c in TRAIN_COLORS[obj.shape] if c != obj.color])
        return Edit("change", obj.cell, "", obj.shape, color)
    if kind == "shape":
        shapes = [s for s in TRAIN_SHAPES[obj.color] if s != obj.shape]
        return Edit("change", obj.cell, "", dice.pick(shapes), obj.color)
    if kind == "size":
        size = "small" if obj.size == "large" else "large"
        return Edit("change", obj.cell, "", obj.shape, obj.color, size)
    if kind == "relation":
        return Edit("move", obj.cell, dice.pick(free)) if free else None
    twins = sum(other.shape == obj.shape for other in scene.objects)
    if kind == "missing" or (kind == "count" and dice.chance(0.5)):
        return Edit("remove", obj.cell) if kind == "missing" or twins > 1 else None
    if not free:
        return None
    if kind == "extra":
        return Edit("add", dice.pick(free), "", *dice.pick(TRAIN_PAIRS), dice.pick(SIZES))
    return Edit("add", dice.pick(free), "", *obj.look) if twins > 1 else None


def inject_faults(
    dice: Dice, requirement: Requirement, scene: Scene, count: int
) -> tuple[Scene, tuple[str, ...]]:
    """Return a draft with `count` faults (0, 1 or 2) and their kinds.

    Each fault alone breaks the requirement and so do both together; they touch different cells.
    When two such faults are not found within a few draws the draft has one.

    Raises:
        ValueError: when not even one fault is found.
    """
    kinds = applicable_faults(requirement)
    faults: list[tuple[str, Edit]] = []
    draft = scene.objects
    for _ in range(_ATTEMPTS * count):
        if len(faults) == count:
            break
        kind = dice.pick(kinds)
        edit = _fault(dice, kind, scene)
        touched = {cell for _, other in faults for cell in (other.cell, other.to) if cell}
        if edit is None or edit.cell in touched or edit.to in touched:
            continue
        both = apply_edit(draft, edit)
        alone = apply_edit(scene.objects, edit) if faults else both
        if check(requirement, alone, side=scene.side).passed:
            continue
        if faults and len(diff(scene.objects, both)) != 2:
            continue
        if faults and check(requirement, both, side=scene.side).passed:
            continue
        faults.append((kind, edit))
        draft = both
    if count and not faults:
        raise ValueError(f"no fault of {kinds} breaks {requirement}")
    return make_scene(draft, scene.side), tuple(kind for kind, _ in faults)


def repair(plan: Scene, draft: Scene) -> tuple[Round, ...]:
    """Return the rounds that turn a draft into the planned scene, one program edit each."""
    rounds = []
    objects = draft.objects
    while edits := diff(plan.objects, objects):
        text = reflection_text(edits[0], objects)
        objects = apply_edit(objects, edits[0])
        rounds.append(Round(text, edits[0], make_scene(objects, plan.side)))
    return tuple(rounds)


def sample_trace(dice: Dice, requirement: Requirement, plan: Scene) -> Trace:
    """Draw a draft of a planned scene (half are right, a quarter has two faults) and its repair."""
    u = dice.uniform()
    count = 0 if u < NONE_SHARE else 2 if u < NONE_SHARE + TWO_SHARE else 1
    draft, faults = inject_faults(dice, requirement, plan, count)
    return Trace(draft, faults, repair(plan, draft))
