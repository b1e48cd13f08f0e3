"""The embedded world as every model of a recipe: it answers over the protocols, knowing the truth.

It reads the request of a question between `<request>` and `</request>`, the stage from the name of
the shape asked for, and the rest from pictures: what any model would get. `Errors` make it wrong at
known rates, as models are.
"""

import base64
import dataclasses
import json
import random
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from unireason_jax.endpoints.calls import content_key
from unireason_jax.endpoints.failures import CallFailure
from unireason_jax.endpoints.loopback import completion, drawn
from unireason_jax.endpoints.pictures import opened, png
from unireason_jax.world import tasks
from unireason_jax.world.dice import Dice
from unireason_jax.world.drafts import inject_faults
from unireason_jax.world.edits import NO_CHANGE, Edit, apply_edit, diff
from unireason_jax.world.language import (
    edit_text,
    parse_edit,
    parse_plan,
    plan_text,
    reflection_text,
)
from unireason_jax.world.parser import parse, to_objects
from unireason_jax.world.renderer import render
from unireason_jax.world.repair import closest_scene, redrawn
from unireason_jax.world.requirements import Requirement, sample_scene
from unireason_jax.world.scenes import CELL, TRAIN_PAIRS, Object, cell_names, make_scene
from unireason_jax.world.verifier import MAX_RESIDUAL, check_image

MODEL = "world"
_REQUEST = re.compile(r"<request>\s*(.*?)\s*</request>", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Errors:
    """How often the world's models are wrong.

    Attributes:
      draft: drafts with one or two faults.
      verify: verdicts that overlook a fault.
      edit: edits that do something else.
      judge: comparisons won by whoever comes first, and checks that let a picture pass.
    """

    draft: float = 0.6
    verify: float = 0.0
    edit: float = 0.0
    judge: float = 0.0


class Question(NamedTuple):
    """A chat: the stage it is asked for, its words, the request in them, and its pictures."""

    stage: str
    words: str
    request: str
    pictures: tuple[np.ndarray, ...]
    lot: random.Random


class WorldModels:
    """Answers of the world, for `endpoints.loopback`.

    Args:
      seed, count: of the prompts that it knows.
      side: cells per side of its pictures.
      errors: how often it is wrong.
    """

    def __init__(self, seed: int, count: int, side: int = 4, errors: Errors | None = None):
        self.side, self.errors = side, errors or Errors()
        self.truths: dict[str, Requirement] = {}
        self._repairs: dict[tuple[str, bytes], list[Edit]] = {}
        for index in range(count):
            raw = tasks.example(seed, index, "refine_t2i", side=side, render=False)
            self.truths[raw["prompt"]] = raw["requirement"]

    def seeds(self) -> list[dict[str, str]]:
        """Rows of seeds: all prompts it knows."""
        return [{"id": f"world-{n}", "prompt": prompt} for n, prompt in enumerate(self.truths)]

    def is_right(self, prompt: str, image: np.ndarray) -> bool:
        """The exact verdict on a picture."""
        return check_image(self.truths[prompt], image).passed

    def __call__(self, path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """The answer to a call. Raises CallFailure for what it does not know."""
        lot = random.Random(content_key(path, body))
        if path == "images/generations":
            return drawn(png(self._draft(body["prompt"], lot)))
        if path == "images/edits":
            (picture,) = body["pictures"]
            return drawn(png(self._edited(body["prompt"], opened(picture), lot)))
        if path != "chat/completions":
            raise CallFailure("request", f"no {path} here")
        question = _question(body, lot)
        if question.stage not in SAYS:
            raise CallFailure("request", f"the world knows no stage '{question.stage}'")
        text = json.dumps(SAYS[question.stage](self, question))
        return completion(f"Here it is:\n```json\n{text}\n```", MODEL)

    def requirement(self, prompt: str) -> Requirement:
        """What a prompt asks for. Raises CallFailure for a prompt it does not know."""
        if prompt not in self.truths:
            raise CallFailure("request", f"the world knows no prompt {prompt[:80]!r}")
        return self.truths[prompt]

    def objects(self, image: np.ndarray) -> tuple[Object, ...]:
        """What is seen. Raises CallFailure for a picture that is not the world's."""
        seen = parse(image)
        if seen.residual > MAX_RESIDUAL:
            raise CallFailure("request", "this is no picture of the world")
        return to_objects(seen.objects, image.shape[0] // CELL)

    def repairs(self, prompt: str, image: np.ndarray) -> list[Edit]:
        """The fewest edits that make a picture right."""
        key = prompt, image.tobytes()
        if key not in self._repairs:  # the same picture is looked at four times
            seen, wanted = self.objects(image), self.requirement(prompt)
            right = check_image(wanted, image).passed
            target = seen if right else closest_scene(wanted, seen, self.side).objects
            self._repairs[key] = diff(target, seen)
        return self._repairs[key]

    def _draft(self, prompt: str, lot: random.Random) -> np.ndarray:
        request, _, plan = prompt.partition("\n\n")
        requirement = self.requirement(request.strip())
        scene = make_scene(parse_plan(plan, self.side).objects, self.side)
        if lot.random() < self.errors.draft:
            dice = Dice(lot.getrandbits(31), 0)
            scene, _ = inject_faults(dice, requirement, scene, 1 + (lot.random() < 0.3))
        return render(scene)

    def _edited(self, words: str, image: np.ndarray, lot: random.Random) -> np.ndarray:
        seen = self.objects(image)
        for line in words.splitlines():
            try:
                edit = parse_edit(line.removeprefix("- "), self.side)
                after = apply_edit(seen, edit)
            except ValueError:
                continue
            if lot.random() < self.errors.edit:
                edit = _another(edit, seen, self.side, lot)
                after = apply_edit(seen, edit)
            image, seen = redrawn(image, after, edit, self.side), after
        return image


def _another(edit: Edit, seen: tuple[Object, ...], side: int, lot: random.Random) -> Edit:
    """An edit that nobody asked for."""
    free = [cell for cell in cell_names(side) if cell not in {obj.cell for obj in seen}]
    if free and (edit.op != "add" or not seen):
        return Edit("add", lot.choice(free), "", *lot.choice(TRAIN_PAIRS), "small")
    return Edit("remove", lot.choice(seen).cell) if seen else NO_CHANGE


def _question(body: Mapping[str, Any], lot: random.Random) -> Question:
    first = next(m["content"] for m in body["messages"] if not isinstance(m["content"], str))
    shape = body.get("response_format", {}).get("json_schema", {})
    words = first[0]["text"]
    pictures = tuple(
        opened(base64.b64decode(part["image_url"]["url"].partition("base64,")[2]))
        for part in first
        if "image_url" in part
    )
    found = _REQUEST.search(words)
    return Question(shape.get("name", ""), words, found[1] if found else "", pictures, lot)


def _plan(world: WorldModels, asked: Question) -> dict[str, Any]:
    requirement = world.requirement(asked.request)
    scene = sample_scene(requirement, Dice(asked.lot.getrandbits(31), 0), world.side)
    return {"reasoning": plan_text(scene.objects)}


def _verify(world: WorldModels, asked: Question) -> dict[str, Any]:
    (image,) = asked.pictures
    seen, edits = world.objects(image), world.repairs(asked.request, image)
    if edits and asked.lot.random() < world.errors.verify:
        edits = []
    edit = edits[0] if edits else NO_CHANGE
    axes = ("object_presence", "attribute_accuracy", "style_consistency", "realism", "aesthetics")
    return {
        **dict.fromkeys(axes, 5 if not edits else 2),
        "passed": not edits,
        "directives": [edit_text(edit, seen)] if edits else [],
        "reflection": reflection_text(edit, seen),
    }


def _compare(world: WorldModels, asked: Question) -> dict[str, Any]:
    if asked.lot.random() < world.errors.judge:
        return {"winner": "first", "reason": "it comes first"}
    first, second = (len(world.repairs(asked.request, image)) for image in asked.pictures)
    winner = "tie" if first == second else "first" if first < second else "second"
    return {"winner": winner, "reason": f"{first} and {second} edits away"}


def _confirm(world: WorldModels, asked: Question) -> dict[str, Any]:
    good = not world.repairs(asked.request, asked.pictures[-1])
    if not good and asked.lot.random() < world.errors.judge:
        good = True
    return {"alignment": 5 if good else 2, "fidelity": 5, "reasoning": 5 if good else 2}


SAYS: dict[str, Callable[[WorldModels, Question], dict[str, Any]]] = {
    "plan": _plan,
    "verify": _verify,
    "compare": _compare,
    "confirm": _confirm,
}
