"""World knowledge in five domains: prompts that do not name what to draw.

The layout of a benchmark item follows WISE (Niu et al. 2025): Prompt, Explanation, Category,
Subcategory, prompt_id, and Hint for the explicit prompt that separates knowing from drawing. The
second control is a wrong think text, which tells whether a picture follows the think or the prompt.
"""

from functools import lru_cache
from typing import Any, NamedTuple

from unireason_jax.world import (
    facts_cultural,
    facts_logical,
    facts_natural,
    facts_spatial,
    facts_temporal,
)
from unireason_jax.world.dice import Dice
from unireason_jax.world.facts import Fact
from unireason_jax.world.language import plan_text
from unireason_jax.world.requirements import Requirement, sample_scene
from unireason_jax.world.scenes import SIDE, is_held_out_prompt

_TABLES = (facts_cultural, facts_natural, facts_spatial, facts_temporal, facts_logical)
DOMAINS = tuple(table.DOMAIN for table in _TABLES)


class Item(NamedTuple):
    """One prompt and the number of its fact in `all_facts`."""

    prompt: str
    fact: int


@lru_cache
def all_facts(side: int = SIDE) -> tuple[Fact, ...]:
    """Return every fact on a grid of `side` x `side` cells, domain by domain."""
    return tuple(fact for table in _TABLES for fact in table.facts(side))


@lru_cache
def items(
    domain: str | None = None, *, held_out: bool = False, side: int = SIDE
) -> tuple[Item, ...]:
    """Return the prompts of a domain (None: all) on one side of the hold-out.

    Raises:
        ValueError: for a domain outside `DOMAINS`.
    """
    if domain not in (None, *DOMAINS):
        raise ValueError(f"unknown knowledge domain {domain!r}; use one of {DOMAINS}")
    return tuple(
        Item(prompt, i)
        for i, fact in enumerate(all_facts(side))
        if domain in (None, fact.domain)
        for prompt in fact.prompts
        if is_held_out_prompt(prompt) == held_out
    )


@lru_cache
def _rivals(index: int, side: int) -> tuple[int, ...]:
    """Return the facts of the same subcategory, or else domain, that ask for something else."""
    facts = all_facts(side)
    own = facts[index]
    others = [i for i, f in enumerate(facts) if f.requirement != own.requirement]
    domain = [i for i in others if facts[i].domain == own.domain]
    near = [i for i in domain if facts[i].subcategory == own.subcategory]
    return tuple(near or domain)


def sample_item(dice: Dice, side: int = SIDE, *, domain: str | None, held_out: bool) -> Item:
    """Draw a prompt: first the domain (if None), then the prompt, each uniformly."""
    return dice.pick(items(domain or dice.pick(DOMAINS), held_out=held_out, side=side))


def wrong_think(dice: Dice, item: Item, side: int = SIDE) -> tuple[str, Requirement]:
    """Return the think text of another fact of the same kind, and what it asks for."""
    rival = all_facts(side)[dice.pick(_rivals(item.fact, side))]
    scene = sample_scene(rival.requirement, dice, side)
    return plan_text(scene.objects, rival.fact), rival.requirement


def wise_record(item: Item, prompt_id: int, side: int = SIDE) -> dict[str, Any]:
    """Return a prompt in WISE's JSON schema, with the `Hint` of the rewritten variant."""
    fact = all_facts(side)[item.fact]
    return {
        "Prompt": item.prompt,
        "Explanation": fact.explanation,
        "Category": fact.domain,
        "Subcategory": fact.subcategory,
        "prompt_id": prompt_id,
        "Hint": fact.hint,
    }
