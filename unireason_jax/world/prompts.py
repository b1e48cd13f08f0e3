"""Explicit picture prompts in GenEval's six categories, with shapes in the place of classes.

Tags and their meaning follow GenEval (Ghosh et al. 2023): single_object, two_object, counting,
colors, position, color_attr.
"""

from typing import NamedTuple

from unireason_jax.world.dice import Dice
from unireason_jax.world.language import phrase
from unireason_jax.world.requirements import POSITIONS, Relation, Requirement, Want
from unireason_jax.world.scenes import (
    HELD_OUT_PAIRS,
    SHAPES,
    SIZES,
    TRAIN_COLORS,
    is_held_out_prompt,
)

UNSEEN_COUNT_TAG = "many"
TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
UNSEEN_PAIR_TAGS = ("colors", "position", "color_attr")
MIX = (*TAGS, "position", "color_attr")
OPENINGS = ("", "draw ", "make ", "a picture of ")
_PAIRS = tuple(sorted(HELD_OUT_PAIRS))


class Prompt(NamedTuple):
    """A prompt, its category and what a picture of it has to show."""

    text: str
    tag: str
    requirement: Requirement


def _size(dice: Dice) -> str | None:
    return dice.pick(SIZES) if dice.chance(0.5) else None


def _coloured(dice: Dice, unseen_pair: bool, other_than: Want | None = None) -> Want:
    """A want with a colour; differs from another want in shape and colour."""
    while True:
        if unseen_pair:
            shape, color = dice.pick(_PAIRS)
        else:
            shape = dice.pick(SHAPES)
            color = dice.pick(TRAIN_COLORS[shape])
        if other_than is None or (shape != other_than.shape and color != other_than.color):
            return Want(shape, color, _size(dice))


def _draw(dice: Dice, tag: str, unseen_pairs: bool) -> Prompt:
    relations: tuple[Relation, ...] = ()
    joint = " and "
    if tag == "single_object":
        wants = (Want(dice.pick(SHAPES), None, _size(dice)),)
    elif tag == "counting":
        wants = (Want(dice.pick(SHAPES), None, _size(dice), None, 2 + dice.below(3)),)
    elif tag == UNSEEN_COUNT_TAG:
        wants = (Want(dice.pick(SHAPES), None, _size(dice), None, 5 + dice.below(2)),)
    elif tag == "colors":
        wants = (_coloured(dice, unseen_pairs),)
    elif tag == "color_attr" or unseen_pairs or (tag == "position" and dice.chance(0.5)):
        first = _coloured(dice, unseen_pairs)
        wants = (first, _coloured(dice, False, first))
    else:
        first, second = dice.distinct(SHAPES, 2)
        wants = (Want(first, None, _size(dice)), Want(second, None, _size(dice)))
    if tag == "position":
        relation = dice.pick(POSITIONS)
        relations = (Relation(0, relation, 1),)
        joint = f" {relation} "
    text = dice.pick(OPENINGS) + joint.join(phrase(want) for want in wants)
    return Prompt(text, tag, Requirement(wants, relations))


def sample_prompt(
    dice: Dice,
    *,
    tag: str | None = None,
    held_out: bool = False,
    unseen_pairs: bool = False,
) -> Prompt:
    """Draw a prompt.

    Args:
        dice: source of randomness.
        tag: one of `TAGS`, or None for the training mix (position and color_attr twice), or
            `UNSEEN_COUNT_TAG` for five or six objects, which no other tag ever draws.
        held_out: draw only held-out prompt strings; otherwise only the others.
        unseen_pairs: draw prompts that name a (shape, colour) pair that training never sees; then
            only `UNSEEN_PAIR_TAGS` exist and the string hold-out does not apply.

    Raises:
        ValueError: for a tag that does not exist, or not with `unseen_pairs`.
    """
    tags = UNSEEN_PAIR_TAGS if unseen_pairs else MIX
    known = tags if unseen_pairs else (*MIX, UNSEEN_COUNT_TAG)
    if tag is not None and tag not in known:
        raise ValueError(f"unknown tag {tag!r}; use one of {sorted(set(known))}")
    while True:
        prompt = _draw(dice, tag or dice.pick(tags), unseen_pairs)
        if unseen_pairs or is_held_out_prompt(prompt.text) == held_out:
            return prompt
