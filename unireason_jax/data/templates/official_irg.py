"""IRG's conversations: texts and base64 images with need_loss, need_vae and need_vit.

What the official loader passes over without a word (system turns, images that do not decode, parts
without any flag) is refused, because the rest of such a conversation means something else.
"""

import base64
import binascii

from unireason_jax.data.records import Record, Segment, cut
from unireason_jax.data.templates.official_fields import Row, entries, licence, problem, row_id


def irg_row(row: Row) -> Record:
    """`conversation`, a list of turns or its JSON text: user texts and assistant parts.

    Raises:
      RecordError: a turn, part, flag or image that is not of the format.
    """
    segments = []
    for turn in entries(row, "conversation"):
        role, content = turn.get("role"), turn.get("content")
        if role == "user" and isinstance(content, str):
            segments.append(_text(row, "user", turn, learned=False))
        elif role == "assistant" and isinstance(content, list):
            segments += [_part(row, part) for part in content]
        else:
            raise problem(row, f"field 'conversation' has an unknown turn of {cut(role)}")
    return Record(row_id(row), tuple(segments), source="irg", licence=licence(row))


def _part(row: Row, part: Row) -> Segment:
    if not isinstance(part, dict) or part.get("type") not in ("text", "image"):
        raise problem(row, f"field 'conversation' has the part {cut(part)}; give text or image")
    if part["type"] == "text":
        return _text(row, "plan", part, learned=True)
    content = part.get("content")
    try:
        image = base64.b64decode(content, validate=True) if isinstance(content, str) else b""
    except (binascii.Error, ValueError):
        image = b""
    if not image:
        raise problem(row, "field 'conversation' has an image that is not base64")
    return Segment(
        "image",
        "image",
        image=image,
        loss="flow" if _flag(row, part, "need_loss", False) else "none",
        gen=_flag(row, part, "need_vae", False),
        und=_flag(row, part, "need_vit", False),
        drop=True,
    )


def _text(row: Row, role: str, part: Row, *, learned: bool) -> Segment:
    text = part.get("content")
    if not isinstance(text, str) or not text.strip():
        raise problem(row, f"field 'conversation' has the text {cut(text)}; give words")
    loss = "text" if _flag(row, part, "need_loss", learned) else "none"
    return Segment("text", role, text=text, loss=loss, drop=True)


def _flag(row: Row, part: Row, key: str, default: bool) -> bool:
    value = part.get(key, default)
    if not isinstance(value, bool):
        raise problem(row, f"field 'conversation' has {key}={cut(value)}; give true or false")
    return value
