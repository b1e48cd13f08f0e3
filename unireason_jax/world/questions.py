"""Questions with program answers, and edits that need the answer.

Question kinds follow CLEVR's programs (Johnson et al. 2017): query, count, exist, compare, relate.
`sample_answer_edit` turns a question into an edit whose instruction never contains the answer, the
construction of Uni-Edit: the model has to look before it edits.
"""

from typing import NamedTuple

from unireason_jax.world.dice import Dice
from unireason_jax.world.edits import Edit, apply_edit
from unireason_jax.world.instructions import EditTask, Objects, random_objects, references
from unireason_jax.world.language import NUMBERS, PLURALS, noun, phrase, seen_text
from unireason_jax.world.requirements import POSITIONS, Requirement, Want, related, requirement_of
from unireason_jax.world.scenes import (
    COLORS,
    SHAPES,
    SIDE,
    SIZES,
    TRAIN_COLORS,
    TRAIN_PAIRS,
    Object,
    cell_names,
    centre,
    is_held_out_prompt,
    make_scene,
)

KINDS = ("color", "shape", "size", "where", "count", "exist", "compare", "relate", "describe")
EDIT_KINDS = ("copy", "paint", "count", "branch")
MAX_PROMPT_WORDS = 16
_ATTEMPTS = 2000


class Question(NamedTuple):
    """A question, its kind and its answer; `claim` says a yes/no question as a clause.

    The answer is one word, but for `describe`: there it is the list of all objects.
    """

    kind: str
    text: str
    answer: str
    claim: str = ""


class AnswerEdit(NamedTuple):
    """An edit task whose result depends on the answer to a question about the picture."""

    task: EditTask
    question: Question


def _unique(obj: Object, objects: Objects, hidden: str) -> list[str]:
    """Noun phrases that single an object out without telling the hidden attribute."""
    options = []
    for shape in (None, obj.shape):
        for color in (None, obj.color):
            for size in (None, obj.size):
                want = Want(shape, color, size)
                if getattr(want, hidden, None) is None and any(want[:3]):
                    options.append(want)
    unique = [w for w in options if sum(w.matches(other.look) for other in objects) == 1]
    return [f"the {noun(want)}" for want in unique]


def _query(dice: Dice, objects: Objects, kind: str) -> Question | None:
    obj = dice.pick(objects)
    if kind == "where":
        names = references(obj, objects)
        return Question(kind, f"where is {dice.pick(names)}", obj.cell) if names else None
    names = [*_unique(obj, objects, kind), f"the object at {obj.cell}"]
    return Question(kind, f"what {kind} is {dice.pick(names)}", getattr(obj, kind))


def _some_want(dice: Dice) -> Want:
    if dice.chance(0.4):
        return Want(dice.pick(SHAPES))
    return Want(None, dice.pick(COLORS)) if dice.chance(0.4) else Want(*dice.pick(TRAIN_PAIRS))


def count_of(want: Want, objects: Objects) -> int:
    """Return how many objects have the attributes of a want."""
    return sum(want.matches(obj.look) for obj in objects)


def _yes_no(kind: str, verb: str, rest: str, truth: bool, subject: str = "there") -> Question:
    text = f"{verb} {subject} {rest}"
    return Question(kind, text, "yes" if truth else "no", f"{subject} {verb} {rest}")


def ask(dice: Dice, objects: Objects, kind: str) -> Question | None:
    """Draw a question of a kind about objects, or None when the draw does not fit them.

    Raises:
        ValueError: for a kind outside `KINDS`.
    """
    if kind in ("color", "shape", "size", "where"):
        return _query(dice, objects, kind)
    if kind == "count":
        want = _some_want(dice)
        name = noun(want._replace(count=2)).removeprefix("two ")
        return Question(kind, f"how many {name} are there", NUMBERS[count_of(want, objects)])
    if kind == "exist":
        obj = dice.pick(objects)
        want = dice.pick((Want(obj.shape), Want(None, obj.color), Want(obj.shape, obj.color)))
        want = want if dice.chance(0.5) else _some_want(dice)
        return _yes_no(kind, "is", phrase(want), count_of(want, objects) > 0)
    if kind == "compare":
        one, two = (Want(shape) for shape in dice.distinct(SHAPES, 2))
        if count_of(one, objects) < count_of(two, objects) and dice.chance(0.5):
            one, two = two, one
        more = count_of(one, objects) > count_of(two, objects)
        rest = f"more {PLURALS[one.shape]} than {PLURALS[two.shape]}"
        return _yes_no(kind, "are", rest, more)
    if kind == "describe":
        return Question(kind, "what is there in the picture", seen_text(objects))
    if kind != "relate":
        raise ValueError(f"unknown question kind {kind!r}; use one of {KINDS}")
    if len(objects) < 2:
        return None
    one, two = dice.distinct(objects, 2)
    names, others = references(one, objects), references(two, objects)
    if not names or not others:
        return None
    (y, x), (v, u) = centre(one.cell), centre(two.cell)
    true = [relation for relation in POSITIONS if related(relation, y - v, x - u)]
    relation = dice.pick(true) if true and dice.chance(0.5) else dice.pick(POSITIONS)
    rest = f"{relation} {dice.pick(others)}"
    return _yes_no(kind, "is", rest, relation in true, dice.pick(names))


def sample_question(
    dice: Dice, side: int = SIDE, *, kind: str | None = None, held_out: bool = False
) -> tuple[Question, Objects]:
    """Draw a question and the objects it is about.

    Raises:
        ValueError: when no question of the kind is on the wanted side of the hold-out.
    """
    for _ in range(_ATTEMPTS):
        objects = random_objects(dice, 1 + dice.below(4), side)
        question = ask(dice, objects, kind or dice.pick(KINDS))
        if question is None:
            continue
        told = question.answer if question.kind == "describe" else question.text
        if is_held_out_prompt(told) == held_out:
            return question, objects
    raise ValueError(f"found no {'held-out' if held_out else 'training'} question of kind {kind!r}")


def _free(dice: Dice, objects: Objects, side: int, count: int) -> list[str]:
    taken = {obj.cell for obj in objects}
    return dice.distinct([cell for cell in cell_names(side) if cell not in taken], count)


def _draw_edit(dice: Dice, kind: str, side: int) -> AnswerEdit | None:
    objects = random_objects(dice, 2 + dice.below(2), side)
    source = make_scene(objects, side)
    kept = tuple(Want(*obj) for obj in objects)
    requirement = None
    if kind == "branch":
        question = ask(dice, objects, dice.pick(("exist", "compare", "relate")))
        obj = dice.pick(objects)
        names = references(obj, objects)
        if question is None or not names:
            return None
        edit, action = Edit("remove", obj.cell), f"remove {names[0]}"
        if dice.chance(0.5):
            color = dice.pick([c for c in TRAIN_COLORS[obj.shape] if c != obj.color])
            edit = Edit("change", obj.cell, "", obj.shape, color)
            action = f"make {names[0]} {color}"
        text = f"if {question.claim} , {action} , else change nothing"
        edits = [edit] if question.answer == "yes" else []
    elif kind == "count":
        want, new = Want(dice.pick(SHAPES)), dice.pick(TRAIN_PAIRS)
        number = count_of(want, objects)
        if number == 0 or new[0] == want.shape:
            return None
        question = Question(kind, f"how many {PLURALS[want.shape]} are there", NUMBERS[number])
        cells = _free(dice, objects, side, number)
        plural = noun(Want(*new, None, None, 2)).removeprefix("two ")
        text = f"add as many {plural} as there are {PLURALS[want.shape]}"
        edits = [Edit("add", cell, "", *new, dice.pick(SIZES)) for cell in cells]
        requirement = Requirement((*kept, Want(*new, None, None, number)))
    else:
        hidden = dice.pick(("color", "shape"))
        obj, other = dice.distinct(objects, 2)
        names = _unique(obj, objects, hidden)
        others = references(other, objects)
        if not names or not others:
            return None
        name = dice.pick(names)
        answer = getattr(obj, hidden)
        question = Question(hidden, f"what {hidden} is {name}", answer)
        look = list(dice.pick(TRAIN_PAIRS)) if kind == "copy" else [other.shape, other.color]
        look[hidden == "color"] = answer
        if tuple(look) not in TRAIN_PAIRS or tuple(look) == other[:2]:
            return None
        if kind == "paint":
            edits = [Edit("change", other.cell, "", *look)]
            text = f"change {dice.pick(others)} to the {hidden} of {name}"
        else:
            (cell,) = _free(dice, objects, side, 1)
            edits = [Edit("add", cell, "", *look, dice.pick(SIZES))]
            new = phrase(Want(look[0]) if hidden == "color" else Want(None, look[1]))
            text = f"add {new} at {cell} with the {hidden} of {name}"
            requirement = Requirement((*kept, Want(*look, None, cell)))
    after = objects
    for edit in edits:
        after = apply_edit(after, edit)
    target = make_scene(after, side)
    goal = requirement or requirement_of(target)
    return AnswerEdit(EditTask(kind, text, question.answer, source, target, goal), question)


def sample_answer_edit(
    dice: Dice, side: int = SIDE, *, kind: str | None = None, held_out: bool = False
) -> AnswerEdit:
    """Draw an edit that needs the answer to a question; the answer is never in the instruction.

    Raises:
        ValueError: for a kind outside `EDIT_KINDS`, or when it has no such instruction.
    """
    if kind is not None and kind not in EDIT_KINDS:
        raise ValueError(f"unknown uni_edit kind {kind!r}; use one of {EDIT_KINDS}")
    for _ in range(_ATTEMPTS):
        drawn = _draw_edit(dice, kind or dice.pick(EDIT_KINDS), side)
        if drawn is None or is_held_out_prompt(drawn.task.instruction) != held_out:
            continue
        words = drawn.task.instruction.split()
        if drawn.question.answer not in words and len(words) <= MAX_PROMPT_WORDS:
            return drawn
    raise ValueError(f"found no {'held-out' if held_out else 'training'} uni_edit of kind {kind!r}")
