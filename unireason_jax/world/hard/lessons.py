"""Raw examples of the harder world, as `world.tasks` has them of the first.

    hard_t2i, hard_think_t2i    prompt, think (None without), image
    hard_refine_t2i             prompt, explanation, draft, rounds, final_reflection, faults
    hard_caption                image, question, answer

`scene` are the things shown, `requirement` the prompt's wish, `plan` the resolved one.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from unireason_jax.world import renderer
from unireason_jax.world.dice import Dice
from unireason_jax.world.edits import NO_CHANGE
from unireason_jax.world.hard.asking import sample_prompt
from unireason_jax.world.hard.judge import check
from unireason_jax.world.hard.repair import edited, suggest
from unireason_jax.world.hard.things import SIDE, Thing, Things, arranged, render
from unireason_jax.world.hard.wishes import Wish, any_color, resolved, sample_things, sketched
from unireason_jax.world.hard.words import plan_text, reflection_text
from unireason_jax.world.scenes import SHAPES, SIZES, cell_names

TASKS = ("hard_t2i", "hard_think_t2i", "hard_refine_t2i", "hard_caption")
QUESTION = "what is there in the picture"
FAULTS = ("missing", "extra", "color", "size", "shape", "place", "swap")
MOST_ROUNDS = 3
_RIGHT_SHARE = 0.5  # of drafts
_ATTEMPTS = 40
Draw = Callable[[Things], np.ndarray]
Example = dict[str, Any]


def build(
    task: str,
    dice: Dice,
    *,
    render_it: bool,
    tag: str | None,
    held_out: bool,
    side: int = SIDE,
) -> Example:
    """An example without its id; `render_it` False leaves all pictures blank."""

    def draw(things: Things) -> np.ndarray:
        return render(things, side) if render_it else renderer.blank(side)

    prompt = sample_prompt(dice, tag=tag, held_out=held_out, side=side)
    plan = resolved(prompt.wish, dice)
    things = sample_things(plan, dice, side)
    plan = sketched(plan, things, side)
    told = {"scene": things, "requirement": prompt.wish, "plan": plan, "tag": prompt.tag}
    if task == "hard_caption":
        asked = {"question": QUESTION, "answer": caption(things)}
        return {"task": "vqa", "image": draw(things), **asked, **told}
    if task == "hard_refine_t2i":
        traced = _traced(dice, draw, plan, things, side)
        return {"task": "refine_t2i", "prompt": prompt.text, **traced, **told}
    think = plan_text(plan) if task == "hard_think_t2i" else None
    return {"task": "t2i", "prompt": prompt.text, "think": think, "image": draw(things), **told}


def caption(things: Things) -> str:
    """Every thing with its place, in reading order, in the order of words of the first world."""
    parts = []
    for thing in things:
        back = f" in front of {' '.join(thing.behind[::-1])}" if thing.behind else ""
        parts.append(f"{thing.shape} {thing.color} {thing.size} {thing.cell}{back}")
    return " , ".join(parts)


def _traced(dice: Dice, draw: Draw, plan: Wish, things: Things, side: int) -> Example:
    """A draft, right in half of the cases, and the rounds that repair it, one edit each."""
    count = 0 if dice.chance(_RIGHT_SHARE) else 1 + dice.below(MOST_ROUNDS)
    draft, faults = spoiled(dice, plan, things, count, side)
    rounds, now = [], draft
    while (edit := suggest(plan, now, side)) != NO_CHANGE and len(rounds) < MOST_ROUNDS:
        text = reflection_text(plan, now, edit)
        now = edited(now, edit)
        rounds.append({"reflection": text, "image": draw(now), "scene": now})
    return {
        "explanation": plan_text(plan),
        "draft": draw(draft),
        "draft_scene": draft,
        "faults": faults,
        "rounds": rounds,
        "final_reflection": reflection_text(plan, now, NO_CHANGE),
    }


def spoiled(
    dice: Dice, plan: Wish, things: Things, count: int, side: int = SIDE
) -> tuple[Things, tuple[str, ...]]:
    """Things with up to `count` faults, each of which breaks the plan; and their kinds.

    Whatever is returned can be repaired in `MOST_ROUNDS` edits.
    """
    now, faults = things, ()
    for _ in range(_ATTEMPTS * (count > 0)):
        if len(faults) == count:
            break
        kind = dice.pick(FAULTS)
        wrong = _fault(dice, kind, now, side)
        if wrong is None or check(plan, wrong).passed or not is_near(plan, wrong, side):
            continue
        if sum(check(plan, wrong).shares.values()) < sum(check(plan, now).shares.values()):
            now, faults = wrong, (*faults, kind)
    return now, faults


def is_near(plan: Wish, things: Things, side: int = SIDE) -> bool:
    """Whether `MOST_ROUNDS` edits repair things."""
    for _ in range(MOST_ROUNDS):
        if (edit := suggest(plan, things, side)) == NO_CHANGE:
            return True
        things = edited(things, edit)
    return check(plan, things).passed


def _fault(dice: Dice, kind: str, things: Things, side: int) -> Things | None:
    """Things with one fault, or None where the draw does not fit."""
    if not things:
        return None
    thing = dice.pick(things)
    others = [other for other in things if other.cell != thing.cell]
    taken = {other.cell for other in things}
    cell = dice.pick([cell for cell in cell_names(side) if cell not in taken])
    if kind == "missing":
        return arranged(others)
    if kind == "extra":
        shape = dice.pick(SHAPES)
        look = (thing.shape, thing.color) if dice.chance(0.5) else (shape, any_color(shape, dice))
        return arranged([*things, Thing(*look, dice.pick(SIZES), cell)])
    if kind == "place":
        return arranged([*others, thing._replace(cell=cell)])
    if kind == "swap":
        other = dice.pick(things)
        if other.look == thing.look:
            return None
        rest = [one for one in others if one.cell != other.cell]
        swapped = thing._replace(cell=other.cell), other._replace(cell=thing.cell)
        return arranged([*rest, *swapped])
    if kind == "size":
        if thing.behind:
            return arranged([*others, thing._replace(behind=None)])
        size = "small" if thing.size == "large" else "large"
        return arranged([*others, thing._replace(size=size)])
    if thing.behind:
        return None
    if kind == "color":
        color = any_color(thing.shape, dice, (thing.color,))
        return arranged([*others, thing._replace(color=color)])
    shape = dice.pick([shape for shape in SHAPES if shape != thing.shape])
    return arranged([*others, thing._replace(shape=shape)])
