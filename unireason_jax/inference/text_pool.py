"""Texts of several conversations that are written together; they join and leave at any token."""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from unireason_jax.inference import cache as caches
from unireason_jax.inference import writing
from unireason_jax.inference.context import Context, Written
from unireason_jax.inference.engine import Engine
from unireason_jax.inference.settings import TextSettings


class Shape(NamedTuple):
    """What a text needs of its pool; it follows from its own conversation alone.

    Attributes:
      slots: of the cache.
      room: for its tokens.
      greedy: whether tokens are the likeliest.
    """

    slots: int
    room: int
    greedy: bool


class Pool:
    """Texts of one shape, a row each.

    The programs have the shape of the pool and no row sees another, so a text does not depend on
    what else is written.
    """

    def __init__(self, engine: Engine, rows: int, shape: Shape):
        """`rows` texts at most, none yet."""
        self.engine, self.shape = engine, shape
        self.cache = engine.empty(rows, shape.slots)
        nothing = _start(np.zeros(rows, bool), engine.markers, shape.room)
        self.texts = jax.tree.map(np.array, nothing)
        self.members: list[Any] = [None] * rows
        self.contexts: list[Context | None] = [None] * rows
        self.seeds, self.limits = np.zeros(rows, np.uint32), np.zeros(rows, np.int32)
        self.temperatures, self.top_ps = np.zeros(rows, np.float32), np.ones(rows, np.float32)

    @property
    def is_empty(self) -> bool:
        """Whether nobody writes."""
        return all(context is None for context in self.contexts)

    def join(
        self, member: Any, context: Context, seed: int, settings: TextSettings, limit: int
    ) -> None:
        """Begins a text in a free row.

        Args:
          member: whose text it is, as `write` names it.
          context: of one row, with room for the text.
          seed: uint32.
          settings: how tokens are chosen.
          limit: most tokens.
        """
        row = self.contexts.index(None)
        self.members[row], self.contexts[row] = member, context
        self.cache = _put(self.cache, np.array([row]), context.cache)
        drawn, token, place, done = self.texts
        drawn.counts[row], drawn.handover[row], drawn.cut[row] = 0, writing.NEVER, False
        token[row], place[row], done[row] = self.engine.markers.start, 0, False
        self.seeds[row], self.limits[row] = seed, limit
        self.temperatures[row], self.top_ps[row] = settings.temperature, settings.top_p

    def leave(self, member: Any) -> None:
        """Ends a text that nobody waits for any more."""
        row = self.members.index(member)
        self.members[row] = self.contexts[row] = None
        self.texts.done[row] = True

    def write(self, tokens: int) -> Iterator[tuple[Any, list[int], Written | None]]:
        """Goes on for so many tokens.

        Yields:
          Member, its ids so far, and the text where it is complete: such a row is free again.
        """
        engine = self.engine
        config, markers, vocab = engine.config, engine.markers, engine.spec.tokenizer.vocab_size
        self.cache, texts = writing.write_some(
            engine.params,
            self.cache,
            self.texts,
            np.int32(tokens),
            self.seeds,
            self.limits,
            self.temperatures,
            self.top_ps,
            config=config,
            markers=markers,
            vocab=vocab,
            greedy=self.shape.greedy,
        )
        self.texts = engine.fetch(texts)
        drawn = self.texts.drawn
        for row, context in enumerate(self.contexts):
            if context is None:
                continue
            member, ids = self.members[row], drawn.ids[row, : drawn.counts[row]].tolist()
            if not self.texts.done[row]:
                yield member, ids, None
                continue
            context.cache = _take(self.cache, np.array([row]))
            context.close({0: ids})
            self.members[row] = self.contexts[row] = None
            told = context.prefill.word(drawn.handover[row])
            yield member, ids, Written(ids, told, bool(drawn.cut[row]))


_start = jax.jit(writing.start_texts, static_argnums=(1, 2))
_put = functools.partial(jax.jit, donate_argnums=0)(caches.put_rows)
_take = jax.jit(caches.take_rows)
