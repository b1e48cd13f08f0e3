"""The world's language: noun phrases, plans and reflections, written and read back.

Every text is a sequence of vocabulary words separated by single blanks. Texts carry no tags;
`tagged` wraps them in `<think> ... </think>` and its kin, and every reader accepts both forms.

    plan         circle red large b2 , square blue small c4           (after an optional fact)
    edit         change the red circle at b2 to a blue square
                 add a small green cross at c3
                 remove the red circle at b2
                 move the red circle at b2 to c4
                 swap the red circle at b2 and the blue square at c3
                 no change
    reflection   circle red large b2 , remove the red circle at b2    (what is seen, then one edit)
                 nothing , add a small green cross at c3

Saying what is seen before what is wrong is our choice: the words can then be held against the
plan's, and every look at a picture teaches perception (a verdict alone did not).
"""

from collections.abc import Iterable
from typing import NamedTuple

from unireason_jax.world.edits import NO_CHANGE, Edit
from unireason_jax.world.requirements import Want
from unireason_jax.world.scenes import COLORS, SHAPES, SIDE, SIZES, Object, cell_names, cell_of

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six")
PLURALS = {"circle": "circles", "square": "squares", "triangle": "triangles", "cross": "crosses"}
NO_CHANGE_TEXT = "no change"
NOTHING = "nothing"


class Plan(NamedTuple):
    """A fact (may be empty) and the objects that a think text lists."""

    fact: str
    objects: tuple[Object, ...]


def tagged(tag: str, text: str) -> str:
    """Return `<tag> text </tag>` as words."""
    return f"<{tag}> {text} </{tag}>"


def untagged(text: str) -> str:
    """Return a text without tags and control tokens, words separated by single blanks."""
    words = (word for word in text.split() if not (word[0] == "<" and word[-1] == ">"))
    return " ".join(words)


def with_article(words: str) -> str:
    """Put `a` or `an` before a noun phrase."""
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


def noun(want: Want) -> str:
    """Return the attributes and shape of a want: `large red circle`, `two blue squares`."""
    words = [word for word in (want.size, want.color) if word]
    words.append(want.shape or "object")
    if want.count > 1:
        words[-1] = PLURALS.get(words[-1], "objects")
        words.insert(0, NUMBERS[want.count])
    return " ".join(words)


def phrase(want: Want) -> str:
    """Return a want as an indefinite noun phrase: `a large red circle`, `two blue squares`."""
    return noun(want) if want.count > 1 else with_article(noun(want))


def plan_text(objects: Iterable[Object], fact: str = "") -> str:
    """Return the plan of a scene, objects in reading order, after an optional fact."""
    items = [" ".join(obj) for obj in sorted(objects, key=cell_of)]
    return " , ".join([fact, *items] if fact else items)


def _read_object(words: list[str], side: int) -> Object | None:
    if len(words) != 4 or words[0] not in SHAPES or words[1] not in COLORS:
        return None
    if words[2] not in SIZES or words[3] not in cell_names(side):
        return None
    return Object(*words)


def parse_plan(text: str, side: int = SIDE) -> Plan:
    """Read a plan: leading parts that are no objects are the fact.

    Raises:
        ValueError: when a part after the first object is no object, or two share a cell.
    """
    fact: list[str] = []
    objects: list[Object] = []
    for part in untagged(text).split(" , "):
        obj = _read_object(part.split(), side)
        if obj is not None:
            objects.append(obj)
        elif objects:
            raise ValueError(f"plan {text!r}: {part!r} is no `shape color size cell`")
        elif part:
            fact.append(part)
    if len({obj.cell for obj in objects}) != len(objects):
        raise ValueError(f"plan {text!r} puts two objects into one cell")
    return Plan(" , ".join(fact), tuple(sorted(objects, key=cell_of)))


def seen_text(objects: Iterable[Object]) -> str:
    """Say what a picture holds: its objects like a plan, or `nothing`."""
    return plan_text(objects) or NOTHING


def reflection_text(edit: Edit, objects: Iterable[Object]) -> str:
    """Say what is seen, then one edit of it.

    Raises:
        KeyError: when the edit names a cell without an object.
    """
    objects = tuple(objects)
    return f"{seen_text(objects)} , {edit_text(edit, objects)}"


def edit_text(edit: Edit, objects: Iterable[Object]) -> str:
    """Say one edit of the given objects.

    Raises:
        KeyError: when the edit names a cell without an object.
    """
    if edit.op == "none":
        return NO_CHANGE_TEXT
    if edit.op == "add":
        return f"add {phrase(Want(edit.shape, edit.color, edit.size))} at {edit.cell}"
    by_cell = {obj.cell: obj for obj in objects}
    obj = by_cell[edit.cell]
    named = f"the {obj.color} {obj.shape} at {obj.cell}"
    if edit.op == "remove":
        return f"remove {named}"
    if edit.op == "move":
        return f"move {named} to {edit.to}"
    if edit.op == "swap":
        other = by_cell[edit.to]
        return f"swap {named} and the {other.color} {other.shape} at {other.cell}"
    size = None if edit.size == obj.size else edit.size
    return (
        f"change {named} to {phrase(Want(edit.shape or obj.shape, edit.color or obj.color, size))}"
    )


class _Reader:
    """Consumes the words of an edit from left to right."""

    def __init__(self, text: str, side: int):
        self.text, self.words, self.at, self.cells = text, text.split(), 0, side

    def one_of(self, *options: str) -> str:
        word = self.words[self.at] if self.at < len(self.words) else "the end"
        if word not in options:
            wanted = " | ".join(options[:8])
            raise ValueError(f"edit {self.text!r}: expected {wanted}, found {word!r}")
        self.at += 1
        return word

    def size(self) -> str | None:
        return (
            self.one_of(*SIZES)
            if self.words[self.at : self.at + 1] in (["small"], ["large"])
            else None
        )

    def cell(self) -> str:
        return self.one_of(*cell_names(self.cells))

    def look(self) -> tuple[str | None, str, str]:
        """Read `[size] color shape`."""
        return self.size(), self.one_of(*COLORS), self.one_of(*SHAPES)

    def named(self) -> str:
        """Read `the [size] color shape at cell` and return the cell."""
        self.one_of("the")
        self.look()
        self.one_of("at")
        return self.cell()


def parse_reflection(text: str, side: int = SIDE) -> tuple[tuple[Object, ...], Edit]:
    """Read a reflection back into the objects it says are there and the edit it asks for.

    Raises:
        ValueError: naming what does not fit the grammar.
    """
    seen, comma, edit = untagged(text).rpartition(" , ")
    plan = parse_plan("" if seen == NOTHING else seen, side)
    if plan.fact or not comma:
        raise ValueError(f"reflection {text!r} does not start with what is seen")
    return plan.objects, parse_edit(edit, side)


def parse_edit(text: str, side: int = SIDE) -> Edit:
    """Read the words of an edit.

    Raises:
        ValueError: naming the first word that does not fit the grammar.
    """
    reader = _Reader(untagged(text), side)
    verb = reader.one_of("add", "remove", "change", "move", "swap", "no")
    if verb == "no":
        reader.one_of("change")
        edit = NO_CHANGE
    elif verb == "add":
        reader.one_of("a", "an")
        size, color, shape = reader.look()
        reader.one_of("at")
        edit = Edit("add", reader.cell(), "", shape, color, size)
    else:
        cell = reader.named()
        if verb == "remove":
            edit = Edit("remove", cell)
        elif verb == "move":
            reader.one_of("to")
            edit = Edit("move", cell, reader.cell())
        elif verb == "swap":
            reader.one_of("and")
            edit = Edit("swap", cell, reader.named())
        else:
            reader.one_of("to")
            reader.one_of("a", "an")
            size, color, shape = reader.look()
            edit = Edit("change", cell, "", shape, color, size)
    if reader.at != len(reader.words):
        raise ValueError(f"edit {text!r}: words left over")
    return edit
