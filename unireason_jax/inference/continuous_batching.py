"""Conversations that come and go while others are on their way, as a server has them.

Every conversation has a context of its own, of one row, in which it reads and draws; texts are
written together, a few tokens at a time. So whoever comes joins at the next token, whoever leaves
frees its place, and nobody's result depends on who else is there: not by a bit, since the programs
of a conversation have shapes that follow from it alone.
"""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from unireason_jax.data.records import untag
from unireason_jax.inference.batch import Batch
from unireason_jax.inference.context import FEWEST_SLOTS, Context
from unireason_jax.inference.conversation import Conversation, Request
from unireason_jax.inference.engine import Engine
from unireason_jax.inference.gradual_drawing import STEPS, Gradual
from unireason_jax.inference.settings import Settings
from unireason_jax.inference.text_pool import Pool, Shape
from unireason_jax.inference.trace import Step, Trace

TOKENS = 8
"""Tokens that are written before others are looked after."""


@dataclasses.dataclass(frozen=True)
class News:
    """What became of a conversation.

    Attributes:
      kind: "words" (more of a text), "preview" (an image while it is drawn), "step" (a text or an
        image is complete), "end" (the trace is) or "error".
      role: of the step.
      text: the words that are new.
      image: uint8 [H, W, 3], what the image will look like.
      share: of the drawing that is done.
      step: the step.
      trace: the conversation.
      error: what went wrong.
    """

    kind: str
    role: str = ""
    text: str = ""
    image: np.ndarray | None = None
    share: float = 0.0
    step: Step | None = None
    trace: Trace | None = None
    error: Exception | None = None


Listener = Callable[[News], None]


class Guest:
    """One conversation.

    Attributes:
      batch: its row: what it has seen and what it waits for.
      tell: is told all news of it.
      told: steps that it has heard of.
      words: of the text being written, that were told.
      pool: where it writes now, with the seed of the text.
      drawing: the image on its way, with the seed.
      previews: steps of a drawing after which it is shown; 0 shows it when it is complete.
    """

    def __init__(self, batch: Batch, tell: Listener, previews: int = 0):
        self.batch, self.tell, self.previews = batch, tell, previews
        batch.admit()
        self.told, self.words = len(self.talk.steps), ""
        self.pool: tuple[Pool, int] | None = None
        self.drawing: tuple[Gradual, int] | None = None

    @property
    def talk(self) -> Conversation:
        """What has happened, and what comes next."""
        return self.batch.rows[0][1]

    @property
    def wants(self) -> str:
        """What it waits for: "read", "text", "image", or "" at its end."""
        if self.talk.pending or self.talk.restarts or self.talk.retracts:
            return "read"
        return "" if self.talk.ended else self.talk.hole.kind

    def heard(self, ids: list[int]) -> None:
        """Tells what is new of the words written so far."""
        said = self.talk.spec.tokenizer.decode(ids)
        self._words(visible(said, self.talk.hole.tag))

    def steps(self) -> None:
        """Tells the steps that are new."""
        for step in self.talk.steps[self.told :]:
            if step.kind == "text" and not step.given:
                self._words(step.text, step.role)
            self.words = ""
            self.told += 1
            self.tell(News("step", step.role, step=step))

    def seen(self) -> None:
        """Tells what the image on its way looks like, as often as it is wanted."""
        drawing, role = self.drawing[0], self.talk.hole.role
        if self.previews and drawing.done % max(self.previews, STEPS) < STEPS:
            share = drawing.done / drawing.steps
            self.tell(News("preview", role, image=drawing.image(), share=share))

    def _words(self, said: str, role: str = "") -> None:
        if said.startswith(self.words) and len(said) > len(self.words):
            new, self.words = said[len(self.words) :], said
            self.tell(News("words", role or self.talk.hole.role, text=new))


class Live:
    """Conversations on their way.

    Args:
      engine: the model.
      rows: most conversations at a time.
      slots: fewest slots of a context; more make fewer programs.
      tokens: that are written before others are looked after.
    """

    def __init__(
        self, engine: Engine, rows: int, *, slots: int = FEWEST_SLOTS, tokens: int = TOKENS
    ):
        self.engine, self.rows, self.slots, self.tokens = engine, rows, slots, tokens
        self.guests: list[Guest] = []
        self.pools: dict[Shape, Pool] = {}

    def add(
        self,
        request: Request,
        sample: int,
        settings: Settings,
        tell: Listener,
        previews: int = 0,
    ) -> Guest:
        """Begins a conversation that `Reasoner.prepare` made; there must be a place for it."""
        if len(self.guests) >= self.rows:
            raise ValueError(f"there are {self.rows} conversations already.")
        context = Context(self.engine, 1, self.slots, self._contexts)
        guest = Guest(Batch(context, settings, [(request, sample)]), tell, previews)
        self.guests.append(guest)
        return guest

    def _contexts(self) -> list[Context]:
        """What everybody has seen: who comes with the words of another need not read them."""
        return [guest.batch.context for guest in self.guests]

    def drop(self, guest: Guest) -> None:
        """Ends a conversation, wherever it is; nobody is told."""
        if guest in self.guests:
            self.guests.remove(guest)
        if guest.pool:
            guest.pool[0].leave(guest)
            guest.pool = None

    def work(self) -> None:
        """Does one piece of everything: reads, writes a few tokens, draws a few steps."""
        with self.engine.meshed():
            for guest in list(self.guests):
                self._safely(guest, self._ready)
            for pool in list(self.pools.values()):
                self._write(pool)
            drawing = next((guest for guest in self.guests if guest.wants == "image"), None)
            if drawing:
                self._safely(drawing, self._draw)

    def _ready(self, guest: Guest) -> None:
        """Reads what is new to a conversation; one that wants to write joins a pool."""
        if guest.pool:
            return
        if guest.wants == "read":
            guest.batch.read()
            guest.steps()
        if guest.wants == "":
            self.drop(guest)
            guest.tell(News("end", trace=guest.talk.trace()))
        elif guest.wants == "text":
            self._join(guest)

    def _join(self, guest: Guest) -> None:
        """Puts a conversation where its text is written."""
        settings, context = guest.batch.settings, guest.batch.context
        limit = settings.limit_of(guest.talk.hole.role)
        room = context.open([0], limit)
        shape = Shape(context.cache.slots, room, settings.text.temperature == 0)
        if shape not in self.pools:
            self.pools[shape] = Pool(self.engine, self.rows, shape)
        guest.pool = self.pools[shape], guest.talk.seed()
        guest.pool[0].join(guest, context, guest.pool[1], settings.text, limit)

    def _write(self, pool: Pool) -> None:
        """Lets a pool write; a pool that nobody uses is given up."""
        if pool.is_empty:
            self.pools.pop(pool.shape)
            return
        started = time.perf_counter()
        try:
            written = list(pool.write(self.tokens))
        except Exception as error:
            self.pools.pop(pool.shape)
            for guest in [guest for guest in self.guests if guest.pool and guest.pool[0] is pool]:
                guest.pool = None
                self._failed(guest, error)
            return
        share = (time.perf_counter() - started) / len(written)
        for guest, ids, text in written:
            guest.talk.seconds["write"] += share
            if text is None:
                self._safely(guest, lambda guest, ids=ids: guest.heard(ids))
                continue
            seed, guest.pool = guest.pool[1], None
            self._safely(guest, lambda guest, text=text, seed=seed: guest.talk.wrote(text, seed))
            self._safely(guest, Guest.steps)

    def _draw(self, guest: Guest) -> None:
        """Draws some steps of an image, or an image of codes."""
        started = time.perf_counter()
        if self.engine.spec.by_codes:
            guest.batch.draw([0])
        else:
            self._draw_some(guest)
        guest.talk.seconds["draw"] += time.perf_counter() - started
        guest.steps()

    def _draw_some(self, guest: Guest) -> None:
        talk, batch = guest.talk, guest.batch
        if guest.drawing is None:
            flow, guides = batch.guides(0, talk)
            seed = talk.seed()
            guest.drawing = Gradual(batch.context, seed, talk.grid(), flow, guides), seed
        drawing, seed = guest.drawing
        drawing.draw()
        if drawing.done < drawing.steps:
            guest.seen()
            return
        guest.drawing = None
        talk.drew(drawing.image(), seed, drawing.passes)

    def _safely(self, guest: Guest, work: Callable[[Guest], Any]) -> None:
        """Works for one conversation; if that fails, it ends, and no other."""
        if guest not in self.guests:
            return
        try:
            work(guest)
        except Exception as error:
            self._failed(guest, error)

    def _failed(self, guest: Guest, error: Exception) -> None:
        self.drop(guest)
        guest.tell(News("error", error=error))


def visible(said: str, tag: str | None) -> str:
    """Of a text being written, the words without its tag, as far as they are certain.

    What may become the closing tag, blanks at the end and half of a character wait.
    """
    said = said.rstrip("\ufffd")
    if not tag:
        return said.strip()
    opening, closing = f"<{tag}>", f"</{tag}>"
    if opening.startswith(said.strip()):
        return ""
    said = untag(said, tag)
    for length in range(min(len(said), len(closing) - 1), 0, -1):
        if closing.startswith(said[-length:]):
            return said[:-length].rstrip()
    return said
