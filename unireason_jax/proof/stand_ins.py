"""Stand-ins with which the reasoner goes through a conversation without a model.

What the model would write or draw comes from a recording; everything else is the real thing:
presets, records, conversation, pictures resized and cut, contexts, guidance. Pictures are of one
colour each, by which their copies are known again.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from unireason_jax.data import images
from unireason_jax.data.bagel.tokens import SampleSpec
from unireason_jax.data.resizing import Resize
from unireason_jax.data.samples import LATENT, TEXT, VIT
from unireason_jax.inference import turns
from unireason_jax.inference.context import Picture, Written
from unireason_jax.inference.engine import Engine
from unireason_jax.inference.reasoner import Reasoner
from unireason_jax.inference.settings import FlowSettings, TextSettings
from unireason_jax.inference.turns import GAP, Turn, Turns

NEAR = 2
"""Levels of 255 by which a colour may differ after resizing."""


class Left(Exception):
    """The conversation has left the recording, or the recording ends here on purpose."""


class BytesTokenizer:
    """The UTF-8 bytes of a text, each a token, and four control ids."""

    vocab_size = 260
    bos, eos, soi, eoi = range(256, 260)
    unknown_id, is_complete = None, True

    def encode(self, text: str) -> list[int]:
        """The bytes."""
        return list(text.encode())

    def decode(self, ids: Iterable[int]) -> str:
        """The text of bytes; control ids are passed over."""
        return bytes(i for i in ids if i < 256).decode("utf-8", errors="replace")

    def unknown(self, text: str) -> list[str]:
        """Nothing: every text has bytes."""
        return []


class ColourCodec:
    """Latents are the colour of every `stride` x `stride` pixels' corner."""

    channels, stride = 3, 8

    def encode(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """uint8 [H, W, 3] -> mean, log variance (none), float32 [H/8, W/8, 3]."""
        mean = image[:: self.stride, :: self.stride].astype(np.float32)
        return mean, np.full_like(mean, -np.inf)

    def decode(self, latents: np.ndarray) -> np.ndarray:
        """float32 [h, w, 3] -> uint8 [8h, 8w, 3]."""
        pixels = np.rint(latents).astype(np.uint8)
        return pixels.repeat(self.stride, axis=0).repeat(self.stride, axis=1)


def spec() -> SampleSpec:
    """Sizes of the released models: BAGEL's tables and the rules of a converted folder."""
    return SampleSpec(
        BytesTokenizer(),
        ColourCodec(),
        latent_patch=2,
        latent_side=64,
        vit_patch=14,
        vit_side=70,
        latent_resize=Resize(1024, 512, 16),
        vit_resize=Resize(980, 224, 14),
        max_text=32768,
    )


@dataclasses.dataclass(frozen=True)
class Call:
    """One text or one image that the reasoner asked for.

    Attributes:
      kind: "text" or "image".
      full: what the context holds, as the recordings list it.
      guides: the contexts without text and without images, those that are computed.
      limit: most tokens of a text.
      temperature: of a text.
      size: (height, width) of an image.
      flow: of an image.
    """

    kind: str
    full: Mapping[str, Any]
    guides: tuple[Mapping[str, Any], ...] = ()
    limit: int = 0
    temperature: float = 0.0
    size: tuple[int, int] = (0, 0)
    flow: FlowSettings | None = None


class Tape:
    """What a recording returns, and what was asked for.

    Args:
      returns: (kind, content, contents of the context) of every text (content is a string) and
        image (a colour), in order.
      colours: name of each picture -> its colour.
      apart: samples of a request need not take turns as they did in the script: a call takes the
        first recorded one of its kind with an equal context, where there is one.

    Attributes:
      calls: what was asked for, with the number of the recorded call that answered; None for the
        call at which the recording was left.
    """

    def __init__(
        self,
        returns: Sequence[tuple[str, Any, Any]],
        colours: Mapping[str, Sequence[int]],
        *,
        apart: bool = False,
    ):
        self.returns, self.colours, self.apart = list(returns), dict(colours), apart
        self.left = list(range(len(self.returns)))
        self.calls: list[tuple[Call, int | None]] = []

    def next(self, call: Call) -> Any:
        """Notes the call and returns what the recording has for it.

        Raises:
          Left: it has nothing, or something of another kind.
        """
        number = self._number(call)
        self.calls.append((call, number))
        if number is None or self.returns[number][0] != call.kind:
            raise Left
        self.left.remove(number)
        return self.returns[number][1]

    def _number(self, call: Call) -> int | None:
        """The recorded call that answers; None where all have."""
        wanted = (call.kind, call.full["contents"])
        if self.apart:
            for number in self.left:
                kind, _, contents = self.returns[number]
                if (kind, contents) == wanted:
                    return number
        return self.left[0] if self.left else None

    def name_of(self, colour: np.ndarray) -> str:
        """The picture of a colour.

        Raises:
          ValueError: there is none.
        """
        for name, rgb in self.colours.items():
            if np.abs(np.asarray(rgb) - colour).max() <= NEAR:
                return name
        raise ValueError(f"no picture of the recording has the colour {colour}")


class Rows(Engine):
    """An engine whose batches are as large as they are asked for."""

    def rows_for(self, count: int, most: int) -> int:
        """Rows of a batch for `count` requests."""
        return min(count, most)


class Rehearsal:
    """In the place of `inference.context.Context`: keeps what rows have seen, and asks a tape."""

    def __init__(self, engine: Engine, rows: int, tape: Tape):
        self.engine, self.tape = engine, tape
        self.turns: list[list[Turn]] = [[] for _ in range(rows)]

    @property
    def rows(self) -> int:
        """B."""
        return len(self.turns)

    def forget(self, rows: Sequence[int]) -> None:
        """Empties rows."""
        for row in rows:
            self.turns[row] = []

    def retract(self, rows: Sequence[int]) -> None:
        """Forgets the last turn of rows."""
        for row in rows:
            self.turns[row] = self.turns[row][:-1]

    def keep(self, rows: Sequence[int]) -> None:
        """Goes on with these rows only."""
        self.turns = [self.turns[row] for row in rows]

    def read(self, new: Mapping[int, Turns]) -> dict[int, str]:
        """Appends turns; nobody wants anything."""
        for row, more in new.items():
            self.turns[row] = [*self.turns[row], *more]
        return {}

    def write(
        self, seeds: Mapping[int, int], settings: TextSettings, limit: int
    ) -> dict[int, Written]:
        """The recorded texts."""
        tokenizer, out = self.engine.spec.tokenizer, {}
        for row in seeds:
            full = self._told(self.turns[row])
            call = Call("text", full, limit=limit, temperature=settings.temperature)
            ids = tokenizer.encode(self.tape.next(call))
            out[row] = Written(ids, "image", False)
            turn = turns.text_turn([tokenizer.bos, *ids, tokenizer.eos])
            self.turns[row] = [*self.turns[row], turn]
        return out

    def draw(
        self,
        seeds: Mapping[int, int],
        grids: Mapping[int, tuple[int, int]],
        flow: FlowSettings,
        guides: Sequence[Mapping[int, Turns]],
    ) -> dict[int, Picture]:
        """Latents of the recorded colours."""
        spec, out = self.engine.spec, {}
        cell = spec.codec.stride * spec.latent_patch
        for row in seeds:
            rows, columns = grids[row]
            size = rows * cell, columns * cell
            told = tuple(self._told(guide[row]) for guide in guides)
            full = self._told(self.turns[row])
            colour = self.tape.next(Call("image", full, told, size=size, flow=flow))
            shape = rows * spec.latent_patch, columns * spec.latent_patch, 3
            made = np.broadcast_to(np.asarray(colour, np.float32), shape)
            out[row] = Picture(made, flow.forwards(1 + len(guides)))
        return out

    def _told(self, seen: Turns) -> dict[str, Any]:
        """A context as the recordings list it."""
        slots, rope = (int(x[0]) for x in turns.state([seen]))
        contents = [self._turn(turn) for turn in seen if turn.kind != GAP]
        return {"contents": contents, "slots": slots, "rope": rope}

    def _turn(self, turn: Turn) -> dict[str, Any]:
        spec = self.engine.spec
        if turn.kind == TEXT:
            return {"kind": "text", "text": spec.tokenizer.decode(turn.tokens.tolist())}
        side = {LATENT: spec.latent_side, VIT: spec.vit_side}[turn.kind]
        cell = {LATENT: spec.codec.stride * spec.latent_patch, VIT: spec.vit_patch}[turn.kind]
        last = int(turn.places.max())
        size = [(last // side + 1) * cell, (last % side + 1) * cell]
        colour = turn.tokens[0, :3]
        if turn.kind == VIT:
            colour = np.abs(images.PIXEL_VALUES[:, None] - colour).argmin(0)
        kind = {LATENT: "vae", VIT: "vit"}[turn.kind]
        return {"kind": kind, "image": self.tape.name_of(colour), "size": size}


def reasoner(tape: Tape) -> Reasoner:
    """A reasoner that asks a tape."""
    config = SimpleNamespace(llm=SimpleNamespace(vocab=BytesTokenizer.vocab_size))
    made = Reasoner(config, None, spec())
    made.engine = Rows(config, None, made.engine.spec)
    made.contexts = lambda engine, rows: Rehearsal(engine, rows, tape)
    return made
