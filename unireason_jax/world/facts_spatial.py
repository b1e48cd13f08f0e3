"""Spatial reasoning: mirrors, turns, opposite corners, between, stacks, rows and edges."""

from unireason_jax.world.facts import (
    ORDERED_SHAPES,
    UNORDERED_SHAPES,
    Fact,
    chain,
    one,
    opened,
)
from unireason_jax.world.language import PLURALS, phrase
from unireason_jax.world.requirements import Relation, Requirement, Want
from unireason_jax.world.scenes import SHAPES, TRAIN_PAIRS, cell_names, row_column

DOMAIN = "spatial"


def _named(i: int) -> Want:
    """Return a coloured shape; consecutive numbers give different ones."""
    return Want(*TRAIN_PAIRS[(i * 11 + 3) % len(TRAIN_PAIRS)])


def _moved(subcategory: str, i: int, cell: str, to: str, text: str, fact: str) -> Fact:
    """Return the fact that a coloured shape at a cell ends up at another."""
    want = _named(i)
    prompts = opened(text.format(what=phrase(want), cell=cell))
    requirement = one(want.shape, want.color, None, to)
    return Fact(DOMAIN, subcategory, prompts, fact.format(cell=cell, to=to), requirement)


def _layouts() -> list[Fact]:
    table = []
    for middle, outer in ORDERED_SHAPES:
        wants = (Want(outer), Want(middle), Want(outer))
        prompts = opened(f"a {middle} between two {PLURALS[outer]} in a row")
        fact = f"between is a {outer} then a {middle} then a {outer}"
        requirement = chain("left of", *wants, aligned=True)
        table.append(Fact(DOMAIN, "between", prompts, fact, requirement))
    for upper, lower in ORDERED_SHAPES:
        prompts = opened(f"a {upper} on top of a {lower}")
        relations = (Relation(0, "above", 1), Relation(0, "beside", 1))
        requirement = Requirement((Want(upper), Want(lower)), relations)
        fact = f"on top of is above and next to the {lower}"
        table.append(Fact(DOMAIN, "stacks", prompts, fact, requirement))
    for left, right in UNORDERED_SHAPES:
        wants = (Want(left), Want(right))
        for core, axis, fact in (
            (f"a {left} and a {right} in the same row", "row", "the same row has both"),
            (f"a {left} and a {right} in the same column", "column", "the same column has both"),
            (f"a {left} far from a {right}", "apart", "far is two cells or more"),
            (f"a {left} next to a {right}", "beside", "next to is one cell"),
        ):
            requirement = Requirement(wants, (Relation(0, axis, 1),))
            table.append(Fact(DOMAIN, "lines", opened(core), fact, requirement))
    for region in ("top", "bottom", "left", "right"):
        for shape in SHAPES:
            prompts = opened(f"a {shape} at the {region} of the picture")
            requirement = one(shape, None, None, region)
            table.append(Fact(DOMAIN, "edges", prompts, f"it is at the {region}", requirement))
    for shape in SHAPES:
        for where, fact in (("corner", "a1 is a corner"), ("middle", "b2 is in the middle")):
            article = "a" if where == "corner" else "the"
            prompts = opened(f"a {shape} in {article} {where} of the picture")
            table.append(Fact(DOMAIN, "edges", prompts, fact, one(shape, None, None, where)))
    return table


def facts(side: int) -> list[Fact]:
    """Return the facts of this domain on a grid of `side` x `side` cells."""
    names, last = cell_names(side), side - 1
    table = []
    for i, cell in enumerate(names):
        row, col = row_column(cell)
        mirrored = names[row * side + last - col]
        text = "the mirror of {what} at {cell}"
        fact = "the mirror of {cell} is {to}"
        table.append(_moved("mirrors", i, cell, mirrored, text, fact))
        if i % 2 == 0:
            turned = names[col * side + last - row]
            text = "{what} at {cell} after a quarter turn right"
            fact = "a quarter turn right of {cell} is {to}"
            table.append(_moved("turns", i + 5, cell, turned, text, fact))
        if {row, col} <= {0, last}:
            far = names[(last - row) * side + last - col]
            text = "{what} in the corner opposite {cell}"
            for k in range(3):
                fact = "the corner opposite {cell} is {to}"
                table.append(_moved("corners", i + 7 * k, cell, far, text, fact))
    return table + _layouts()
