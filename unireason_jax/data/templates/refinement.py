"""Draft, look, say what is wrong, draw again: UniReason's refinement traces (paper 4.2, 4.3).

The plan and the draft are context without loss; every reflection and every refined image is
supervised. A reflection hands over to an image. The last reflection says that nothing is left to
change and hands over to the end, so that a model learns when to stop (the released data teaches it
to ask for another image for ever).

`rounds` is a list of {reflection, image}; a number n stands for n rounds to be generated.
"""

import dataclasses
from typing import Any

from unireason_jax.data.records import Record, RecordError, Segment
from unireason_jax.data.templates.generation import request
from unireason_jax.data.templates.segments import (
    Example,
    given,
    optional,
    record,
    required,
    shown,
    supervised,
    target_and_shown,
    unsupervised,
)
from unireason_jax.data.templates.style import PLAIN, Style


def refine_t2i(example: Example, style: Style = PLAIN) -> Record:
    """`prompt`, `explanation`, `draft` -> (reflection -> image) x rounds -> `final_reflection`.

    An empty explanation is left out. The reference writes it without tags here.

    Raises:
      RecordError: a field is missing or has the wrong type.
    """
    segments = [given("user", required(example, "prompt"))]
    explanation = optional(example, "explanation")
    if explanation is None or explanation.strip():
        segments.append(unsupervised("plan", explanation, None if style.reference else "think"))
    return record(example, "refine_t2i", [*segments, *_trace(example, style)], style)


def rethink_t2i(example: Example, style: Style = PLAIN) -> Record:
    """As `refine_t2i`, with a plan of its own between each reflection and its image (paper 4.2).

    `rounds` is a list of {reflection, think, image}; a number n stands for n rounds.
    """
    made = refine_t2i(example, style)
    thoughts = [step.get("think") for step in _rounds(example)]
    segments: list[Segment] = []
    for segment in made.segments:
        if segment.role == "refined":
            then = "none" if style.reference else "image"
            segments[-1] = dataclasses.replace(segments[-1], next="text")
            thought = optional({"id": made.id, "think": thoughts.pop(0)}, "think")
            segments.append(supervised("plan", thought, "think", then=then, style=style))
        segments.append(segment)
    return dataclasses.replace(made, segments=tuple(segments), source="rethink_t2i")


def refine_edit(example: Example, style: Style = PLAIN) -> Record:
    """As `refine_t2i` for an edit: `instruction` and `input_image` come first."""
    segments = request(example, style)
    explanation = optional(example, "explanation")
    if explanation is None or explanation.strip() or style.reference:
        segments.append(unsupervised("plan", explanation, "think"))
    return record(example, "refine_edit", [*segments, *_trace(example, style)], style)


def _trace(example: Example, style: Style) -> list[Segment]:
    rounds = _rounds(example)
    final = optional(example, "final_reflection")
    ends_silently = final is not None and not final.strip() and not style.reference
    draft = example.get("draft")
    if not rounds and ends_silently:
        return [shown("draft", draft, then="stop")]
    segments = [shown("draft", draft)]
    for number, step in enumerate(rounds):
        reflection = optional({"id": example.get("id"), **step}, "reflection")
        if reflection is not None and not reflection.strip() and not style.reference:
            raise RecordError(
                str(example.get("id", "?")), None, f"round {number + 1} has an empty 'reflection'"
            )
        segments.append(_reflection(reflection, "image", style))
        then = "stop" if ends_silently and number == len(rounds) - 1 else "none"
        segments.append(target_and_shown("refined", step.get("image"), then))
    if not ends_silently:
        segments.append(_reflection(final, "image" if style.reference else "stop", style))
    return segments


def _reflection(text: str | None, then: Any, style: Style) -> Segment:
    return supervised("reflection", text, "sugg", then=then, style=style)


def _rounds(example: Example) -> list[dict[str, Any]]:
    rounds = example.get("rounds", 1)
    if isinstance(rounds, int):
        return [{} for _ in range(rounds)]
    if not isinstance(rounds, list) or not all(isinstance(step, dict) for step in rounds):
        raise RecordError(
            str(example.get("id", "?")),
            None,
            "field 'rounds' must be a list of {reflection, image}, or a number of rounds",
        )
    return rounds
