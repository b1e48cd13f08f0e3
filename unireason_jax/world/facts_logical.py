"""Logical reasoning: sums, odd ones out, patterns, majorities, negation, order, conditions."""

from unireason_jax.world.facts import (
    ORDERED_SHAPES,
    TWO_COLORS,
    Fact,
    chain,
    many,
    one,
    opened,
)
from unireason_jax.world.language import NUMBERS, PLURALS
from unireason_jax.world.requirements import Requirement, Want, names_held_out_pair
from unireason_jax.world.scenes import SHAPES, SIZES, cell_names

DOMAIN = "logical"
SUMS = ((1, 1), (1, 2), (2, 1), (2, 2), (1, 3), (3, 1))
DIFFERENCES = ((2, 1), (3, 1), (3, 2), (4, 1), (4, 2), (4, 3))


def _arithmetic() -> list[Fact]:
    table = []
    for word, cases, sign in (("plus", SUMS, 1), ("minus", DIFFERENCES, -1)):
        for first, second in cases:
            for shape in SHAPES:
                number = first + sign * second
                text = f"{NUMBERS[first]} {word} {NUMBERS[second]}"
                prompts = opened(f"{text} {PLURALS[shape]}")[:2]
                fact = f"{text} is {NUMBERS[number]}"
                table.append(Fact(DOMAIN, "sums", prompts, fact, many(number, shape)))
    return table


def _odd_and_next() -> list[Fact]:
    table = []
    for shape, twin in ORDERED_SHAPES:
        orders = ((shape, twin, twin), (twin, shape, twin), (twin, twin, shape))
        prompts = tuple(f"draw the odd one of {' '.join(order)}" for order in orders)
        fact = f"the {shape} is the odd one"
        table.append(Fact(DOMAIN, "odd_one_out", prompts, fact, one(shape)))
    for i, (first, second) in enumerate(TWO_COLORS):
        shape = SHAPES[i % 4]
        odd = (f"{first} {second} {second}", f"{second} {first} {second}")
        most = (f"{first} {first} {second}", f"{second} {first} {first}")
        repeat = (f"{first} {second} {first} {second}",)
        for kind, lists, words, fact in (
            ("odd_one_out", odd, "odd", f"the odd color is {first}"),
            ("majority", most, "most common", f"the most common color is {first}"),
            ("patterns", repeat, "next", f"next is {first}"),
        ):
            cores = tuple(f"a {shape} with the {words} color of {colors}" for colors in lists)
            table.append(Fact(DOMAIN, kind, opened(*cores), fact, one(shape, first)))
    return table


def _rules() -> list[Fact]:
    table = []
    for shape in SHAPES:
        for size, other in (SIZES, SIZES[::-1]):
            prompts = opened(f"a {shape} that is not {other}")
            table.append(
                Fact(DOMAIN, "not", prompts, f"not {other} is {size}", one(shape, None, size))
            )
            requirement = chain("left of", Want(shape, None, size), Want(shape, None, other))
            prompts = (
                f"sort two {PLURALS[shape]} with the {size} one first",
                f"two {PLURALS[shape]} in a row with the {size} one first",
            )
            fact = f"first is left and {size} is first"
            table.append(Fact(DOMAIN, "order", prompts, fact, requirement))
    for i, (yes, no) in enumerate(ORDERED_SHAPES):
        one_more, other = ("two", "one") if i % 2 else ("one", "two")
        condition = f"{one_more} is more than {other}"
        prompts = (
            f"a {yes} if {condition} , else a {no}",
            f"draw a {yes} if {condition} , else a {no}",
        )
        right = yes if i % 2 else no
        fact = f"{condition}" if i % 2 else f"{one_more} is not more than {other}"
        table.append(Fact(DOMAIN, "conditions", prompts, fact, one(right)))
    return table


def _rows(side: int) -> list[Fact]:
    """Three in a row, two of them given so that only one cell can complete them."""
    names = cell_names(side)
    lines = [
        names[row * side + start : row * side + start + 3]
        for row in range(side)
        for start in range(side - 2)
    ]
    table = []
    for line in lines:
        for goal in line:
            given = [cell for cell in line if cell != goal]
            if sum(set(given) <= set(other) for other in lines) > 1:
                continue
            row = f"the row of three crosses with {given[0]} and {given[1]}"
            requirement = Requirement(tuple(Want("cross", region=cell) for cell in line))
            prompts = (f"complete {row}", f"draw {row}", row)
            table.append(Fact(DOMAIN, "rows", prompts, f"the row needs {goal}", requirement))
    return table


def facts(side: int) -> list[Fact]:
    """Return the facts of this domain on a grid of `side` x `side` cells."""
    table = _arithmetic() + _odd_and_next() + _rules() + _rows(side)
    return [fact for fact in table if not names_held_out_pair(fact.requirement)]
