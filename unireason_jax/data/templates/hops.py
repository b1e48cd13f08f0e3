"""Edits of edits: a chain of images joined by instructions, as BAGEL trains on them."""

from collections.abc import Sequence
from typing import Any, Protocol

from unireason_jax.data.records import Record, RecordError
from unireason_jax.data.templates.style import (
    PLAIN,
    Example,
    Style,
    given,
    record,
    required,
    shown,
    target,
    target_and_shown,
)


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


class Chooser(Protocol):
    """Where choices come from: `numpy.random.Generator` has both."""

    def integers(self, bound: int) -> int:
        """Uniform in [0, bound)."""

    def random(self) -> float:
        """Uniform in [0, 1)."""


def choose_hops(
    images: Sequence[Any], alternatives: Sequence[Sequence[str]], rng: Chooser
) -> dict[str, Any]:
    """One or two hops of a chain, as BAGEL draws them at every visit of a row.

    Half of the pairs of hops become one hop with both instructions; that hop never ends at the last
    image, but one before it.

    Args:
      images: the chain, at least two.
      alternatives: wordings of the instruction from each image to the next.
      rng: read in BAGEL's order: start, end, joined or not, one wording a hop.

    Returns:
      `input_image` and `hops` of a `multi_edit` example.

    Raises:
      ValueError: fewer than two images, or an image without an instruction to the next.
    """
    count = len(images)
    if count < 2:
        raise ValueError(f"field 'image_list' has {count} image(s); an edit takes two")
    start = int(rng.integers(count - 1))
    end = start + 1 + int(rng.integers(min(start + 3, count) - start - 1))
    joined = end - start > 1 and rng.random() < 0.5
    if joined and end == count - 1:
        end -= 1
    if len(alternatives) < end or not all(alternatives[start:end]):
        raise ValueError("field 'instruction_list' has no instruction for one of the images")
    words = [options[int(rng.integers(len(options)))] for options in alternatives[start:end]]
    if joined:
        hops = [
            {"instruction": "".join(f"{text}. " for text in words).rstrip(), "image": images[end]}
        ]
    else:
        hops = [
            {"instruction": text, "image": image}
            for text, image in zip(words, images[start + 1 : end + 1])
        ]
    return {"input_image": images[start], "hops": hops}
