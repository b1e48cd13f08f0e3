"""Prompts of the harder world, by what makes them hard."""

from collections.abc import Callable
from typing import NamedTuple

from unireason_jax.world.dice import Dice
from unireason_jax.world.hard.things import BACKS, SIDE, most_objects
from unireason_jax.world.hard.wishes import (
    LINES,
    RELATIONS,
    Group,
    Order,
    Wish,
    any_color,
    objects_of,
)
from unireason_jax.world.language import NUMBERS, PLURALS, with_article
from unireason_jax.world.scenes import SHAPES, SIZES, TRAIN_SHAPES, is_held_out_prompt

OPENINGS = ("", "draw ", "make ", "a picture of ")
FACTS = {
    "a cat has legs": 4,
    "a bird has legs": 2,
    "a bicycle has wheels": 2,
    "a car has wheels": 4,
    "a triangle has corners": 3,
    "a square has corners": 4,
    "there are stripe colors in the flag of italy": 3,
}
SHADES = {
    "snow": "white",
    "blood": "red",
    "grass": "green",
    "a lemon": "yellow",
    "a pumpkin": "orange",
    "the sky at day": "blue",
}


class Prompt(NamedTuple):
    """A prompt, its tag, and what a picture of it has to show."""

    text: str
    tag: str
    wish: Wish


def phrase(group: Group) -> str:
    """A group in words: "a row of three small red squares", "a circle in front of a square"."""
    words = [word for word in (group.size, group.color) if word]
    noun = PLURALS[group.shape] if group.count > 1 else group.shape
    text = " ".join([*words, noun])
    text = f"{NUMBERS[group.count]} {text}" if group.count > 1 else with_article(text)
    if group.behind:
        shape, color = group.behind
        each = "each " if group.count > 1 else ""
        text = f"{text} {each}in front of a large {color} {shape}"
    return f"a {group.line} of {text}" if group.line else text


def _kinds(dice: Dice, count: int) -> list[tuple[str, str]]:
    """Different pairs of shape and colour."""
    found: list[tuple[str, str]] = []
    while len(found) < count:
        shape = dice.pick(SHAPES)
        pair = shape, any_color(shape, dice)
        if pair not in found:
            found.append(pair)
    return found


def _count(dice: Dice) -> tuple[str, Wish]:
    kinds = _kinds(dice, 2 + dice.below(2))
    groups = [Group(2 + dice.below(2 + (len(kinds) == 2)), *kind) for kind in kinds]
    return " and ".join(map(phrase, groups)), Wish(tuple(groups))


def _row(dice: Dice) -> tuple[str, Wish]:
    (one, two), line = _kinds(dice, 2), dice.pick(LINES)
    relation = dice.pick(RELATIONS[2:] if line == "row" else RELATIONS[:2])
    first = Group(3 + dice.below(2), *one, line=line)
    groups = first, Group(1 + dice.below(3), *two)
    text = f"{phrase(groups[0])} {relation} {phrase(groups[1])}"
    return text, Wish(groups, (Order(0, relation, 1),))


def _chain(dice: Dice) -> tuple[str, Wish]:
    groups = tuple(Group(1, *kind) for kind in _kinds(dice, 3))
    across, down = dice.pick(RELATIONS[:2]), dice.pick(RELATIONS[2:])
    names = [phrase(group) for group in groups]
    text = f"{names[0]} {across} {names[1]} and {down} {names[2]}"
    return text, Wish(groups, (Order(0, across, 1), Order(0, down, 2)))


def _binding(dice: Dice) -> tuple[str, Wish]:
    groups = [Group(1, *kind, dice.pick(SIZES)) for kind in _kinds(dice, 3 + dice.below(2))]
    return " and ".join(map(phrase, groups)), Wish(tuple(groups))


def _front(dice: Dice) -> tuple[str, Wish]:
    (shape, color), other = _kinds(dice, 2)
    behind = dice.pick(BACKS), dice.pick([c for c in TRAIN_BACKS if c != color])
    groups = Group(1 + dice.below(2), shape, color, "small", None, behind), Group(2, *other)
    return " and ".join(map(phrase, groups)), Wish(groups)


def _negation(dice: Dice) -> tuple[str, Wish]:
    shape, other = dice.distinct(SHAPES, 2)
    without = any_color(shape, dice)
    groups = (
        Group(3 + dice.below(3), shape, without=without),
        Group(1, other, any_color(other, dice)),
    )
    none = dice.pick((f"but no {without} one", f"none of them {without}"))
    return f"{phrase(groups[0])} {none} and {phrase(groups[1])}", Wish(groups)


def _arithmetic(dice: Dice) -> tuple[str, Wish]:
    (shape, color), other = _kinds(dice, 2)
    a, b = 1 + dice.below(3), 1 + dice.below(3)
    ways = [(f"{NUMBERS[a]} plus {NUMBERS[b]}", a + b)]
    ways += [(f"{NUMBERS[a + b]} minus {NUMBERS[b]}", a)] * (a > 1)
    said, count = dice.pick(ways)
    groups = Group(count, shape, color), Group(1, *other)
    return f"{said} {color} {PLURALS[shape]} and {phrase(groups[1])}", Wish(groups)


def _knowledge(dice: Dice) -> tuple[str, Wish]:
    fact = dice.pick(tuple(FACTS))
    (shape, color), other = _kinds(dice, 2)
    if dice.chance(0.5):
        groups = Group(FACTS[fact], shape, color), Group(1, *other)
        return f"as many {color} {PLURALS[shape]} as {fact} and {phrase(groups[1])}", Wish(groups)
    shade = dice.pick(tuple(SHADES))
    shape = dice.pick(TRAIN_SHAPES[SHADES[shade]])
    other = next(kind for kind in _kinds(dice, 2) if kind != (shape, SHADES[shade]))
    count = 2 + dice.below(2)
    groups = Group(count, shape, SHADES[shade]), Group(1, *other)
    said = f"{NUMBERS[count]} {PLURALS[shape]} with the color of {shade}"
    return f"{said} and {phrase(groups[1])}", Wish(groups)


TRAIN_BACKS = ("red", "green", "blue", "yellow", "white")
_BY_TAG: dict[str, Callable[[Dice], tuple[str, Wish]]] = {
    "count": _count,
    "row": _row,
    "chain": _chain,
    "binding": _binding,
    "front": _front,
    "negation": _negation,
    "arithmetic": _arithmetic,
    "knowledge": _knowledge,
}
TAGS = tuple(_BY_TAG)


def sample_prompt(
    dice: Dice, *, tag: str | None = None, held_out: bool = False, side: int = SIDE
) -> Prompt:
    """Draws a prompt that a canvas has room for; of held-out wordings only, or of the others only.

    Raises:
        ValueError: an unknown tag.
    """
    if tag is not None and tag not in _BY_TAG:
        raise ValueError(f"unknown tag {tag!r}; use one of {TAGS}")
    while True:
        name = tag or dice.pick(TAGS)
        words, wish = _BY_TAG[name](dice)
        if objects_of(wish) > most_objects(side):
            continue
        text = dice.pick(OPENINGS) + words
        if is_held_out_prompt(text) == held_out:
            return Prompt(text, name, wish)
