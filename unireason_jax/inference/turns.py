"""What a row has seen, as a list of turns, and the poorer lists that guide drawing.

A turn is one block that goes into the cache: a text with its markers, an image's clean latents, or
an image's ViT patches. A list of turns says everything about a context, so two contexts share what
they start with.
"""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from unireason_jax.data import images
from unireason_jax.data.bagel.tokens import SampleSpec, latent_pixels, latent_tokens, vit_tokens
from unireason_jax.data.janus import script, tokens
from unireason_jax.data.records import Record, Segment
from unireason_jax.data.resizing import Resize
from unireason_jax.data.samples import LATENT, TEXT, VIT

GAP = -1
"""Kind of a turn that only moves the rotary position by one: an image copy that is left out."""

WITHOUT_TEXT = ("all", "since_image", "last_input")
WITHOUT_IMAGES = ("gaps", "texts", "given")


class Turn(NamedTuple):
    """One block of a context.

    Attributes:
      kind: TEXT, VIT or LATENT (the streams of `data.samples`), or GAP.
      tokens: ids [n] int32 with bos and eos, or image features [n, F] float32; empty for GAP.
      places: [n] int32 positions in the image's grid; None for texts.
      role: of the segment that gave it; empty for what the model made.
      causal: an image of a model that draws with codes: every token has a position of its own, and
        the tokens of LATENT are codes [n] int32.
    """

    kind: int
    tokens: np.ndarray
    places: np.ndarray | None = None
    role: str = ""
    causal: bool = False

    @property
    def slots(self) -> int:
        """Cache slots it takes: its tokens, and the two markers of an image."""
        return len(self.tokens) + (2 if self.kind in (VIT, LATENT) else 0)

    @property
    def advance(self) -> int:
        """How far it moves the rotary position."""
        return self.slots if self.kind == TEXT or self.causal else 1


Turns = Sequence[Turn]
_GAP = Turn(GAP, np.zeros(0, np.int32))


@dataclasses.dataclass(frozen=True)
class Reading:
    """How pictures are resized before a model sees them, if it is one that resizes them.

    Attributes:
      latent_first: given pictures are resized by the rule of latents, and the ViT reads the result
        (BAGEL's interleaved inference, which so enlarges small pictures for the ViT too).
      vit: longest and shortest edge of the ViT's copy.
      max_pixels: of the ViT's copy.
    """

    latent_first: bool = False
    vit: tuple[int, int] = (980, 224)
    max_pixels: int = Resize.max_pixels

    def spec(self, spec: SampleSpec) -> SampleSpec:
        """The spec with the ViT's rule in its place, as far as the model's table of places goes."""
        if spec.vit_resize is None:
            return spec
        longest = min(self.vit[0], spec.vit_patch * spec.vit_side)
        shortest = min(self.vit[1], longest // 2)
        rule = Resize(longest, shortest, spec.vit_patch, self.max_pixels)
        return dataclasses.replace(spec, vit_resize=rule)

    def given(self, image: np.ndarray, spec: SampleSpec) -> np.ndarray:
        """What a given picture (uint8 [H, W, 3]) is to all of the model."""
        first = self.latent_first and spec.latent_resize
        return spec.latent_resize.apply(image) if first else image


def text_turn(ids: Sequence[int], role: str = "") -> Turn:
    """A text turn of ids that include bos and eos."""
    return Turn(TEXT, np.asarray(ids, np.int32), role=role)


def image_turns(
    image: Any, spec: SampleSpec, *, gen: bool, und: bool, role: str = ""
) -> list[Turn]:
    """An image shown as clean latents (gen), then as ViT patches (und, where there is a ViT).

    Raises:
      ValueError: the image cannot be read, or its size does not fit the model.
    """
    turns = []
    if gen:
        turns.append(Turn(LATENT, *latent_tokens(image, spec), role))
    if und and spec.vit_patch:
        turns.append(Turn(VIT, *vit_tokens(image, spec), role))
    return turns


def blanked(turns: Turns, spec: SampleSpec) -> list[Turn]:
    """The context without its words: all but the first token are the blank id (Janus)."""
    out: list[Turn] = []
    for turn in turns:
        if turn.kind == TEXT:
            ids = np.full_like(turn.tokens, script.blank(spec.tokenizer))
            if not out:
                ids[:1] = turn.tokens[:1]
            turn = turn._replace(tokens=ids)
        out.append(turn)
    return out


def said_turns(record: Record, number: int, spec: SampleSpec, image: Any = None) -> list[Turn]:
    """A given segment as a model that draws with codes reads it, with what stands around it."""
    segment, around = record.segments[number], script.said(record, number, spec.tokenizer)
    first = [*around.opening, *around.body]
    turns = [text_turn(first, segment.role)] if first else []
    turns += code_turns(segment, image, spec, role=segment.role)
    return turns + ([text_turn(around.closing, segment.role)] if around.closing else [])


def code_turns(segment: Segment, image: Any, spec: SampleSpec, *, role: str = "") -> list[Turn]:
    """An image as a model that draws with codes is shown it; nothing for a text."""
    turns = []
    for stream in tokens.streams(segment, spec):
        if stream == VIT:
            turns.append(Turn(VIT, *vit_tokens(image, spec), role, causal=True))
        else:
            codes = spec.codec.encode(latent_pixels(image, spec)).reshape(-1)
            places = np.arange(len(codes), dtype=np.int32)
            turns.append(Turn(LATENT, codes.astype(np.int32), places, role, causal=True))
    return turns


def state(rows: Sequence[Turns]) -> tuple[np.ndarray, np.ndarray]:
    """Filled slots and next rotary position of every row, int32 [B] each."""
    lengths = [sum(turn.slots for turn in turns) for turns in rows]
    positions = [sum(turn.advance for turn in turns) for turns in rows]
    return np.array(lengths, np.int32), np.array(positions, np.int32)


def shared(one: Turns, two: Turns) -> int:
    """Turns that both start with."""
    alike = 0
    for a, b in zip(one, two):
        if a is not b:
            break
        alike += 1
    return alike


def content(turns: Turns) -> tuple:
    """What a cache holds of turns, hashable: equal for turns that were made apart."""
    return tuple(
        (
            turn.kind,
            turn.causal,
            turn.tokens.tobytes(),
            turn.places is None or turn.places.tobytes(),
        )
        for turn in turns
    )


def without_text(turns: Turns, rule: str) -> list[Turn]:
    """The context without text.

    Args:
      turns: the full context.
      rule: "all" leaves no text (evaluation scripts that draw from a prompt, and what condition
        dropout trains); "since_image" drops what was said since the last image or, where there is
        none, since the system prompt (IRG, refinement); "last_input" drops the last text that was
        given and what was written after it, nothing given where an image was given last (BAGEL's
        interleaved inference, editing scripts).
    """
    if rule == "all":
        return [turn for turn in turns if turn.kind != TEXT]
    first = next((n for n, turn in enumerate(turns) if turn.role != "system"), len(turns))
    if rule == "since_image":
        last = max((n for n, turn in enumerate(turns) if turn.kind != TEXT), default=first - 1)
        return list(turns[: last + 1])
    last = max((n for n, turn in enumerate(turns) if n >= first and turn.role), default=first)
    return list(turns[: last + (turns[last].kind != TEXT)])


def without_images(turns: Turns, rule: str) -> list[Turn]:
    """The context without images.

    Args:
      turns: the full context.
      rule: "gaps" is all texts, where an image copy leaves a gap of one rotary position, as in
        condition dropout; "texts" leaves no gaps (evaluation scripts, IRG); "given" also lacks
        what the model wrote (BAGEL's interleaved inference).
    """
    if rule == "gaps":
        return [turn if turn.kind == TEXT else _GAP for turn in turns]
    return [turn for turn in turns if turn.kind == TEXT and (turn.role or rule == "texts")]


def has_image(turns: Turns) -> bool:
    """Whether anything but text has been seen."""
    return any(turn.kind != TEXT for turn in turns)


def padded(rows: Sequence[np.ndarray], length: int) -> np.ndarray:
    """Arrays [n_i, ...] of one type as one [B, length, ...], zeros behind."""
    shape, dtype = rows[0].shape[1:], rows[0].dtype
    out = np.zeros((len(rows), length, *shape), dtype)
    for target, row in zip(out, rows):
        target[: len(row)] = row
    return out


def grid_places(grid: tuple[int, int], spec: SampleSpec) -> np.ndarray:
    """int32 [rows * columns] positions of a latent grid (rows, columns)."""
    return images.positions(*grid, spec.latent_side, spec.interpolate)


def tokens_of(grid: tuple[int, int]) -> int:
    """Latent tokens of a grid (rows, columns)."""
    return grid[0] * grid[1]


def told(text: str, said: Mapping[str, str], spec: SampleSpec) -> Turn:
    """A text turn in which {prompt} and {role} stand for what was said."""
    words = text.format_map(collections.defaultdict(str, said))
    markers = spec.tokenizer
    return text_turn([markers.bos, *markers.encode(words), markers.eos], "told")


def check_size(size: tuple[int, int], spec: SampleSpec) -> None:
    """Raises ValueError unless images of (height, width) pixels can be drawn."""
    cell = spec.codec.stride * spec.latent_patch
    if size[0] % cell or size[1] % cell:
        raise ValueError(f"images of {size[0]} x {size[1]} pixels: give multiples of {cell}.")
    grid_places((size[0] // cell, size[1] // cell), spec)


def check_image(
    image: Any, spec: SampleSpec, *, gen: bool, und: bool, reading: Reading | None = None
) -> None:
    """Raises ValueError unless an image can be read and fits the model's grids."""
    height, width = images.load(image, spec.image_root).shape[:2]
    if reading and reading.latent_first and spec.latent_resize:
        width, height = spec.latent_resize(width, height)
    shown = [(spec.latent_resize, spec.codec.stride * spec.latent_patch, spec.latent_side)] * gen
    shown += [(spec.vit_resize, spec.vit_patch, spec.vit_side)] * bool(und and spec.vit_patch)
    for resize, cell, side in shown:
        columns, rows = resize(width, height) if resize else (width, height)
        if columns % cell or rows % cell or max(columns, rows) > cell * side:
            raise ValueError(
                f"the image has {width} x {height} pixels (width x height); this model reads "
                f"multiples of {cell} up to {cell * side}. Resize it."
            )


def next_turns(queue: collections.deque[Turn], kind: int) -> list[Turn]:
    """Takes what a row can append of a kind in one pass: many texts or gaps, or one image."""
    taken = []
    while queue and queue[0].kind == kind:
        taken.append(queue.popleft())
        if kind not in (TEXT, GAP):
            break
    return taken


def joined(rows: Sequence[Sequence[np.ndarray]]) -> list[np.ndarray]:
    """Arrays of each row end to end; rows without any get an empty one."""
    like = next(array for row in rows for array in row)[:0]
    return [np.concatenate(row) if row else like for row in rows]
