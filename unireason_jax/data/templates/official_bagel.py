"""BAGEL's published rows: captioned images, chains of edits, visual conversations.

A row of the first two stands for many records. Which one is drawn from a generator that the caller
keys by row and visit.
"""

import json
from typing import Any

import numpy as np

from unireason_jax.data.records import Record, Segment, cut
from unireason_jax.data.templates.official_fields import (
    IMAGES,
    Row,
    entries,
    first_of,
    images_of,
    licence,
    one_image,
    origin,
    problem,
    row_id,
)
from unireason_jax.data.templates.segments import Example

_MARKER = "<image>"
_SPEAKERS = {"human": "human", "user": "human", "gpt": "gpt", "assistant": "gpt"}
_SPEAKERS["system"] = "system"
CAPTIONS = ("captions", "caption", "text", "prompt")
"""Fields in which the caption of an image may be, the first that is there."""


def t2i_row(row: Row, rng: np.random.Generator) -> Example:
    """An image and its captions: one caption that is not blank, at random.

    The caption is in the first of CAPTIONS that the row has: a text, a list of texts, an object of
    texts, or the JSON text of one of these; nulls and blanks are passed over. BAGEL's own rows have
    `image` and `captions`, the JSON text of an object.

    Raises:
      RecordError: no image, or no caption with words.
    """
    key = first_of(row, CAPTIONS)
    filled = [caption for caption in _captions(row, key) if caption and caption.strip()]
    if not filled:
        raise problem(row, f"field '{key}' has no caption with words")
    return {
        "task": "t2i",
        **origin(row),
        "prompt": filled[int(rng.integers(len(filled)))],
        "image": one_image(row, "image", *IMAGES),
    }


def _captions(row: Row, key: str) -> list[str | None]:
    found = row.get(key)
    if isinstance(found, str) and found.lstrip().startswith(("{", "[")):
        try:
            found = json.loads(found)
        except (ValueError, RecursionError) as error:
            if found.lstrip().startswith("{"):
                raise problem(row, f"field '{key}' is not JSON: {error}") from None
    found = [found] if isinstance(found, str) else found
    texts = list(found.values()) if isinstance(found, dict) else found
    if not isinstance(texts, list) or not all(isinstance(text, str | None) for text in texts):
        raise problem(row, f"field '{key}' is {cut(found)}; give a text, or several")
    return texts


def edit_row(row: Row, rng: np.random.Generator) -> Example:
    """`image_list` and `instruction_list` (wording or wordings of each hop): one or two hops.

    Which is drawn, with the official loader's chances. Half of the pairs of hops become one hop
    with both instructions, and such a hop never ends at the last image, but one before it.

    Raises:
      RecordError: fewer than two images, a hop without wordings, or wordings without a hop.
    """
    pictures, wordings = images_of(row, "image_list"), row.get("instruction_list")
    count = len(pictures)
    if count < 2:
        raise problem(row, f"field 'image_list' has {count} images; an edit takes two")
    if not isinstance(wordings, list) or len(wordings) != count - 1:
        raise problem(
            row,
            f"field 'instruction_list' is {cut(wordings)}; {count} images take a list of "
            f"{count - 1}",
        )
    wordings = [[texts] if isinstance(texts, str) else texts for texts in wordings]
    for hop, texts in enumerate(wordings):
        filled = isinstance(texts, list) and all(isinstance(t, str) and t.strip() for t in texts)
        if not texts or not filled:
            raise problem(row, f"field 'instruction_list', hop {hop} is {cut(texts)}; give texts")
    start = int(rng.integers(count - 1))
    end = int(rng.integers(start + 1, min(start + 3, count)))
    joined = end - start > 1 and rng.random() < 0.5
    end -= joined and end == count - 1
    texts = [options[int(rng.integers(len(options)))] for options in wordings[start:end]]
    ends = pictures[start + 1 : end + 1]
    if joined:
        texts, ends = ["".join(f"{text}. " for text in texts).rstrip()], ends[-1:]
    hops = [{"instruction": text, "image": image} for text, image in zip(texts, ends)]
    return {"task": "multi_edit", **origin(row), "input_image": pictures[start], "hops": hops}


def conversation_row(row: Row) -> Record:
    """Turns in order; `<image>` in a human turn shows the next image, BAGEL's answers are learned.

    The turns are in `conversations` (`from` human or gpt, `value`) or in `messages` (`role` user or
    assistant, `content`: a text, or parts of `type` text and image), the images in `image` or
    `images`. Human text is stripped around markers only, answers are left as they are, and system
    turns are passed over, all as in BAGEL.

    Raises:
      RecordError: an unknown turn, markers and images that do not match, or no answer.
    """
    if row.get("video") is not None:
        raise problem(row, "field 'video': clips are not read; extract their frames as images")
    key = first_of(row, ("conversations", "messages"))
    segments, left = [], list(images_of(row, first_of(row, ("image", "images"))))
    for turn in entries(row, key):
        speaker = _SPEAKERS.get(_text_of(turn, "from", "role"))
        text = _content(turn, left)
        if speaker == "system":
            continue
        if not speaker or text is None:
            raise problem(row, f"field '{key}' has the turn {cut(turn)}")
        if speaker == "gpt":
            segments += [Segment("text", "answer", text=text, loss="text")] if text else []
        else:
            segments += _human(row, text, left)
    if left:
        raise problem(row, f"{len(left)} images have no {_MARKER} marker")
    if not any(segment.loss == "text" for segment in segments):
        raise problem(row, f"field '{key}' has no answer to learn")
    return Record(row_id(row), tuple(segments), source="vqa", licence=licence(row))


def _text_of(turn: Row, *keys: str) -> str | None:
    value = turn.get(first_of(turn, keys))
    return value if isinstance(value, str) else None


def _content(turn: Row, left: list[Any]) -> str | None:
    """The text of a turn, with markers where its parts are images; None where it has none.

    An image that a part brings along is put before those that are `left`.
    """
    parts = turn.get(first_of(turn, ("value", "content")))
    if isinstance(parts, str):
        return parts
    if not isinstance(parts, list) or not parts:
        return None
    texts, brought = [], []
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind == "image":
            texts.append(_MARKER)
            brought += [part["image"]] if isinstance(part.get("image"), str | bytes) else []
        else:
            return None
    left[:0] = brought
    return "".join(texts)


def _human(row: Row, text: str, left: list[Any]) -> list[Segment]:
    """A human turn; takes the images it shows from the front of `left`."""
    segments = []
    parts = text.split(_MARKER)
    for number, part in enumerate(parts):
        if number and not left:
            raise problem(row, f"more {_MARKER} markers than images")
        if number:
            segments.append(Segment("image", "source", image=left.pop(0), und=True))
        part = part.strip() if len(parts) > 1 else part
        segments += [Segment("text", "user", text=part)] if part else []
    return segments
