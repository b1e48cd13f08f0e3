"""How the segments of a record follow each other as Janus reads them.

One side asks: what it says and shows is given. The other is the model: it writes texts and draws
pictures. A record of Janus-Pro is its conversation (`prompts.conversation`), cut into segments:

    bos [system "\\n\\n"] <|User|> ": " words "\\n\\n" <|Assistant|> ":" " " answer eos
    ... "\\n\\n" <|Assistant|> ":" <begin_of_image> codes <end_of_image>

Every text that the model writes starts with its mark and ends with eos, where it hands over: to an
image by its begin. That is our choice where no release says anything (texts before and after drawn
pictures). Tokenizers without marks of the speakers write a turn as bos, words, eos.
"""

from typing import NamedTuple

from unireason_jax.data.janus import prompts
from unireason_jax.data.janus.tokenizer import JanusTokenizer
from unireason_jax.data.records import Record, Segment
from unireason_jax.data.text.tokenizer import Tokenizer

ASKS = ("system", "user", "source")
"""Roles of segments that are given to the model; all others are its own."""


class Said(NamedTuple):
    """The ids around a segment, and its words.

    Attributes:
      opening: what comes first; never supervised.
      body: words and closing mark of a text; empty for an image.
      closing: what follows an image that is given.
    """

    opening: list[int]
    body: list[int]
    closing: list[int]


def asks(segment: Segment) -> bool:
    """Whether a segment is given to the model, not its own."""
    return segment.role in ASKS


def shows_codes(segment: Segment, *, tower: bool) -> bool:
    """Whether an image's codes stand in the sequence: all that the model draws, and given ones
    that there is no tower to look at."""
    return segment.kind == "image" and not (asks(segment) and segment.und and tower)


def opening(record: Record, number: int, tokenizer: Tokenizer) -> list[int]:
    """What comes before a segment that the model makes."""
    return said(record, number, tokenizer).opening


def said(record: Record, number: int, tokenizer: Tokenizer) -> Said:
    """The ids of a segment of a record, whose segments may be holes."""
    segment = record.segments[number]
    if not isinstance(tokenizer, JanusTokenizer):
        return _turn(segment, tokenizer)
    first = [tokenizer.bos] if number == 0 else []
    before = record.segments[number - 1] if number else None
    after = record.segments[number + 1] if number + 1 < len(record.segments) else None
    if segment.role == "system":
        return Said(first, tokenizer.encode((segment.text or "") + prompts.BETWEEN), [])
    if not asks(segment):
        return _made(segment, before, first, tokenizer)
    goes_on = before is not None and asks(before) and before.role != "system"
    mark = [] if goes_on else [tokenizer.special[prompts.USER]]
    start = "\n" if goes_on else ": "
    end = "" if after is not None and asks(after) else prompts.BETWEEN
    if segment.kind == "image":
        return Said([*first, *mark, *tokenizer.encode(start)], [], tokenizer.encode(end))
    words = (segment.text or "").strip()
    return Said([*first, *mark], tokenizer.encode(start + words + end), [])


def _made(
    segment: Segment, before: Segment | None, first: list[int], tokenizer: JanusTokenizer
) -> Said:
    """A segment of the model: a text has its mark, an image only after a question."""
    mark = [*first, tokenizer.special[prompts.ASSISTANT], *tokenizer.encode(":")]
    if segment.kind == "image":
        return Said(mark if before is None or asks(before) else [], [], [])
    words = tokenizer.encode(" " + segment.content) if segment.text is not None else []
    return Said(mark, [*words, tokenizer.eos], [])


def _turn(segment: Segment, tokenizer: Tokenizer) -> Said:
    """A segment of a tokenizer that has no marks of the speakers."""
    if segment.kind == "image":
        return Said([], [], [])
    words = tokenizer.encode(segment.content) if segment.text is not None else []
    return Said([tokenizer.bos], [*words, tokenizer.eos], [])


def first(tokenizer: Tokenizer) -> int:
    """The token that a text of the model goes on from: the last of its opening."""
    return tokenizer.encode(":")[-1] if isinstance(tokenizer, JanusTokenizer) else tokenizer.bos


def blank(tokenizer: Tokenizer) -> int:
    """The id that stands for every word of a prompt that guidance turns away from."""
    return getattr(tokenizer, "pad", tokenizer.eos)
