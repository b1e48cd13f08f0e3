"""The harder world's texts, written and read back.

    plan         three small red square in a row at top left top left top right ,
                 one large blue circle at bottom left , first above second
    reflection   red square c1 right , red square c2 large , red square missing ,
                 blue circle e4 right , extra green cross a1 , remove the green cross at a1

A plan says what a prompt leaves to work out, and quarters of the picture instead of cells. A
reflection looks for every planned object in turn: where it is and whether it is as planned, so that
it is supervised at each; then for what is too much; then it asks for one edit. It is a function of
plan and picture alone.
"""

from collections.abc import Sequence

from unireason_jax.world.edits import NO_CHANGE, Edit
from unireason_jax.world.hard.things import BACKS, SIDE, Thing, Things
from unireason_jax.world.hard.wishes import (
    HEIGHTS,
    LINES,
    RELATIONS,
    WIDTHS,
    Group,
    Order,
    Wish,
)
from unireason_jax.world.language import NUMBERS, untagged, with_article
from unireason_jax.world.scenes import COLORS, SHAPES, SIZES, cell_names

ORDINALS = ("first", "second", "third", "fourth")
RIGHT, MISSING, EXTRA, NOTHING_TO_DO = "right", "missing", "extra", "no change"
COUNTS = (*NUMBERS, "seven", "eight", "nine")
PLACES = tuple(f"{height} {width}" for height in HEIGHTS for width in WIDTHS)


def plan_text(wish: Wish) -> str:
    """A resolved wish in words."""
    parts = []
    for group in wish.groups:
        words = [COUNTS[group.count], group.size, group.color, group.shape]
        words += ["in", "a", group.line] if group.line else []
        if group.behind:
            words += ["in", "front", "of", group.behind[1], group.behind[0]]
        words += ["at", *group.places] if group.places else []
        parts.append(" ".join(words))
    parts += [f"{ORDINALS[a]} {relation} {ORDINALS[b]}" for a, relation, b in wish.orders]
    return " , ".join(parts)


def parse_plan(text: str, side: int = SIDE) -> Wish:
    """Reads a plan, which names no cell: any `side` will do.

    Raises:
        ValueError: naming the part that does not fit the grammar; or two groups are of one kind,
            so that no thing could be told to belong to either.
    """
    groups: list[Group] = []
    orders: list[Order] = []
    for part in untagged(text).split(" , "):
        words = part.split()
        if words and words[0] in ORDINALS:
            orders.append(_order(words, text))
        else:
            groups.append(_group(words, text))
    if not groups or any(max(a, b) >= len(groups) for a, _, b in orders):
        raise ValueError(f"plan {text!r} speaks of groups that it does not name")
    if len({(group.shape, group.color) for group in groups}) < len(groups):
        raise ValueError(f"plan {text!r} has two groups of one kind")
    return Wish(tuple(groups), tuple(orders))


def _group(words: Sequence[str], text: str) -> Group:
    head, rest = tuple(words[:4]), tuple(words[4:])
    known = (COUNTS[1:], SIZES, COLORS, SHAPES)
    if len(head) < 4 or not all(word in these for word, these in zip(head, known)):
        raise ValueError(f"plan {text!r}: {' '.join(words)!r} is no `count size color shape`")
    line = behind = None
    if rest[:2] == ("in", "a") and rest[2:3] and rest[2] in LINES:
        line, rest = rest[2], rest[3:]
    is_front = rest[:3] == ("in", "front", "of") and len(rest) > 4
    if is_front and rest[3] in COLORS and rest[4] in BACKS:
        behind, rest = (rest[4], rest[3]), rest[5:]
    places: tuple[str, ...] = ()
    if rest[:1] == ("at",):
        places = tuple(map(" ".join, zip(rest[1::2], rest[2::2])))
        rest = rest[1 + 2 * len(places) :]
    if rest or not set(places) <= set(PLACES):
        left = " ".join(rest or places)
        raise ValueError(f"plan {text!r}: {left!r} is no line, no background and no place")
    kind = COUNTS.index(head[0]), head[3], head[2], head[1]
    return Group(*kind, line, behind, places=places)


def _order(words: Sequence[str], text: str) -> Order:
    relation = " ".join(words[1:-1])
    if relation not in RELATIONS or words[-1] not in ORDINALS:
        raise ValueError(f"plan {text!r}: {' '.join(words)!r} is no relation of two groups")
    return Order(ORDINALS.index(words[0]), relation, ORDINALS.index(words[-1]))


def compared(plan: Wish, things: Sequence[Thing]) -> list[str]:
    """For every planned object what becomes of it, then what is too much."""
    parts, used = [], set()
    for group in plan.groups:
        own = [thing for thing in things if group.is_kin(thing)]
        kept = sorted(own, key=lambda thing: (_fault(group, thing) != RIGHT, thing.cell))
        kept = sorted(kept[: group.count], key=lambda thing: thing.cell)
        used |= {thing.cell for thing in kept}
        name = f"{group.color} {group.shape}"
        parts += [f"{name} {thing.cell} {_fault(group, thing)}" for thing in kept]
        parts += [f"{name} {MISSING}"] * (group.count - len(kept))
    left = [thing for thing in things if thing.cell not in used]
    return parts + [f"{EXTRA} {thing.color} {thing.shape} {thing.cell}" for thing in left]


def _fault(group: Group, thing: Thing) -> str:
    """Whether a thing of a group is as planned, and the first that is not."""
    if thing.behind != group.behind:
        return "alone" if thing.behind is None else f"in front of {' '.join(thing.behind[::-1])}"
    return RIGHT if thing.size == group.size else thing.size


def reflection_text(plan: Wish, things: Things, edit: Edit) -> str:
    """What is compared, then one edit."""
    return " , ".join([*compared(plan, things), edit_text(edit, things)])


def edit_text(edit: Edit, things: Sequence[Thing]) -> str:
    """One edit in words; what is added or changed to is told in full."""
    if edit == NO_CHANGE:
        return NOTHING_TO_DO
    if edit.op == "add":
        return f"add {_told(edit)} at {edit.cell}"
    thing = next(thing for thing in things if thing.cell == edit.cell)
    named = f"the {thing.color} {thing.shape} at {thing.cell}"
    if edit.op == "remove":
        return f"remove {named}"
    if edit.op == "move":
        return f"move {named} to {edit.to}"
    return f"change {named} to {_told(edit)}"


def _told(edit: Edit) -> str:
    words = with_article(f"{edit.size} {edit.color} {edit.shape}")
    return f"{words} in front of {edit.to}" if edit.to else words


def parse_reflection(text: str, side: int = SIDE) -> tuple[list[str], str]:
    """The parts of a reflection and the edit it asks for, on a canvas of `side` cells.

    Raises:
        ValueError: a part that does not fit the grammar.
    """
    *parts, edit = untagged(text).split(" , ")
    for part in parts:
        words = part.split()
        is_extra = words[:1] == [EXTRA]
        color, shape, *rest = words[is_extra:] if len(words) > 2 else ("", "")
        places = (MISSING, *cell_names(side))
        is_whole = len(rest) == 1 if is_extra or rest[:1] == [MISSING] else len(rest) > 1
        if color not in COLORS or shape not in SHAPES or not is_whole or rest[0] not in places:
            raise ValueError(f"reflection {text!r}: {part!r} compares nothing")
    if edit != NOTHING_TO_DO and edit.split(" ")[0] not in ("add", "remove", "change", "move"):
        raise ValueError(f"reflection {text!r} ends in no edit")
    return parts, edit
