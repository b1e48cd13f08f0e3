"""What a row has seen, as a list of turns, and the poorer lists that guide drawing.

A turn is one block that goes into the cache: a text with its markers, an image's clean latents, or
an image's ViT patches. A list of turns says everything about a context, so two contexts share what
they start with.
"""

import collections
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from unireason_jax.data import images
from unireason_jax.data.samples import LATENT, TEXT, VIT
from unireason_jax.data.tokens import SequenceSpec, latent_tokens, vit_tokens

GAP = -1
"""Kind of a turn that only moves the rotary position by one: an image copy that is left out."""

WITHOUT_TEXT = ("all", "since_image")


class Turn(NamedTuple):
    """One block of a context.

    Attributes:
      kind: TEXT, VIT or LATENT (the streams of `data.samples`), or GAP.
      tokens: ids [n] int32 with bos and eos, or image features [n, F] float32; empty for GAP.
      places: [n] int32 positions in the image's grid; None for texts.
    """

    kind: int
    tokens: np.ndarray
    places: np.ndarray | None = None

    @property
    def slots(self) -> int:
        """Cache slots it takes: its tokens, and the two markers of an image."""
        return len(self.tokens) + (2 if self.kind in (VIT, LATENT) else 0)

    @property
    def advance(self) -> int:
        """How far it moves the rotary position."""
        return len(self.tokens) if self.kind == TEXT else 1


Turns = Sequence[Turn]
_GAP = Turn(GAP, np.zeros(0, np.int32))


def text_turn(ids: Sequence[int]) -> Turn:
    """A text turn of ids that include bos and eos."""
    return Turn(TEXT, np.asarray(ids, np.int32))


def image_turns(image: Any, spec: SequenceSpec, *, gen: bool, und: bool) -> list[Turn]:
    """An image shown as clean latents (gen), then as ViT patches (und, where there is a ViT).

    Raises:
      ValueError: the image cannot be read, or its size does not fit the model.
    """
    turns = []
    if gen:
        turns.append(Turn(LATENT, *latent_tokens(image, spec)))
    if und and spec.vit_patch:
        turns.append(Turn(VIT, *vit_tokens(image, spec)))
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


def without_text(turns: Turns, rule: str) -> list[Turn]:
    """The context without text.

    Args:
      turns: the full context.
      rule: "all" leaves no text (BAGEL's and UniReason's evaluation scripts, and what condition
        dropout trains); "since_image" drops what was said since the last image, or since the system
        prompt where there is none (BAGEL's interleaved inference, IRG).
    """
    if rule == "all":
        return [turn for turn in turns if turn.kind != TEXT]
    last = max((n for n, turn in enumerate(turns) if turn.kind != TEXT), default=-1)
    return list(turns[: last + 1])


def without_images(turns: Turns) -> list[Turn]:
    """All texts; an image copy leaves a gap of one rotary position, as in condition dropout."""
    return [turn if turn.kind == TEXT else _GAP for turn in turns]


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


def grid_places(grid: tuple[int, int], spec: SequenceSpec) -> np.ndarray:
    """int32 [rows * columns] positions of a latent grid (rows, columns)."""
    return images.positions(*grid, spec.latent_side, spec.interpolate)


def tokens_of(grid: tuple[int, int]) -> int:
    """Latent tokens of a grid (rows, columns)."""
    return grid[0] * grid[1]


def told(text: str, said: Mapping[str, str], spec: SequenceSpec) -> Turn:
    """A text turn in which {role} stands for the last text of a role."""
    words = text.format_map(collections.defaultdict(str, said))
    markers = spec.tokenizer
    return text_turn([markers.bos, *markers.encode(words), markers.eos])


def check_size(size: tuple[int, int], spec: SequenceSpec) -> None:
    """Raises ValueError unless images of (height, width) pixels can be drawn."""
    cell = spec.codec.stride * spec.latent_patch
    if size[0] % cell or size[1] % cell:
        raise ValueError(f"images of {size[0]} x {size[1]} pixels: give multiples of {cell}.")
    grid_places((size[0] // cell, size[1] // cell), spec)


def check_image(image: Any, spec: SequenceSpec, *, gen: bool, und: bool) -> None:
    """Raises ValueError unless an image can be read and fits the model's grids."""
    height, width = images.load(image, spec.image_root).shape[:2]
    shown = [(spec.latent_resize, spec.codec.stride * spec.latent_patch, spec.latent_side)] * gen
    shown += [(spec.vit_resize, spec.vit_patch, spec.vit_side)] * bool(und and spec.vit_patch)
    for resize, cell, side in shown:
        columns, rows = resize(width, height) if resize else (width, height)
        if columns % cell or rows % cell or max(columns, rows) > cell * side:
            raise ValueError(
                f"the image has {width} x {height} pixels (width x height); this model reads "
                f"multiples of {cell} up to {cell * side}. Resize it."
            )
