"""Edit instructions with exact targets: one referenced object changes, everything else stays.

References are unique by construction. When an instruction leaves something open (any free cell, any
size), the target is one member of a set and the requirement describes the whole set.
"""

from typing import NamedTuple

from unireason_jax.world.dice import Dice
from unireason_jax.world.edits import Edit, apply_edit
from unireason_jax.world.language import edit_text, noun, phrase
from unireason_jax.world.requirements import (
    POSITIONS,
    Relation,
    Requirement,
    Want,
    related,
    requirement_of,
)
from unireason_jax.world.scenes import (
    SIDE,
    SIZES,
    TRAIN_COLORS,
    TRAIN_PAIRS,
    TRAIN_SHAPES,
    Object,
    Scene,
    cell_names,
    centre,
    is_held_out_prompt,
    make_scene,
    row_column,
)

OPS = ("add", "remove", "recolour", "reshape", "resize", "move", "swap", "fall", "mirror")
MIX = (*OPS[:7], *OPS[:7], *OPS[7:])
_ATTEMPTS = 2000
Objects = tuple[Object, ...]


class EditTask(NamedTuple):
    """An instruction, the scene it starts from, one right result and the set of right results.

    `fact` says in the reflection grammar, or for a rule in words, what has to happen.
    """

    op: str
    instruction: str
    fact: str
    source: Scene
    target: Scene
    requirement: Requirement


def random_objects(dice: Dice, count: int, side: int = SIDE) -> Objects:
    """Return `count` objects with seen (shape, colour) pairs in random cells, in reading order."""
    cells = sorted(dice.distinct(cell_names(side), count))
    return tuple(Object(*dice.pick(TRAIN_PAIRS), dice.pick(SIZES), cell) for cell in cells)


def references(obj: Object, objects: Objects) -> list[str]:
    """Return the noun phrases, without cell, that single an object out among others."""
    options = (
        Want(obj.shape),
        Want(obj.shape, obj.color),
        Want(obj.shape, None, obj.size),
        Want(obj.shape, obj.color, obj.size),
    )
    return [
        f"the {noun(want)}"
        for want in options
        if sum(want.matches(other.look) for other in objects) == 1
    ]


def _free(objects: Objects, side: int) -> list[str]:
    taken = {obj.cell for obj in objects}
    return [cell for cell in cell_names(side) if cell not in taken]


def _add(dice: Dice, objects: Objects, side: int) -> tuple[str, Edit, Requirement] | None:
    look = (*dice.pick(TRAIN_PAIRS), dice.pick(SIZES))
    cell = dice.pick(_free(objects, side))
    edit = Edit("add", cell, "", *look)
    kept = tuple(Want(*obj) for obj in objects)
    if dice.chance(0.5):
        return edit_text(edit, objects), edit, Requirement((*kept, Want(*look, cell)))
    new = Want(look[0], look[1], look[2] if dice.chance(0.5) else None)
    if dice.chance(0.4):
        return f"add {phrase(new)}", edit, Requirement((*kept, new))
    at = dice.below(len(objects))
    names = references(objects[at], objects)
    relation = dice.pick(POSITIONS)
    if not names or not _stands(cell, relation, objects[at].cell):
        return None
    requirement = Requirement((*kept, new), (Relation(len(objects), relation, at),))
    return f"add {phrase(new)} {relation} {dice.pick(names)}", edit, requirement


def _stands(cell: str, relation: str, target: str) -> bool:
    (y, x), (v, u) = centre(cell), centre(target)
    return related(relation, y - v, x - u)


def _move(
    dice: Dice, objects: Objects, side: int, name: str | None
) -> tuple[str, Edit, Requirement | None] | None:
    at = dice.below(len(objects))
    obj = objects[at]
    edit = Edit("move", obj.cell, dice.pick(_free(objects, side)))
    names = references(obj, objects)
    if name == "cell" or not names:
        return edit_text(edit, objects), edit, None
    if len(objects) == 1 or dice.chance(0.4):
        return f"move {dice.pick(names)} to {edit.to}", edit, None
    other = dice.pick([i for i in range(len(objects)) if i != at])
    relation = dice.pick(POSITIONS)
    beyond = references(objects[other], objects)
    target = objects[other].cell
    if not beyond or not _stands(edit.to, relation, target) or _stands(obj.cell, relation, target):
        return None
    wants = [Want(*each) for each in objects]
    wants[at] = Want(*obj.look)
    requirement = Requirement(tuple(wants), (Relation(at, relation, other),))
    return f"move {dice.pick(names)} {relation} {dice.pick(beyond)}", edit, requirement


def _change(dice: Dice, objects: Objects, op: str, named: bool) -> tuple[str, Edit] | None:
    obj = dice.pick(objects)
    shape, color, size = obj.look
    if op == "recolour":
        color = dice.pick([c for c in TRAIN_COLORS[shape] if c != color])
        options = (
            "make {} " + color,
            "change {} to " + color,
            "change the color of {} to " + color,
        )
    elif op == "reshape":
        shape = dice.pick([s for s in TRAIN_SHAPES[color] if s != shape])
        options = ("change {} to a " + shape, "make {} a " + shape)
    else:
        size = "small" if size == "large" else "large"
        options = ("make {} " + size, "change the size of {} to " + size)
    edit = Edit("change", obj.cell, "", shape, color, None if op != "resize" else size)
    names = references(obj, objects)
    if named and names:
        return dice.pick(options).format(dice.pick(names)), edit
    return edit_text(edit, objects), edit


def fall(scene: Scene) -> Scene:
    """Return the scene after every object fell down its column onto the floor or another object."""
    height: dict[int, int] = {}
    objects = []
    for obj in reversed(scene.objects):
        _, col = row_column(obj.cell)
        row = scene.side - 1 - height.get(col, 0)
        height[col] = height.get(col, 0) + 1
        objects.append(obj._replace(cell=cell_names(scene.side)[row * scene.side + col]))
    return make_scene(objects, scene.side)


def mirror(scene: Scene) -> Scene:
    """Return the scene with left and right exchanged."""
    names, side = cell_names(scene.side), scene.side
    places = [row_column(obj.cell) for obj in scene.objects]
    return make_scene(
        (
            obj._replace(cell=names[row * side + side - 1 - col])
            for obj, (row, col) in zip(scene.objects, places)
        ),
        side,
    )


# Two sentences a rule: what a held-out one asks for could not be known, so no edit by rule is drawn
# with one; what is new to a model are the pictures.
RULES = {
    "fall": (("let all objects fall", "let everything fall down"), "every object falls down", fall),
    "mirror": (("mirror the picture", "swap left and right"), "left and right swap", mirror),
}


def _draw(dice: Dice, op: str, side: int) -> EditTask | None:
    fewest = 2 if op in ("remove", "swap") else 1
    objects = random_objects(dice, fewest + dice.below(5 - fewest - (op == "add")), side)
    source = make_scene(objects, side)
    if op in RULES:
        instructions, fact, rule = RULES[op]
        target = rule(source)
        if target == source:
            return None
        return EditTask(op, dice.pick(instructions), fact, source, target, requirement_of(target))
    named = dice.chance(0.5)
    requirement = None
    if op == "add":
        drawn = _add(dice, objects, side)
    elif op == "move":
        drawn = _move(dice, objects, side, None if named else "cell")
    elif op in ("recolour", "reshape", "resize"):
        drawn = _change(dice, objects, op, named)
    elif op == "remove":
        obj = dice.pick(objects)
        edit = Edit("remove", obj.cell)
        names = references(obj, objects)
        text = f"remove {dice.pick(names)}" if named and names else edit_text(edit, objects)
        drawn = (text, edit)
    else:
        one, two = dice.distinct(objects, 2)
        if one.look == two.look:
            return None
        edit = Edit("swap", one.cell, two.cell)
        names, others = references(one, objects), references(two, objects)
        text = edit_text(edit, objects)
        if named and names and others:
            text = f"swap {dice.pick(names)} and {dice.pick(others)}"
        drawn = (text, edit)
    if drawn is None:
        return None
    instruction, edit, requirement = (*drawn, None)[:3]
    target = make_scene(apply_edit(objects, edit), side)
    fact = edit_text(edit, objects)
    return EditTask(op, instruction, fact, source, target, requirement or requirement_of(target))


def sample_edit(
    dice: Dice, side: int = SIDE, *, op: str | None = None, held_out: bool = False
) -> EditTask:
    """Draw an edit task whose instruction string is held out, or not.

    Raises:
        ValueError: for an op outside `OPS`, or one without such an instruction; none of `RULES`
            has one that is held out.
    """
    if op is not None and op not in OPS:
        raise ValueError(f"unknown edit op {op!r}; use one of {OPS}")
    for _ in range(0 if held_out and op in RULES else _ATTEMPTS):
        task = _draw(dice, op or dice.pick(MIX), side)
        if task is None or (held_out and task.op in RULES):
            continue
        if is_held_out_prompt(task.instruction) == held_out:
            return task
    raise ValueError(f"edit op {op!r} has no {'held-out' if held_out else 'training'} instruction")
