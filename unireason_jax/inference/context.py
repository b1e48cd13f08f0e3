"""The contexts of one batch: every row reads, writes and draws at its own state.

A row is a list of turns and its part of the cache. A poorer context (for guidance) is another list
of turns; it starts from the cached turns that both begin with, and only the rest is read again.
Contexts of one drawing are rows of one batch. Sizes are rounded up to few, so that a whole
evaluation compiles a handful of programs.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from unireason_jax.data import images
from unireason_jax.inference import cache as caches
from unireason_jax.inference import sampler, writing
from unireason_jax.inference.cache import Cache
from unireason_jax.inference.code_drawing import CodeSettings
from unireason_jax.inference.engine import Engine, bucket
from unireason_jax.inference.prefill import FEWEST_SLOTS, FEWEST_TOKENS, Prefill
from unireason_jax.inference.settings import FlowSettings, TextSettings
from unireason_jax.inference.turns import (
    Turn,
    Turns,
    content,
    grid_places,
    shared,
    state,
    text_turn,
)
from unireason_jax.rules import flow as flows


class Written(NamedTuple):
    """A text that a row wrote.

    Attributes:
      ids: tokens without markers.
      handover: "text", "image" or "stop": what the model wanted next.
      cut: the limit ended the text, not the model.
      logps: log-probabilities of the tokens and of the closing eos, see `writing.Drawn`.
      forced: the eos was put there, not chosen.
    """

    ids: list[int]
    handover: str
    cut: bool
    logps: Sequence[float] = ()
    forced: bool = False


class Picture(NamedTuple):
    """An image that a row drew: its scaled latents float32 [h, w, C], and the passes it took."""

    latents: np.ndarray
    forwards: int


class Context:
    """What B rows have seen.

    Attributes:
      engine: the model.
      cache: keys and values of all rows.
      turns: per row, what the cache holds of it.
    """

    def __init__(
        self,
        engine: Engine,
        rows: int,
        fewest: int = FEWEST_SLOTS,
        beside: Callable[[], Sequence["Context"]] = list,
    ):
        """Nothing seen yet; the cache has `fewest` slots, or more where a row needs them.

        `beside` tells contexts of equal `fewest`; one row takes from them what it would read first.
        """
        self.engine, self.beside = engine, beside
        self.prefill = Prefill(engine, fewest)
        self.begun: tuple[Turns, dict[int, str]] = (), {}
        self.cache = engine.empty(rows, fewest)
        self.turns: list[list[Turn]] = [[] for _ in range(rows)]

    @property
    def rows(self) -> int:
        """B."""
        return len(self.turns)

    def forget(self, rows: Sequence[int]) -> None:
        """Empties rows, for new conversations."""
        for row in rows:
            self.turns[row] = []
        self.cache = self.prefill.at(self.cache, self.turns)

    def retract(self, rows: Sequence[int]) -> None:
        """Forgets the last turn of rows."""
        for row in rows:
            self.turns[row] = self.turns[row][:-1]
        self.cache = self.prefill.at(self.cache, self.turns)

    def keep(self, rows: Sequence[int]) -> None:
        """Goes on with these rows only, in this order."""
        self.turns = [self.turns[row] for row in rows]
        self.cache = self.engine.take(self.cache, rows)

    def read(self, new: Mapping[int, Turns]) -> dict[int, str]:
        """Appends turns to some rows; returns what the rows want after their last image.

        What samples of one prompt share is read once.
        """
        added = [list(new.get(row, ())) for row in range(self.rows)]
        begins = self.rows == 1 and not self.turns[0]
        if begins and (lender := self._lender(added[0])):
            self.cache, wanted = self._borrowed(lender), lender.begun[1]
        else:
            self.cache, wanted = self.prefill.append_shared(self.cache, self.turns, added)
        self.turns = [old + more for old, more in zip(self.turns, added)]
        if begins:
            self.begun = added[0], wanted
        return wanted

    def _lender(self, new: Turns) -> "Context | None":
        """One beside it that began with these turns and still has them, with the same bits."""
        for other in self.beside():
            turns = other.begun[0]
            if turns and shared(turns, other.turns[0]) == len(turns):
                if content(turns) == content(new):
                    return other
        return None

    def _borrowed(self, lender: "Context") -> Cache:
        """A copy of what another context began with."""
        turns = [lender.begun[0]]
        cache = jax.tree.map(jnp.copy, lender.cache)
        return self.prefill.at(caches.resize(cache, self.prefill.slots(turns)), turns)

    def write(
        self, seeds: Mapping[int, int], settings: TextSettings, limit: int
    ) -> dict[int, Written]:
        """Lets the model write a text turn in some rows.

        Args:
          seeds: row -> uint32, of the rows that write.
          settings: how tokens are chosen.
          limit: most tokens between bos and eos.
        """
        engine, markers = self.engine, self.engine.markers
        room = self.open(list(seeds), limit)
        numbers = np.array([seeds.get(row, 0) for row in range(self.rows)], np.uint32)
        active = np.array([row in seeds for row in range(self.rows)])
        self.cache, drawn = writing.write_text(
            engine.params,
            self.cache,
            engine.place(active),
            engine.place(numbers),
            np.int32(limit),
            np.float32(settings.temperature),
            np.float32(settings.top_p),
            config=engine.config,
            markers=markers,
            vocab=engine.spec.tokenizer.vocab_size,
            max_tokens=room,
            greedy=settings.temperature == 0,
        )
        found = engine.fetch(drawn)
        out = {}
        for row in seeds:
            count = found.counts[row]
            made, logps = found.ids[row, :count].tolist(), found.logps[row, : count + 1].tolist()
            told = self.prefill.word(found.handover[row]), bool(found.cut[row])
            out[row] = Written(made, *told, logps, bool(found.forced[row]))
        self.close({row: text.ids for row, text in out.items()})
        return out

    def open(self, rows: Sequence[int], limit: int) -> int:
        """Makes room for a text of at most `limit` tokens in some rows; returns that room."""
        room = bucket(limit, FEWEST_TOKENS)
        longest = int(state([self.turns[row] for row in rows])[0].max()) + room + 2
        self.cache = caches.resize(self.cache, self.prefill.slots(self.turns, longest))
        return room

    def close(self, texts: Mapping[int, Sequence[int]]) -> None:
        """Notes the texts that the cache holds now, tokens without markers by row."""
        markers = self.engine.markers
        for row, ids in texts.items():
            self.turns[row] = [*self.turns[row], text_turn([markers.start, *ids, markers.eos])]
        self.cache = caches.resize(self.cache, self.prefill.slots(self.turns))

    def draw(
        self,
        seeds: Mapping[int, int],
        grids: Mapping[int, tuple[int, int]],
        flow: FlowSettings,
        guides: Sequence[Mapping[int, Turns]],
    ) -> dict[int, Picture]:
        """Draws an image in some rows from what they have seen.

        Args:
          seeds: row -> uint32 of the noise, of the rows that draw.
          grids: row -> latent tokens (rows, columns).
          flow: how to integrate.
          guides: poorer contexts by row: without text, then without images; none, one or both.

        Returns:
          Pictures by row.
        """
        engine, spec = self.engine, self.engine.spec
        drawn = list(seeds)
        count = engine.rows_for(len(drawn), self.rows)
        whole = count == self.rows
        rows = range(count) if whole else [*drawn, *drawn[:1] * (count - len(drawn))]
        local = {row: row if whole else place for place, row in enumerate(drawn)}
        branches = self.branches(rows, local, guides)
        places = [grid_places(grids[row], spec) for row in drawn]
        room = bucket(max(map(len, places)), 1)
        positions = np.zeros((count, room), np.int32)
        counts, numbers = np.zeros(count, np.int32), np.zeros((count, 1), np.uint32)
        for row, place in zip(drawn, places):
            positions[local[row], : len(place)] = place
            counts[local[row]], numbers[local[row]] = len(place), seeds[row]
        spread = engine.place(positions)
        numbers = engine.place(np.broadcast_to(numbers, positions.shape))
        drawn_from = noise(numbers, spread, spec.patch_sizes[1])
        inputs = branches, numbers, drawn_from, spread, engine.place(counts)
        latents, passes = engine.fetch(self._integrate(*inputs, flow))
        out = {}
        for row, place in zip(drawn, places):
            size = {"rows": grids[row][0], "columns": grids[row][1], "patch": spec.latent_patch}
            made = images.unpatchify(latents[local[row], : len(place)], **size)
            out[row] = Picture(made, int(passes[local[row]]))
        return out

    def _integrate(
        self,
        branches: tuple[Cache, ...],
        seeds: jax.Array,
        noise: jax.Array,
        positions: jax.Array,
        counts: jax.Array,
        flow: FlowSettings,
    ) -> tuple[jax.Array, jax.Array]:
        """From noise to latents [B, T, P], and the passes [B] that it took.

        `seeds` [B, T] are those that the noise was made of.
        """
        engine = self.engine
        return sampler.draw_image(
            engine.params,
            branches,
            noise,
            positions,
            counts,
            tuple(engine.place(np.full(len(counts), s, np.float32)) for s in flow.scales),
            config=engine.config,
            markers=engine.markers,
            settings=flow.program,
        )

    def draw_codes(
        self,
        seeds: Mapping[int, int],
        grid: tuple[int, int],
        settings: CodeSettings,
        guides: Sequence[Mapping[int, Turns]],
    ) -> dict[int, np.ndarray]:
        """Draws an image with codes in some rows from what they have seen.

        Args:
          seeds: row -> uint32 of the noise, of the rows that draw.
          grid: codes (rows, columns).
          settings: how codes are chosen.
          guides: contexts without their words by row; none or one.

        Returns:
          Codes int32 [h, w] by row.
        """
        engine = self.engine
        drawn = list(seeds)
        count = engine.rows_for(len(drawn), self.rows)
        whole = count == self.rows
        rows = range(count) if whole else [*drawn, *drawn[:1] * (count - len(drawn))]
        local = {row: row if whole else place for place, row in enumerate(drawn)}
        numbers = np.zeros(count, np.uint32)
        for row, place in local.items():
            numbers[place] = seeds[row]
        codes = sampler.draw_codes(
            engine.params,
            self.branches(rows, local, guides),
            engine.place(numbers),
            np.float32(settings.guidance),
            np.float32(settings.temperature),
            config=engine.config,
            markers=engine.markers,
            count=grid[0] * grid[1],
        )
        codes = engine.fetch(codes)
        return {row: codes[place].reshape(grid) for row, place in local.items()}

    def branches(
        self, rows: Sequence[int], local: Mapping[int, int], guides: Sequence[Mapping[int, Turns]]
    ) -> tuple[Cache, ...]:
        """The caches of a drawing, of equal slots: the full contexts of `rows`, then the guides."""
        full = self.engine.take(self.cache, rows)
        branches = [full]
        for guide in guides:
            have: list[list[Turn]] = [[] for _ in rows]
            more: list[list[Turn]] = [[] for _ in rows]
            for row, place in local.items():
                alike = shared(self.turns[row], guide[row])
                have[place], more[place] = list(guide[row][:alike]), list(guide[row][alike:])
            base = self.prefill.at(full, have)
            if any(more):
                base = jax.tree.map(jnp.copy, base)
            branches.append(self.prefill.append(base, have, more)[0])
        slots = max(branch.slots for branch in branches)
        return tuple(caches.resize(branch, slots) for branch in branches)


@functools.partial(jax.jit, static_argnums=2)
def noise(seeds: jax.Array, positions: jax.Array, features: int) -> jax.Array:
    """Jitted `flow.token_noise`."""
    return flows.token_noise(seeds, positions, features)
