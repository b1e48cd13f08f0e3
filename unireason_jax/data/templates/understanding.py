"""Questions about images."""

from unireason_jax.data.records import Record, Segment
from unireason_jax.data.templates.style import (
    PLAIN,
    Example,
    Style,
    optional,
    record,
    required,
    supervised,
)


def vqa(example: Example, style: Style = PLAIN) -> Record:
    """`image` (ViT copy only), `question` -> `answer`; nothing is dropped, as in BAGEL.

    Raises:
      RecordError: a field is missing or has the wrong type.
    """
    answer = supervised(
        "answer",
        optional(example, "answer"),
        None,
        then="none" if style.reference else "stop",
        style=style,
    )
    segments = [
        Segment("image", "source", image=required(example, "image", object), und=True),
        Segment("text", "user", text=required(example, "question")),
        answer,
    ]
    return record(example, "vqa", segments, style)
