"""One image from one request: text to image and editing, with or without a plan.

Missing content (plan, image) becomes a hole to be generated. Sequences as in UniReason's
single-turn data (paper 4.3): the plan and the image are supervised, the request is not.
"""

from unireason_jax.data.records import Record, RecordError, Segment
from unireason_jax.data.templates.segments import (
    Example,
    given,
    optional,
    record,
    required,
    shown,
    supervised,
    target,
)
from unireason_jax.data.templates.style import PLAIN, Style


def t2i(example: Example, style: Style = PLAIN) -> Record:
    """`prompt` -> `image`.

    Raises:
      RecordError: a field is missing or has the wrong type (all templates).
    """
    segments = [given("user", required(example, "prompt")), _result(example, "image")]
    return record(example, "t2i", segments, style)


def think_t2i(example: Example, style: Style = PLAIN) -> Record:
    """`prompt` -> `<think>think</think>` -> `image`."""
    segments = [
        given("user", required(example, "prompt")),
        plan(example, style),
        _result(example, "image"),
    ]
    return record(example, "think_t2i", segments, style)


def edit(example: Example, style: Style = PLAIN) -> Record:
    """`instruction` and `input_image` -> `output_image`."""
    segments = [*request(example, style), _result(example, "output_image")]
    return record(example, "edit", segments, style)


def think_edit(example: Example, style: Style = PLAIN) -> Record:
    """`instruction` and `input_image` -> `<think>think</think>` -> `output_image`."""
    segments = [*request(example, style), plan(example, style), _result(example, "output_image")]
    return record(example, "think_edit", segments, style)


def uni_edit(example: Example, style: Style = PLAIN) -> Record:
    """`image`, then an `instruction` that hides a question -> `output_image` (Uni-Edit).

    No text is supervised: the answer shows in pixels only.
    """
    segments = [
        shown("source", required(example, "image", object)),
        given("user", required(example, "instruction")),
        _result(example, "output_image"),
    ]
    return record(example, "uni_edit", segments, style)


def plan(example: Example, style: Style) -> Segment:
    """The supervised plan; ours hands over to the image, the reference's to nothing."""
    then = "none" if style.reference else "image"
    return supervised("plan", optional(example, "think"), "think", then=then, style=style)


def request(example: Example, style: Style) -> list[Segment]:
    """Instruction and source images of an edit, in the order of the style.

    `input_image` is one image or a list; the reference shows the first of a list only.
    """
    instruction = [given("user", required(example, "instruction"))]
    sources = required(example, "input_image", object)
    sources = sources if isinstance(sources, list) else [sources]
    if not sources:
        raise RecordError(str(example.get("id", "?")), None, "field 'input_image' is empty")
    images = [shown("source", image) for image in (sources[:1] if style.reference else sources)]
    return images + instruction if style.image_first else instruction + images


def _result(example: Example, key: str) -> Segment:
    return target("image", example.get(key))
