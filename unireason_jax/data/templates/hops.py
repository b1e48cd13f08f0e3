"""Edits of edits: a chain of images joined by instructions, as BAGEL trains on them."""

from unireason_jax.data.records import Record, RecordError
from unireason_jax.data.templates.segments import (
    Example,
    given,
    record,
    required,
    shown,
    target,
    target_and_shown,
)
from unireason_jax.data.templates.style import PLAIN, Style


def multi_edit(example: Example, style: Style = PLAIN) -> Record:
    """`input_image` -> (`instruction` -> `image`) x `hops`; every image is learned but the first.

    `hops` is a list of {instruction, image}. The source comes first whatever the style says: an
    image between two hops cannot stand after the instruction that it answers to.

    Raises:
      RecordError: a field is missing or has the wrong type.
    """
    name, hops = str(example.get("id", "?")), example.get("hops")
    if not isinstance(hops, list) or not hops or not all(isinstance(hop, dict) for hop in hops):
        raise RecordError(name, None, "field 'hops' must be a list of {instruction, image}")
    segments = [shown("source", required(example, "input_image", object))]
    for number, hop in enumerate(hops):
        draw = target if number == len(hops) - 1 else target_and_shown
        instruction = required({"id": name, **hop}, "instruction")
        segments += [given("user", instruction), draw("image", hop.get("image"))]
    return record(example, "multi_edit", segments, style)
