"""BAGEL's published rows: captioned images, chains of edits, visual conversations.

A row of the first two stands for many records. Which one is drawn from a generator that the caller
keys by row and visit.
"""

import json
from typing import Any

import numpy as np

from unireason_jax.data.records import Record, Segment
from unireason_jax.data.templates.official_fields import (
    Row,
    entries,
    images_of,
    licence,
    one_image,
    origin,
    problem,
    row_id,
)
from unireason_jax.data.templates.style import Example

_MARKER = "<image>"


def t2i_row(row: Row, rng: np.random.Generator) -> Example:
    """`image` and `captions`, a JSON object of texts: one caption that is not blank, at random.

    Raises:
      RecordError: no image, or captions that are not an object of texts with words in one.
    """
    captions = row.get("captions")
    try:
        captions = json.loads(captions) if isinstance(captions, str) else captions
    except (ValueError, RecursionError) as error:
        raise problem(row, f"field 'captions' is not JSON: {error}") from None
    if not isinstance(captions, dict) or not all(isinstance(c, str) for c in captions.values()):
        raise problem(row, f"field 'captions' is {captions!r:.200}; give an object of texts")
    filled = [caption for caption in captions.values() if caption.strip()]
    if not filled:
        raise problem(row, "field 'captions' has no caption with words")
    return {
        "task": "t2i",
        **origin(row),
        "prompt": filled[int(rng.integers(len(filled)))],
        "image": one_image(row, "image"),
    }


def edit_row(row: Row, rng: np.random.Generator) -> Example:
    """`image_list` and `instruction_list` (wordings of each hop): one or two hops, at random.

    The chances are the official loader's. Half of the pairs of hops become one hop with both
    instructions, and such a hop never ends at the last image, but one before it.

    Raises:
      RecordError: fewer than two images, or a hop without wordings.
    """
    pictures, wordings = images_of(row, "image_list"), row.get("instruction_list")
    for hop in range(len(pictures) - 1):
        texts = wordings[hop] if isinstance(wordings, list) and hop < len(wordings) else None
        filled = isinstance(texts, list) and all(isinstance(t, str) and t.strip() for t in texts)
        if not texts or not filled:
            raise problem(row, f"field 'instruction_list', hop {hop} is {texts!r:.200}; give texts")
    count = len(pictures)
    if count < 2:
        raise problem(row, f"field 'image_list' has {count} images; an edit takes two")
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

    Human text is stripped around markers only, answers are left as they are, and system turns are
    passed over, all as in BAGEL.

    Raises:
      RecordError: an unknown turn, markers and images that do not match, or no answer.
    """
    if "video" in row:
        raise problem(row, "field 'video': clips are not read; extract their frames as images")
    segments, left = [], images_of(row, "image")
    for turn in entries(row, "conversations"):
        speaker, text = turn.get("from"), turn.get("value")
        if speaker == "system":
            continue
        if speaker not in ("human", "gpt") or not isinstance(text, str):
            raise problem(row, f"field 'conversations' has the turn {turn!r:.200}")
        if speaker == "gpt":
            segments += [Segment("text", "answer", text=text, loss="text")] if text else []
        else:
            segments += _human(row, text, left)
    if left:
        raise problem(row, f"{len(left)} images have no {_MARKER} marker")
    if not any(segment.loss == "text" for segment in segments):
        raise problem(row, "field 'conversations' has no answer to learn")
    return Record(row_id(row), tuple(segments), source="vqa", licence=licence(row))


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
