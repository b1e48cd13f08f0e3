"""One record for every task of every system: an ordered list of segments with a few flags.

UniReason, BAGEL, IRG, process-driven generation and Uni-Edit differ only in which segments they
list and in what the flags say. A segment whose content is None is a hole: training refuses it,
sampling fills the holes in order, so that both read the same record.
"""

import dataclasses
import os
import re
import reprlib
from collections.abc import Mapping
from typing import Any, Literal, get_args

import numpy as np

Kind = Literal["text", "image"]
Loss = Literal["none", "text", "flow"]
Next = Literal["none", "text", "image", "stop"]
_SURROGATE = re.compile("[\ud800-\udfff]")
KINDS, LOSSES, NEXTS = get_args(Kind), get_args(Loss), get_args(Next)
_SHOWN = 200  # characters of a value in a message
_RUN = re.compile(r"[A-Za-z0-9+/=]{60,}")


def without_data(text: str) -> str:
    """`text` with the length of every stretch that looks like base64 in its place."""
    return _RUN.sub(lambda run: _told(run[0]), text)


def _told(run: str) -> str:
    """A run of letters, unless it is data: those of all kinds mixed, and no path."""
    mixed = all(re.search(kind, run) for kind in ("[a-z]", "[A-Z]", "[0-9]"))
    return f"<{len(run):,} characters>" if mixed and run.count("/") < len(run) / 24 else run


class _Short(reprlib.Repr):
    """Bytes by their length, texts without base64 and cut."""

    def repr_bytes(self, value: bytes, _: int) -> str:
        return f"<{len(value):,} bytes>"

    def repr_str(self, value: str, _: int) -> str:
        return repr(without_data(value)[: _SHOWN + 1])


def cut(value: Any) -> str:
    """A value of a user's record for a message: short, without image bytes or base64."""
    short = _Short()
    short.maxother = short.maxlong = _SHOWN
    try:
        text = short.repr(value)
    except (ValueError, RecursionError):  # integers of too many digits, objects without end
        text = f"a {type(value).__name__}"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def names(row: Mapping[str, Any]) -> str:
    """The fields of a user's record for a message, but those that every record has."""
    return cut(sorted(row.keys() - {"id", "licence", "task"}))


class RecordError(ValueError):
    """A record that cannot be used; the message names record, segment, field and remedy.

    Attributes:
      record_id: id of the record.
      segment: number of the segment, None when the record as a whole is wrong.
      reason: the message without the record's name.
    """

    def __init__(self, record_id: str, segment: int | None, reason: str):
        self.record_id, self.segment, self.reason = record_id, segment, reason
        where = f"record '{record_id}'" + (f", segment {segment}" if segment is not None else "")
        super().__init__(f"{where}: {reason}")

    def __reduce__(self):
        return RecordError, (self.record_id, self.segment, self.reason)


@dataclasses.dataclass(frozen=True, slots=True)
class Segment:
    """One text turn or one image.

    Attributes:
      kind: "text" or "image".
      role: what the segment is for, in words: system, user, plan, draft, reflection, refined,
        instruction, description, answer, source.
      text: the words of a text segment, without its tag; None is a hole.
      image: uint8 [H, W, 3], encoded bytes, or a path; None is a hole.
      loss: "text" supervises the words and the end marker, "flow" adds a noised target.
      und: show the image to what follows as a ViT copy.
      gen: show the image to what follows as a clean latent copy.
      next: supervised hand-over at the closing marker: to a text turn, to an image, or to the end.
      drop: whether condition dropout may remove the segment's visible copies (each on its own).
      weight: loss weight of the segment's tokens, > 0.
      tag: the text is written as `<tag>text</tag>`.
      moments: mean and log variance of the image's latents [2, h, w, C], made ahead of time by
        `unireason encode`; with them, an image without a ViT copy needs no pixels.
    """

    kind: Kind
    role: str
    text: str | None = None
    image: Any = None
    loss: Loss = "none"
    und: bool = False
    gen: bool = False
    next: Next = "none"
    drop: bool = False
    weight: float = 1.0
    tag: str | None = None
    moments: np.ndarray | None = dataclasses.field(default=None, compare=False)

    @property
    def is_hole(self) -> bool:
        """Whether the content is still to be generated."""
        if self.kind == "text":
            return self.text is None
        return self.image is None and (self.moments is None or self.und)

    @property
    def content(self) -> str:
        """The bytes of a text segment as the tokenizer sees them, tags included."""
        if self.text is None:
            raise ValueError(f"segment '{self.role}' has no text: it is a hole or an image")
        return f"<{self.tag}>{self.text}</{self.tag}>" if self.tag else self.text


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """An ordered tuple of segments with its name and origin; checked when it is made.

    Raises:
      RecordError: a segment's fields contradict each other or have the wrong type.
    """

    id: str
    segments: tuple[Segment, ...]
    source: str = ""
    licence: str = ""
    metadata: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if not self.segments:
            raise RecordError(self.id, None, "has no segments; leave the record out")
        for number, segment in enumerate(self.segments):
            problem = _problem(segment)
            if problem:
                raise RecordError(self.id, number, problem)

    @property
    def holes(self) -> tuple[int, ...]:
        """Numbers of the segments that are still to be generated, in order."""
        return tuple(i for i, segment in enumerate(self.segments) if segment.is_hole)

    def filled(self, number: int, content: Any) -> "Record":
        """The record with text or image `content` in segment `number`."""
        segment = self.segments[number]
        field = "text" if segment.kind == "text" else "image"
        segment = dataclasses.replace(segment, **{field: content, "moments": None})
        segments = (*self.segments[:number], segment, *self.segments[number + 1 :])
        return dataclasses.replace(self, segments=segments)


def untag(text: str, tag: str | None) -> str:
    """`text` without the `<tag>` and `</tag>` around it, stripped; unchanged where absent."""
    text = text.strip()
    if not tag:
        return text
    return text.removeprefix(f"<{tag}>").removesuffix(f"</{tag}>").strip()


def _problem(segment: Segment) -> str | None:
    if segment.kind == "text":
        problem = _text_problem(segment)
    elif segment.kind == "image":
        problem = _image_problem(segment)
    else:
        return f"field 'kind' is {cut(segment.kind)}; use one of {KINDS}"
    if problem:
        return problem
    if segment.loss not in LOSSES:
        return f"field 'loss' is {cut(segment.loss)}; use one of {LOSSES}"
    if segment.next not in NEXTS:
        return f"field 'next' is {cut(segment.next)}; use one of {NEXTS}"
    if not isinstance(segment.weight, int | float) or not 0 < segment.weight < float("inf"):
        return f"field 'weight' is {cut(segment.weight)}; it must be a number > 0"
    return None


def _text_problem(segment: Segment) -> str | None:
    if segment.text is not None and not isinstance(segment.text, str):
        return f"field 'text' is {type(segment.text).__name__}; give a string, or None for a hole"
    if segment.text and (half := _SURROGATE.search(segment.text)):
        byte = ord(half[0]) - 0xDC00  # as Python keeps bytes that are not UTF-8
        if 0x80 <= byte <= 0xFF:
            return f"field 'text' is not UTF-8 (byte 0x{byte:02X}); save its file as UTF-8"
        return "field 'text' has half of a character (a lone surrogate); repair the file's encoding"
    if segment.image is not None or segment.moments is not None:
        return "a text segment carries an image; make it a segment of its own"
    if segment.loss == "flow" or segment.und or segment.gen:
        return "fields loss='flow', 'und' and 'gen' are for images; a text takes loss='text'"
    return None


def _image_problem(segment: Segment) -> str | None:
    if segment.text is not None or segment.tag:
        return "an image segment carries text or a tag; make it a segment of its own"
    if segment.loss == "text":
        return "field loss='text' is for texts; an image takes loss='flow'"
    if segment.loss == "none" and not (segment.und or segment.gen):
        return "the image is neither target nor shown; set loss='flow', 'und' or 'gen'"
    moments = segment.moments
    if moments is not None and (moments.ndim != 4 or len(moments) != 2):
        return f"field 'moments' is {list(moments.shape)}; give mean and log variance [2, h, w, C]"
    if moments is not None and (odd := _odd_moments(moments)):
        return f"field 'moments' has {odd}; encode its image again"
    image = segment.image
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
            return f"field 'image' is {image.dtype} {image.shape}; give uint8 [H, W, 3]"
    elif image is not None and not isinstance(image, bytes | str | os.PathLike):
        return f"field 'image' is {type(image).__name__}; give an array, bytes or a path"
    return None


def _odd_moments(moments: np.ndarray) -> str | None:
    """What no autoencoder makes: NaN, infinity. A log variance of -inf is no variance."""
    mean, spread = moments[0], moments[1]
    if np.isnan(mean).any() or np.isnan(spread).any():
        return "NaN"
    return "infinity" if np.isinf(mean).any() or np.isposinf(spread).any() else None
