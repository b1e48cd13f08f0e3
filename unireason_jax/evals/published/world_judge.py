"""The exact judge of the world in the words of the public benchmarks' judges.

It answers from the `world` entry of an item, in the very format the real judge is asked for, so
parsers, aggregators, layouts and resuming run in tests with the truth known.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from unireason_jax.endpoints.failures import CallFailure
from unireason_jax.evals.published.asking import Reply
from unireason_jax.evals.published.base import Question, pixels
from unireason_jax.world.parser import Found, parse
from unireason_jax.world.renderer import WINDOW
from unireason_jax.world.requirements import Want, requirement_from_dict
from unireason_jax.world.scenes import CELL, scene_from_dict
from unireason_jax.world.verifier import MAX_RESIDUAL, check, check_edit

CLEAN = 0.01
CHANGES = (1.0, 4.0, 10.0, 25.0)


class Facts(NamedTuple):
    """What the exact judge knows about a picture.

    Attributes:
      right: share of what was wanted that is there; 1 only for an exact picture.
      residual: share of unexplained pixels.
      outside: mean change outside the edit, in levels of 255; 0 where there is no source.
      objects: what is seen.
    """

    right: float
    residual: float
    outside: float
    objects: tuple[Found, ...]

    @property
    def instruction(self) -> int:
        """1 to 5: exact 5, at least half 3, else 1."""
        return 5 if self.right == 1 else 3 if self.right >= 0.5 else 1

    @property
    def consistency(self) -> int:
        """1 to 5 by the change outside the edit."""
        return 5 - sum(self.outside > limit for limit in CHANGES)

    @property
    def quality(self) -> int:
        """1 to 5 by unexplained pixels."""
        return 5 if self.residual <= CLEAN else 3 if self.residual <= MAX_RESIDUAL else 1


class ProgramJudge:
    """Answers about pictures of the world; its scores are facts, not opinions.

    Args:
      suite: name of the benchmark whose answers it gives.

    Raises:
      ValueError: the world has no items of this benchmark.
    """

    name = "exact program"

    def __init__(self, suite: str):
        if suite not in _SPEECH:
            names = ", ".join(_SPEECH)
            raise ValueError(f"--judge program: the world has no items of '{suite}', only {names}.")
        self._say = _SPEECH[suite]

    def __call__(self, question: Question, attempt: int) -> Reply:
        """The answer. Raises CallFailure for an item that is not the world's."""
        truth = question.item.raw.get("world")
        if truth is None:
            raise CallFailure("request", "the program judges items of the world only")
        return Reply(self._say(question, facts(truth, question)))


def facts(truth: Mapping[str, Any], question: Question) -> Facts:
    """The facts about the last picture of a question."""
    image = pixels(question.pictures[-1])
    seen = parse(image)
    if "requirement" not in truth:
        return Facts(0.0, seen.residual, 0.0, seen.objects)
    requirement = requirement_from_dict(truth["requirement"])
    verdict = check(requirement, seen.objects, seen.residual, side=image.shape[0] // CELL)
    hits = [_there(want, seen.objects) for want in requirement.wants]
    right = 1.0 if verdict.passed else min(sum(hits) / len(hits), 0.99) if hits else 0.0
    outside = 0.0
    if "source" in truth:
        source, target = scene_from_dict(truth["source"]), scene_from_dict(truth["target"])
        before = pixels(question.item.sources[0])
        outside = check_edit(requirement, source, target, before, image).outside
    return Facts(right, seen.residual, outside, seen.objects)


def _there(want: Want, objects: tuple[Found, ...]) -> bool:
    return sum(want.matches(seen.look) for seen in objects) >= want.count


def _wise(question: Question, found: Facts) -> str:
    if question.step == "verified":
        return f"Score: {int(found.right == 1)}"
    consistency = {5: 2, 3: 1, 1: 0}
    realism = consistency[found.quality]
    fit = min((seen.fit for seen in found.objects), default=0.0)
    beauty = 2 if fit >= 0.9 else 1 if fit >= 0.6 else 0
    lines = {"Consistency": consistency[found.instruction], "Realism": realism}
    lines |= {"Aesthetic Quality": beauty}
    return "\n".join(f"**{name}:** {score}" for name, score in lines.items())


def _kris(question: Question, found: Facts) -> str:
    scores = {
        "consistency": {"consistency_score": found.consistency},
        "quality": {"quality_score": found.quality},
        "instruction": {"instruction_score": found.instruction},
        "dual": {"instruction_score": found.instruction, "knowledge_score": found.instruction},
    }
    return f"```json\n{json.dumps(scores[question.step] | {'reasoning': 'parsed'})}\n```"


def _uniredit(question: Question, found: Facts) -> str:
    scores = {"consistency": found.consistency, "reasoning": found.instruction}
    return f"Parsed.\n**Final Score:** {scores.get(question.step, found.quality)}"


def _gedit(question: Question, found: Facts) -> str:
    pairs = {"semantics": (found.instruction, found.consistency), "quality": (found.quality,) * 2}
    return json.dumps({"score": [2 * n for n in pairs[question.step]], "reasoning": "parsed"})


def _imgedit(question: Question, found: Facts) -> str:
    first = found.instruction
    second, third = min(found.quality, first), min(found.consistency, first)
    return f"Prompt Compliance: {first}\nVisual Naturalness: {second}\nDetail Integrity: {third}"


def _geneval(question: Question, found: Facts) -> str:
    half = WINDOW / 2
    return json.dumps(
        [
            {
                "class": seen.shape,
                "color": seen.color,
                "score": min(seen.fit, 1.0),
                "box": [seen.x - half, seen.y - half, seen.x + half, seen.y + half],
            }
            for seen in found.objects
        ]
    )


def _dpg(question: Question, found: Facts) -> str:
    wants = question.item.raw["world"]["wants"]
    want = Want(**wants[int(question.step.split("/")[1]) - 1])
    return "Yes." if _there(want, found.objects) else "No."


def _tiif(question: Question, found: Facts) -> str:
    wants = question.item.raw["world"]["wants"]
    return "\n".join("yes" if _there(Want(**w), found.objects) else "no" for w in wants)


_SPEECH: dict[str, Callable[[Question, Facts], str]] = {
    "wise": _wise,
    "wise_legacy": _wise,
    "kris": _kris,
    "uniredit": _uniredit,
    "gedit": _gedit,
    "imgedit": _imgedit,
    "geneval": _geneval,
    "dpg": _dpg,
    "tiif": _tiif,
}
