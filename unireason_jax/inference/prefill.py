"""Reading turns into a cache: texts together, images one a row, and what rows share only once."""

import collections
import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from unireason_jax.data.samples import LATENT, TEXT
from unireason_jax.inference import cache as caches
from unireason_jax.inference import sampler
from unireason_jax.inference.cache import Cache
from unireason_jax.inference.engine import Engine, bucket
from unireason_jax.inference.turns import GAP, Turns, content, joined, next_turns, padded, state

FEWEST_SLOTS, FEWEST_TOKENS = 64, 32


@dataclasses.dataclass(frozen=True)
class Prefill:
    """How a model reads.

    Attributes:
      engine: the model.
      fewest: slots that a cache has at least.
    """

    engine: Engine
    fewest: int = FEWEST_SLOTS

    def append(
        self, cache: Cache, have: Sequence[Turns], new: Sequence[Turns]
    ) -> tuple[Cache, dict[int, str]]:
        """Appends turns to every row, the kind that most rows wait for first.

        Args:
          cache: B rows; used up where there is something to append.
          have: per row, what the cache holds of it.
          new: per row, what it reads.

        Returns:
          The cache, and the hand-over after the last image of every row that was shown one.
        """
        wanted: dict[int, str] = {}
        if not any(new):
            return cache, wanted
        cache = caches.resize(cache, self._slots_for(have, new))
        queues = [collections.deque(turns) for turns in new]
        while any(queues):
            kinds = collections.Counter(queue[0].kind for queue in queues if queue)
            kind = kinds.most_common(1)[0][0]
            parts = [next_turns(queue, kind) for queue in queues]
            cache, told = self._read(cache, kind, parts)
            if told is not None:
                told = self.engine.fetch(told)
                wanted |= {row: self.word(told[row]) for row, part in enumerate(parts) if part}
        return cache, wanted

    def append_shared(
        self, cache: Cache, have: Sequence[Turns], new: Sequence[Turns]
    ) -> tuple[Cache, dict[int, str]]:
        """`append` in which rows that hold the same and read the same, as samples of one prompt do,
        read once, where that makes the batch half as large or smaller; up to rounding the same.
        """
        first: dict[tuple, int] = {}
        reader = {
            row: first.setdefault((content(old), content(more)), row)
            for row, (old, more) in enumerate(zip(have, new))
            if more
        }
        count = self.engine.rows_for(len(first), cache.rows)
        if len(first) == len(reader) or 2 * count > cache.rows:
            return self.append(cache, have, new)
        place = {row: number for number, row in enumerate(first.values())}
        missing = count - len(place)
        rows = [*place, *[next(iter(place))] * missing]
        reads = [*(new[row] for row in place), *[[]] * missing]
        few = self.engine.take(cache, rows)
        few, told = self.append(few, [have[row] for row in rows], reads)
        source = np.full(cache.rows, -1, np.int32)
        for row, other in reader.items():
            source[row] = place[other]
        slots = self._slots_for(have, new)
        cache, few = (caches.resize(part, slots) for part in (cache, few))
        cache = self.engine.spread(caches.put_sources(cache, few, source))
        return cache, {row: told[source[row]] for row in reader if source[row] in told}

    def at(self, cache: Cache, rows: Sequence[Turns]) -> Cache:
        """The cache cut to turns it holds: slots beyond them count as empty."""
        lengths, positions = (self.engine.place(x) for x in state(rows))
        return dataclasses.replace(cache, lengths=lengths, positions=positions)

    def slots(self, rows: Sequence[Turns], least: int = 0) -> int:
        """Slots that hold these rows and `least` tokens."""
        longest = int(state(rows)[0].max()) if rows else 0
        return bucket(max(longest, least), self.fewest)

    def word(self, handover: int) -> str:
        """The name of a hand-over."""
        markers = self.engine.markers
        return {markers.bos: "text", markers.soi: "image", markers.eos: "stop"}[int(handover)]

    def _slots_for(self, have: Sequence[Turns], new: Sequence[Turns]) -> int:
        """Slots that hold all rows once they have read."""
        return self.slots([[*old, *more] for old, more in zip(have, new)])

    def _read(
        self, cache: Cache, kind: int, parts: Sequence[Turns]
    ) -> tuple[Cache, jax.Array | None]:
        """Appends turns of one kind, of which images come one a row, with their hand-overs [B]."""
        engine = self.engine
        if kind == GAP:
            gaps = engine.place(np.array([len(part) for part in parts], np.int32))
            return caches.advance(cache, gaps), None
        tokens = joined([[turn.tokens for turn in part] for part in parts])
        counts = engine.place(np.array([len(t) for t in tokens], np.int32))
        room = bucket(max(map(len, tokens)), FEWEST_TOKENS if kind == TEXT else 1)
        features = engine.place(padded(tokens, room))
        if kind == TEXT:
            read = sampler.prefill_text
            return read(engine.params, cache, features, counts, config=engine.config), None
        places = joined([[turn.places for turn in part] for part in parts])
        prefill = sampler.prefill_latents if kind == LATENT else sampler.prefill_vit
        return prefill(
            engine.params,
            cache,
            features,
            engine.place(padded(places, room)),
            counts,
            config=engine.config,
            markers=engine.markers,
        )
