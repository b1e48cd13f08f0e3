"""What a knowledge fact is, and the small kit the fact tables are written with."""

from typing import NamedTuple

from unireason_jax.world.language import NUMBERS, phrase
from unireason_jax.world.requirements import (
    POSITIONS,
    REGIONS,
    Relation,
    Requirement,
    Want,
    names_held_out_pair,
)
from unireason_jax.world.scenes import COLORS, SHAPES

OPENINGS = ("", "draw ", "a picture of ")
ORDERED_SHAPES = tuple((one, two) for one in SHAPES for two in SHAPES if one != two)
UNORDERED_SHAPES = tuple((one, two) for one, two in ORDERED_SHAPES if one < two)
TWO_COLORS = tuple(
    (COLORS[i], COLORS[(i + step) % len(COLORS)]) for step in (1, 3) for i in range(len(COLORS))
)


class Fact(NamedTuple):
    """One piece of knowledge: implicit prompts, the fact behind them, and the exact target set."""

    domain: str
    subcategory: str
    prompts: tuple[str, ...]
    fact: str
    requirement: Requirement

    @property
    def hint(self) -> str:
        """The explicit prompt that gives the answer away."""
        return explicit(self.requirement)

    @property
    def explanation(self) -> str:
        """The fact and what follows for the picture, for a judge."""
        return f"{self.fact} , so draw {self.hint}"


def explicit(requirement: Requirement) -> str:
    """Say a requirement as an explicit prompt, one noun phrase after the other."""
    joints = {"beside": "next to", "apart": "far from"}
    words = ""
    for i, want in enumerate(requirement.wants):
        if i > 0:
            linked = [
                joints.get(relation, relation)
                for subject, relation, target in requirement.relations
                if (subject, target) == (i - 1, i) and relation not in ("row", "column")
            ]
            words += f" {' and '.join(linked) or 'and'} "
        words += phrase(want)
        if want.region == "corner":
            words += " in a corner"
        elif want.region == "middle":
            words += " in the middle"
        elif want.region is not None:
            words += f" at the {want.region}" if want.region in REGIONS else f" at {want.region}"
    names = {relation.relation for relation in requirement.relations}
    return f"{words} in the same {names.pop()}" if names in ({"row"}, {"column"}) else words


def opened(*cores: str) -> tuple[str, ...]:
    """Return every noun-phrase prompt with every opening."""
    return tuple(opening + core for core in cores for opening in OPENINGS)


def one(
    shape: str | None, color: str | None = None, size: str | None = None, region: str | None = None
) -> Requirement:
    """Require a single object."""
    return Requirement((Want(shape, color, size, region),))


def many(count: int, shape: str, color: str | None = None) -> Requirement:
    """Require `count` objects of a shape."""
    return Requirement((Want(shape, color, None, None, count),))


def chain(relation: str, *wants: Want, aligned: bool = False) -> Requirement:
    """Require each want in a relation to the next one, and with `aligned` all in one line."""
    relations = [Relation(i, relation, i + 1) for i in range(len(wants) - 1)]
    if aligned:
        line = "row" if relation in POSITIONS[:2] else "column"
        relations += [Relation(i, line, i + 1) for i in range(len(wants) - 1)]
    return Requirement(wants, tuple(relations))


def colored(domain: str, subcategory: str, cores: list[str], fact: str, color: str) -> list[Fact]:
    """Return one fact per shape: the prompts ask for a shape `with` something that has a colour."""
    facts = []
    for shape in SHAPES:
        requirement = one(shape, color)
        if not names_held_out_pair(requirement):
            prompts = opened(*(f"a {shape} with {core}" for core in cores))
            facts.append(Fact(domain, subcategory, prompts, fact, requirement))
    return facts


def counted(domain: str, subcategory: str, core: str, fact: str, number: int) -> list[Fact]:
    """Return one fact per shape: `as many circles as ...`."""
    facts = []
    for shape in SHAPES:
        name = phrase(Want(shape, None, None, None, 2)).removeprefix(f"{NUMBERS[2]} ")
        prompts = (f"as many {name} as {core}", f"draw as many {name} as {core}")
        facts.append(Fact(domain, subcategory, prompts, fact, many(number, shape)))
    return facts
