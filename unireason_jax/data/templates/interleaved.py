"""Requests of texts and images in any order: one drawing of them, or one answer.

No training data has this form; the order of a request is what BAGEL's interleaved inference takes.
`parts` is a list of {text} and {image}.
"""

from unireason_jax.data.records import Record, RecordError, Segment
from unireason_jax.data.templates.generation import plan
from unireason_jax.data.templates.segments import (
    Example,
    given,
    record,
    required,
    shown,
    supervised,
    target,
)
from unireason_jax.data.templates.style import PLAIN, Style


def interleaved(example: Example, style: Style = PLAIN) -> Record:
    """`parts` -> `image`.

    Raises:
      RecordError: a field is missing or has the wrong type (all templates).
    """
    segments = [*_parts(example), target("image", example.get("image"))]
    return record(example, "interleaved", segments, style)


def think_interleaved(example: Example, style: Style = PLAIN) -> Record:
    """`parts` -> `<think>think</think>` -> `image`."""
    segments = [*_parts(example), plan(example, style), target("image", example.get("image"))]
    return record(example, "think_interleaved", segments, style)


def answer(example: Example, style: Style = PLAIN) -> Record:
    """`parts` (of images the ViT copies only; there may be none) -> `answer`."""
    segments = [*_parts(example, gen=False), _answer(example, style)]
    return record(example, "answer", segments, style)


def _answer(example: Example, style: Style) -> Segment:
    text = example.get("answer")
    return supervised("answer", text, None, then="stop", style=style, drop=False)


def _parts(example: Example, *, gen: bool = True) -> list[Segment]:
    """The request, a segment a part."""
    name, segments = str(example.get("id", "?")), []
    for part in required(example, "parts", list):
        if not isinstance(part, dict) or len(part.keys() & {"text", "image"}) != 1:
            raise RecordError(name, None, "field 'parts' must be a list of {text} or {image}")
        if "text" in part:
            segments.append(given("user", required({"id": name, **part}, "text")))
        elif gen:
            segments.append(shown("source", required({"id": name, **part}, "image", object)))
        else:
            image = required({"id": name, **part}, "image", object)
            segments.append(Segment("image", "source", image=image, und=True))
    if not segments:
        raise RecordError(name, None, "field 'parts' is empty; leave the record out")
    return segments
