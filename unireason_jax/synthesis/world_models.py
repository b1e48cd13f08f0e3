"""The embedded world as every model of a recipe: it answers over the protocols, knowing the truth.

It reads the request of a question between `<request>` and `</request>`, the stage from the name of
the shape asked for, and the rest from pictures: what any model would get. `Errors` make it wrong at
known rates, as models are; what it says at which stage is in `world_answers`.
"""

import base64
import dataclasses
import hashlib
import json
import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from unireason_jax.endpoints.calls import content_key
from unireason_jax.endpoints.failures import CallFailure
from unireason_jax.endpoints.loopback import completion, drawn
from unireason_jax.endpoints.pictures import opened, png
from unireason_jax.storage import atomic
from unireason_jax.world import tasks
from unireason_jax.world.dice import Dice
from unireason_jax.world.drafts import inject_faults
from unireason_jax.world.edits import NO_CHANGE, Edit, apply_edit, diff
from unireason_jax.world.language import parse_edit, parse_plan, plan_text
from unireason_jax.world.parser import parse, to_objects
from unireason_jax.world.renderer import render
from unireason_jax.world.repair import closest_scene, redrawn
from unireason_jax.world.scenes import CELL, TRAIN_PAIRS, Object, cell_names, make_scene
from unireason_jax.world.verifier import MAX_RESIDUAL, check_image

MODEL = "world"
_REQUEST = re.compile(r"<request>\s*(.*?)\s*</request>", re.DOTALL)
_TASKS = {  # by recipe: task of the examples, field of the words, pictures of a row by their field
    "refine_t2i": ("refine_t2i", "prompt", {}),
    "reflect": ("refine_t2i", "prompt", {}),
    "reason_t2i": ("think_knowledge", "prompt", {}),
    "process": ("process", "prompt", {}),
    "reason_edit": (
        "think_edit",
        "instruction",
        {"image": "input_image", "target": "output_image"},
    ),
    "refine_edit": ("refine_edit", "instruction", {"image": "input_image"}),
    "irg": ("irg_improving_full", "prompt", {"weak": "image", "strong": "improved"}),
    "process_alignment": ("irg_improving_full", "prompt", {"bad": "image", "good": "improved"}),
    "process_conflict": ("process_conflict", "prompt", {}),
    "uni_edit": ("uni_edit", "question", {"image": "image"}),
}


@dataclasses.dataclass(frozen=True)
class Errors:
    """How often the world's models are wrong.

    Attributes:
      draft: drafts with one or two faults.
      verify: verdicts that overlook a fault, thoughts that are not true, scripts that end early.
      edit: edits that do something else.
      judge: comparisons won by whoever comes first, and checks that let a picture pass.
      seed: rows of seeds whose two pictures stand in each other's place.
    """

    draft: float = 0.6
    verify: float = 0.0
    edit: float = 0.0
    judge: float = 0.0
    seed: float = 0.0


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
      seed, count: of the examples that it knows.
      side: cells per side of its pictures.
      errors: how often it is wrong.
      recipe: whose examples they are.
    """

    def __init__(
        self,
        seed: int,
        count: int,
        side: int = 4,
        errors: Errors | None = None,
        recipe: str = "refine_t2i",
    ):
        self.side, self.errors, self.recipe = side, errors or Errors(), recipe
        self.truths: dict[tuple[str, str], tasks.Example] = {}
        self._shown: dict[tuple[str, str], tasks.Example] = {}  # by any of their pictures
        self._repairs: dict[tuple[str, bytes], list[Edit]] = {}
        task, words, pictures = _TASKS[recipe]
        for index in range(count):
            raw = tasks.example(seed, index, task, side=side)
            shown = [_digest(raw[name]) for name in pictures.values()] or [""]
            raw["steps"] = raw.get("steps") or []
            if task == "think_edit":  # the thoughts of who changes nothing
                raw["wrong_think"] = f"nothing changes , {plan_text(raw['source'].objects)}"
            self.truths[raw[words], shown[0]] = raw
            self._shown.update({(raw[words], digest): raw for digest in shown[::-1]})

    def seeds(self, folder: Path) -> list[dict[str, Any]]:
        """Rows of seeds, one for every example it knows; their pictures are written."""
        _, words, pictures = _TASKS[self.recipe]
        rows = []
        for number, raw in enumerate(self.truths.values()):
            row: dict[str, Any] = {"id": f"world-{number}", words: raw[words]}
            row |= {key: raw[key] for key in ("domain", "answer") if key in raw}
            names = list(pictures.values())
            if len(names) == 2 and random.Random(number).random() < self.errors.seed:
                names.reverse()
            for field, name in zip(pictures, names):
                row[field] = _written(folder, f"{number}_{field}", raw[name])
            if self.recipe == "process_conflict":
                row["steps"] = [
                    {
                        "ins": step["ins"],
                        "des": step["des"],
                        "image": _written(folder, f"{number}_{place}", step["image"]),
                    }
                    for place, step in enumerate(raw["steps"])
                ]
            rows.append(row)
        return rows

    def truth(self, words: str, pictures: Sequence[np.ndarray] = ()) -> tasks.Example:
        """The example that a request is about. Raises CallFailure where it knows none."""
        for key in (*(_digest(picture) for picture in pictures), ""):
            if found := self.truths.get((words, key)) or self._shown.get((words, key)):
                return found
        alone = [raw for (text, _), raw in self.truths.items() if text == words]
        if len(alone) != 1:
            raise CallFailure("request", f"the world knows no request {words[:80]!r}")
        return alone[0]

    def is_right(self, raw: tasks.Example, image: np.ndarray) -> bool:
        """The exact verdict on a picture."""
        return check_image(raw["requirement"], image).passed

    def __call__(self, path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """The answer to a call. Raises CallFailure for what it does not know."""
        from unireason_jax.synthesis.world_answers import SAYS

        lot = random.Random(content_key(path, body))
        if path in ("images/generations", "images/edits"):
            pictures = [opened(picture) for picture in body.get("pictures", ())]
            return drawn(png(self._drawn(body["prompt"], pictures, lot)))
        if path != "chat/completions":
            raise CallFailure("request", f"no {path} here")
        question = _question(body, lot)
        if question.stage not in SAYS:
            raise CallFailure("request", f"the world knows no stage '{question.stage}'")
        text = json.dumps(SAYS[question.stage](self, question))
        return completion(f"Here it is:\n```json\n{text}\n```", MODEL)

    def errs(self, kind: str, lot: random.Random) -> bool:
        """Whether a model is wrong this time."""
        return lot.random() < getattr(self.errors, kind)

    def objects(self, image: np.ndarray) -> tuple[Object, ...]:
        """What is seen. Raises CallFailure for a picture that is not the world's."""
        seen = parse(image)
        if seen.residual > MAX_RESIDUAL:
            raise CallFailure("request", "this is no picture of the world")
        return to_objects(seen.objects, image.shape[0] // CELL)

    def repairs(self, raw: tasks.Example, image: np.ndarray) -> list[Edit]:
        """The fewest edits that make a picture right."""
        key = raw["id"], image.tobytes()
        if key not in self._repairs:  # the same picture is looked at four times
            seen, wanted = self.objects(image), raw["requirement"]
            right = check_image(wanted, image).passed
            target = seen if right else closest_scene(wanted, seen, self.side).objects
            self._repairs[key] = diff(target, seen)
        return self._repairs[key]

    def _drawn(self, words: str, pictures: Sequence[np.ndarray], lot: random.Random) -> np.ndarray:
        """What a painter or an editor makes of words: a plan drawn, or edits carried out."""
        if asked := _REQUEST.search(words):
            raw = self.truth(asked[1], pictures)
            return raw["image"] if self.errs("edit", lot) else raw["output_image"]
        edits = [edit for line in words.splitlines() if (edit := self._edit(line)) is not None]
        request, _, plan = words.partition("\n\n")
        if edits and not plan:
            return self._edited(edits, pictures[0], lot)
        raw = self._known(request.strip(), pictures)
        scene = make_scene(parse_plan(plan, self.side).objects, self.side) if plan else raw["scene"]
        if raw is not None and self.errs("draft", lot):
            dice = Dice(lot.getrandbits(31), 0)
            scene, _ = inject_faults(dice, raw["requirement"], scene, 1 + (lot.random() < 0.3))
        elif raw is None and self.errs("edit", lot):
            edit = _another(scene.objects, self.side, lot)
            scene = make_scene(apply_edit(scene.objects, edit), self.side)
        return render(scene)

    def _known(self, words: str, pictures: Sequence[np.ndarray]) -> tasks.Example | None:
        try:
            return self.truth(words, pictures)
        except CallFailure:
            return None

    def _edit(self, line: str) -> Edit | None:
        try:
            return parse_edit(line.removeprefix("- "), self.side)
        except ValueError:
            return None

    def _edited(self, edits: Sequence[Edit], image: np.ndarray, lot: random.Random) -> np.ndarray:
        seen = self.objects(image)
        for edit in edits:
            if self.errs("edit", lot):
                edit = _another(seen, self.side, lot)
            try:
                after = apply_edit(seen, edit)
            except ValueError:
                continue
            image, seen = redrawn(image, after, edit, self.side), after
        return image


def _another(seen: Sequence[Object], side: int, lot: random.Random) -> Edit:
    """An edit that nobody asked for."""
    free = [cell for cell in cell_names(side) if cell not in {obj.cell for obj in seen}]
    if free:
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


def _digest(image: np.ndarray) -> str:
    return hashlib.sha256(image.tobytes()).hexdigest()


def _written(folder: Path, name: str, image: np.ndarray) -> str:
    """Writes a picture of a seed; returns its path in the folder."""
    atomic.write_bytes(folder / "seeds" / f"{name}.png", png(image))
    return f"seeds/{name}.png"
