"""Rows of the published data sets -> raw examples or records, told apart by their keys.

Known rows: UniReason's six JSON formats, Uni-Edit's JSON lines, BAGEL's visual conversations, and
IRG's conversations with flags. What the official loaders let through by accident is refused with
its reason: a prompt that is null or a number, a trace without an image, a reference to an image
that the row does not have.
"""

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from typing import Any

from unireason_jax.data.records import Record, RecordError, Segment
from unireason_jax.data.templates.style import Example

Row = Mapping[str, Any]
_REFERENCE = re.compile(r"<image_start>\[([^\[\]]+)\]<image_end>")
_THOUGHT = re.compile(r"THOUGHT\s*\d+:\s*")
_MARKER = "<image>"


def read_row(row: Row) -> Example | Record:
    """The example (or, for conversations, the record) that a row of a published set stands for.

    A row with the key `task` is already an example and comes back as it is. `id` must be there.

    Raises:
      RecordError: unknown keys, or contents that cannot be used.
    """
    if "task" in row:
        return row
    for key, reader in _READERS.items():
        if key in row:
            return reader(row)
    raise RecordError(
        _id(row),
        None,
        f"unknown fields {sorted(row)}; give 'task', or the keys of a UniReason, BAGEL, IRG or "
        "Uni-Edit row",
    )


def _t2i(row: Row) -> Example:
    return {
        "task": "t2i",
        **_origin(row),
        "prompt": row["txt"],
        "think": _present(row, "Reasoning", "reasoning"),
        "image": _image(row, "image_path"),
    }


def _edit(row: Row) -> Example:
    sources = row.get("input_image")
    if not sources or (isinstance(sources, list) and not all(sources)):
        raise RecordError(_id(row), None, "field 'input_image' is missing or has an empty entry")
    return {
        "task": "edit",
        **_origin(row),
        "instruction": row["instruction"],
        "think": _present(row, "reasoning", "Reasoning"),
        "input_image": sources,
        "output_image": _image(row, "output_image"),
    }


def _refine(row: Row) -> Example:
    """Text before an image reference is its reflection, text after the last one the final one."""
    trace = row["Text Reasoning Trace"]
    if not isinstance(trace, str) or not trace.strip():
        raise RecordError(_id(row), None, "field 'Text Reasoning Trace' has no text")
    keys = _REFERENCE.findall(trace)
    texts = [text.strip() for text in _REFERENCE.split(_THOUGHT.sub("", trace))[::2]]
    if any("<image_start>" in text or "<image_end>" in text for text in texts):
        raise RecordError(
            _id(row),
            None,
            "field 'Text Reasoning Trace' has a broken reference; write "
            "<image_start>[key]<image_end>",
        )
    common = {
        **_origin(row),
        "explanation": row["explanation"] if "explanation" in row else "",
        "rounds": [{"reflection": t, "image": _image(row, k)} for t, k in zip(texts, keys)],
        "final_reflection": texts[-1],
    }
    if "before_image_path" in row:
        edit = {"instruction": row.get("prompt"), "input_image": _image(row, "before_image_path")}
        return {"task": "refine_edit", **common, **edit, "draft": _image(row, "after_image_path")}
    draft = _image(row, "img_path")
    return {"task": "refine_t2i", **common, "prompt": row.get("prompt"), "draft": draft}


def _uni_edit(row: Row) -> Example:
    return {
        "task": "uni_edit",
        **_origin(row),
        "image": _image(row, "image_path"),
        "instruction": row["edit_instruction"],
        "output_image": _image(row, "output_image_path"),
    }


def _bagel_vlm(row: Row) -> Record:
    """Turns in order; `<image>` in a human turn shows the next image, BAGEL's answers are learned.

    Human text is stripped around markers only, answers are left as they are, and system turns are
    passed over, all as in BAGEL.
    """
    pictures = row.get("image") or []
    pictures = list(pictures) if isinstance(pictures, list) else [pictures]
    segments, left = [], list(pictures)
    for turn in row["conversations"] or []:
        speaker, text = turn.get("from"), turn.get("value")
        if speaker == "system":
            continue
        if speaker not in ("human", "gpt") or not isinstance(text, str):
            raise RecordError(_id(row), None, f"field 'conversations' has the turn {turn!r}")
        if speaker == "gpt":
            segments += [Segment("text", "answer", text=text, loss="text")] if text else []
            continue
        parts = text.split(_MARKER)
        for number, part in enumerate(parts):
            if number and not left:
                raise RecordError(_id(row), None, f"more {_MARKER} markers than images")
            if number:
                segments.append(Segment("image", "source", image=left.pop(0), und=True))
            part = part.strip() if len(parts) > 1 else part
            segments += [Segment("text", "user", text=part)] if part else []
    if left:
        raise RecordError(_id(row), None, f"{len(left)} images have no {_MARKER} marker")
    if not any(segment.loss == "text" for segment in segments):
        raise RecordError(_id(row), None, "field 'conversations' has no answer to learn")
    return Record(_id(row), tuple(segments), source="vqa", licence=row.get("licence", ""))


def _irg(row: Row) -> Record:
    """IRG's conversation: user texts, and assistant parts with need_loss, need_vae, need_vit."""
    segments = []
    for turn in row["conversation"] or []:
        role, content = turn.get("role"), turn.get("content")
        if role == "user" and isinstance(content, str):
            loss = "text" if turn.get("need_loss", False) else "none"
            segments.append(Segment("text", "user", text=content, loss=loss, drop=True))
        elif role == "assistant" and isinstance(content, list):
            segments += [_irg_part(row, part) for part in content]
        else:
            raise RecordError(_id(row), None, f"field 'conversation' has an unknown turn of {role}")
    return Record(_id(row), tuple(segments), source="irg", licence=row.get("licence", ""))


def _irg_part(row: Row, part: Row) -> Segment:
    if part.get("type") == "text":
        loss = "text" if part.get("need_loss", True) else "none"
        return Segment("text", "plan", text=part.get("text"), loss=loss, drop=True)
    try:
        image = base64.b64decode(part.get("image") or "", validate=True)
    except (binascii.Error, TypeError, ValueError):
        image = b""
    if not image:
        raise RecordError(_id(row), None, "field 'conversation' has an image that is not base64")
    return Segment(
        "image",
        "image",
        image=image,
        loss="flow" if part.get("need_loss") else "none",
        gen=bool(part.get("need_vae")),
        und=bool(part.get("need_vit")),
        drop=True,
    )


_READERS: dict[str, Callable[[Row], Example | Record]] = {
    "conversation": _irg,
    "conversations": _bagel_vlm,
    "Text Reasoning Trace": _refine,
    "edit_instruction": _uni_edit,
    "txt": _t2i,
    "instruction": _edit,
}


def _origin(row: Row) -> dict[str, Any]:
    return {"id": _id(row), "licence": row.get("licence", "")}


def _id(row: Row) -> str:
    return str(row.get("id", "?"))


def _image(row: Row, key: str) -> Any:
    image = row.get(key)
    if isinstance(image, list) and len(image) == 1:
        image = image[0]
    if not image or isinstance(image, list):
        raise RecordError(_id(row), None, f"field '{key}' is {image!r}; give one image")
    return image


def _present(row: Row, *keys: str) -> Any:
    """The first of `keys` that the row has, whatever its value; None where it has none."""
    found = [row[key] for key in keys if key in row]
    if found and (not isinstance(found[0], str) or not found[0].strip()):
        raise RecordError(
            _id(row), None, f"field '{keys[0]}' is {found[0]!r}; give a reasoning text"
        )
    return found[0] if found else None
