"""Questions about images: one or several, in one turn or many."""

from unireason_jax.data.records import Record, RecordError, Segment
from unireason_jax.data.templates.segments import Example, optional, record, required, supervised
from unireason_jax.data.templates.style import PLAIN, Style


def vqa(example: Example, style: Style = PLAIN) -> Record:
    """`image` (ViT copies only), `question` -> `answer`; nothing is dropped, as in BAGEL.

    `image` is one image or a list. `turns` is a list of {question, answer, image} instead, of which
    `image` may be absent; every answer is learned. The images of a turn come before its question.

    Raises:
      RecordError: a field is missing or has the wrong type.
    """
    turns = example.get("turns")
    if turns is None:
        required(example, "image", object)
        turns = [example]
    name = str(example.get("id", "?"))
    if not isinstance(turns, list) or not turns or not all(isinstance(t, dict) for t in turns):
        raise RecordError(name, None, "field 'turns' must be a list of {question, answer, image}")
    segments = [part for turn in turns for part in _turn({"id": name, **turn}, style)]
    return record(example, "vqa", segments, style)


def _turn(turn: Example, style: Style) -> list[Segment]:
    images = turn.get("image")
    images = images if isinstance(images, list) else [images]
    then = "none" if style.reference else "stop"
    return [
        *(
            Segment("image", "source", image=image, und=True)
            for image in images
            if image is not None
        ),
        Segment("text", "user", text=required(turn, "question")),
        supervised("answer", optional(turn, "answer"), None, then=then, style=style, drop=False),
    ]
