"""The roles of the embedded world: a model draws, the exact judge verifies, repairs and decides."""

from collections.abc import Sequence
from zlib import crc32

import numpy as np

from unireason_jax.data.templates import TEMPLATES
from unireason_jax.inference.reasoner import Reasoner
from unireason_jax.inference.trace import Trace
from unireason_jax.synthesis.roles import Draft, Finding, Lesson, Request, Roles, Round, Unusable
from unireason_jax.world import tasks
from unireason_jax.world.dice import Dice
from unireason_jax.world.edits import NO_CHANGE, apply_edit, diff
from unireason_jax.world.language import plan_text, reflection_text, untagged
from unireason_jax.world.parser import parse, to_objects
from unireason_jax.world.repair import closest_scene, redrawn
from unireason_jax.world.requirements import Requirement
from unireason_jax.world.scenes import (
    CELL,
    SIZES,
    TRAIN_COLORS,
    Object,
    cell_names,
)
from unireason_jax.world.verifier import MAX_RESIDUAL, check, check_image

MAX_ROUNDS = 3


def requests(seed: int, count: int, side: int) -> list[Request]:
    """Prompts of the training side of the hold-out, with the exact requirement as details."""
    found = []
    for index in range(count):
        raw = tasks.example(seed, index, "refine_t2i", side=side, render=False)
        found.append(Request(raw["id"], raw["prompt"], raw["requirement"]))
    return found


def roles(reasoner: Reasoner, template: str = "t2i") -> Roles:
    """A model as the generator, the exact judge as everybody else."""
    return Roles(ModelGenerator(reasoner, template), verify, teach, prefer)


class ModelGenerator:
    """Drafts with a model.

    Args:
      reasoner: the model.
      template: "t2i", or "think_t2i" for a model that plans.
    """

    def __init__(self, reasoner: Reasoner, template: str = "t2i"):
        self.reasoner, self.template = reasoner, template

    def __call__(self, requests: Sequence[Request]) -> list[Draft]:
        """One draft a request, the same whatever else is in the call."""
        make, style = TEMPLATES[self.template], self.reasoner.style
        records = [make({"id": r.id, "prompt": r.prompt}, style) for r in requests]
        return [Draft(trace.image, _plan(trace)) for trace in self.reasoner.run(records)]


def _plan(trace: Trace) -> str | None:
    """The plan of a conversation, without its tags."""
    plan = trace.text_of("plan")
    return None if plan is None else untagged(plan)


def verify(request: Request, image: np.ndarray) -> Finding:
    """The exact verdict. Raises Unusable for a picture that is not made of clean objects."""
    seen = parse(image)
    if seen.residual > MAX_RESIDUAL:
        raise Unusable(f"more than {MAX_RESIDUAL:.0%} of the pixels are no object")
    verdict = check(request.details, seen.objects, seen.residual, side=image.shape[0] // CELL)
    return Finding(verdict.passed, verdict.reasons)


def teach(request: Request, draft: np.ndarray, finding: Finding) -> Lesson:
    """The fewest edits that make the draft right, each with the picture after it.

    Only the cells that an edit names are drawn anew, so the rest stays as the model drew it.
    """
    side = draft.shape[0] // CELL
    objects = to_objects(parse(draft).objects, side)
    if len({obj.cell for obj in objects}) != len(objects):
        raise Unusable("two objects in one cell")
    requirement: Requirement = request.details
    target = objects if finding.passed else closest_scene(requirement, objects, side).objects
    target = _varied(target, objects, requirement, Dice(0, crc32(request.id.encode())), side)
    edits = diff(target, objects)
    if len(edits) > MAX_ROUNDS:
        raise Unusable(f"more than {MAX_ROUNDS} edits away from what was asked for")
    rounds, image = [], draft
    for edit in edits:
        words = reflection_text(edit, objects)
        objects = apply_edit(objects, edit)
        image = redrawn(image, objects, edit, side)
        rounds.append(Round(words, image))
    return Lesson(plan_text(target), tuple(rounds), reflection_text(NO_CHANGE, objects))


def _varied(
    target: tuple[Object, ...],
    seen: tuple[Object, ...],
    requirement: Requirement,
    dice: Dice,
    side: int,
) -> tuple[Object, ...]:
    """The target with what the request leaves open about new objects drawn at random.

    Otherwise every missing object would be learned as large, red and in the first free cell.
    """
    old, taken = {obj.cell for obj in seen}, {obj.cell for obj in target}
    free = [cell for cell in cell_names(side) if cell not in old | taken]
    for obj in [obj for obj in target if obj.cell not in old]:
        changes = [{"color": dice.pick(TRAIN_COLORS[obj.shape])}, {"size": dice.pick(SIZES)}]
        changes += [{"cell": dice.pick(free)}] if free else []
        for change in changes:
            changed = obj._replace(**change)
            scene = tuple(changed if each == obj else each for each in target)
            if check(requirement, scene, side=side).passed:
                free = [cell for cell in free if cell != changed.cell]
                target, obj = scene, changed
    return target


def prefer(request: Request, draft: np.ndarray, refined: np.ndarray) -> bool:
    """Whether the refined picture is right and the draft is not."""
    requirement = request.details
    return check_image(requirement, refined).passed and not check_image(requirement, draft).passed
