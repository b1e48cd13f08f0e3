"""Pictures built step by step: plan a step, draw it, inspect it, correct it if it went wrong.

Follows the trajectories of process-driven generation ("Think in strokes", arXiv 2604.04746): each
step says what to do (`ins`) and what the picture then holds (`des`), and an inspection tells an
incomplete but consistent picture (`continue`) from a conflict, which names its repair (`refine`).
"""

from typing import NamedTuple

from unireason_jax.world.dice import Dice
from unireason_jax.world.edits import Edit, apply_edit, diff
from unireason_jax.world.instructions import Objects, random_objects
from unireason_jax.world.language import edit_text, plan_text, reflection_text
from unireason_jax.world.scenes import (
    SIZES,
    TRAIN_COLORS,
    TRAIN_SHAPES,
    Object,
    Scene,
    cell_names,
    make_scene,
)

MAX_STEPS = 4
DETOUR_SHARE = 0.2
CONFLICT_SHARE = 0.25
CONTINUE, COMPLETE, CONFLICT = "continue", "complete", "conflict"


class Step(NamedTuple):
    """One step of a trajectory.

    `scene` is what was drawn. Where it conflicts with the plan, `refine` is the repair in the
    reflection grammar and `refined` the scene after it; otherwise both are None.
    """

    ins: str
    des: str
    scene: Scene
    inspect: str
    refine: str | None
    refined: Scene | None


def _other_look(dice: Dice, obj: Object) -> Object:
    """Return the object with another colour, shape or size."""
    kind = dice.below(3)
    if kind == 0:
        return obj._replace(color=dice.pick([c for c in TRAIN_COLORS[obj.shape] if c != obj.color]))
    if kind == 1:
        return obj._replace(shape=dice.pick([s for s in TRAIN_SHAPES[obj.color] if s != obj.shape]))
    return obj._replace(size=SIZES[obj.size == "small"])


def _detour(dice: Dice, scene: Scene) -> list[Edit]:
    """Return edits that build the scene with one step that changes, removes or swaps."""
    objects = list(scene.objects)
    room_for_two = len(objects) + 2 <= MAX_STEPS
    kind = dice.pick(("change", "remove", "swap") if room_for_two else ("change", "swap"))
    at = dice.below(len(objects))
    if kind == "swap" and len(objects) > 1:
        other = (at + 1 + dice.below(len(objects) - 1)) % len(objects)
        one, two = objects[at], objects[other]
        if one.look != two.look:
            objects[at], objects[other] = one._replace(cell=two.cell), two._replace(cell=one.cell)
            adds = [Edit("add", obj.cell, "", *obj.look) for obj in objects]
            return [*adds, Edit("swap", one.cell, two.cell)]
    if kind == "remove":
        taken = {obj.cell for obj in objects}
        cell = dice.pick([cell for cell in cell_names(scene.side) if cell not in taken])
        objects.insert(at, random_objects(dice, 1, scene.side)[0]._replace(cell=cell))
        fix = Edit("remove", cell)
    else:
        right = objects[at]
        objects[at] = _other_look(dice, right)
        fix = diff([right], [objects[at]])[0]
    return [*(Edit("add", obj.cell, "", *obj.look) for obj in objects), fix]


def _conflict(dice: Dice, before: Objects, after: Objects) -> Objects | None:
    """Return what a failed step drew instead of `after`: the changed object looks wrong."""
    changed = [obj for obj in after if obj not in before]
    if not changed:
        return None
    obj = dice.pick(changed)
    wrong = _other_look(dice, obj)
    return tuple(wrong if each == obj else each for each in after)


def sample_steps(dice: Dice, scene: Scene) -> tuple[Step, ...]:
    """Draw 1 to `MAX_STEPS` steps that build a scene of at most four objects, in reading order.

    20 % of the scenes with fewer than four objects take a detour (a step that changes, removes or
    swaps); in 25 % one step is drawn wrong, flagged as a conflict and repaired.
    """
    edits = [Edit("add", obj.cell, "", *obj.look) for obj in scene.objects]
    if len(edits) < MAX_STEPS and dice.chance(DETOUR_SHARE):
        edits = _detour(dice, scene)
    faulty = dice.below(len(edits)) if dice.chance(CONFLICT_SHARE) else -1
    steps = []
    objects: Objects = ()
    for i, edit in enumerate(edits):
        ins = edit_text(edit, objects)
        after = apply_edit(objects, edit)
        drawn = _conflict(dice, objects, after) if i == faulty else None
        inspect, refine, refined = COMPLETE if i == len(edits) - 1 else CONTINUE, None, None
        if drawn is not None:
            inspect, refined = CONFLICT, make_scene(after, scene.side)
            refine = reflection_text(diff(after, drawn)[0], drawn)
        sketch = make_scene(after if drawn is None else drawn, scene.side)
        steps.append(Step(ins, plan_text(after), sketch, inspect, refine, refined))
        objects = after
    return tuple(steps)
