"""Conversations of one batch on their way: rows that read, write and draw together."""

import collections
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from unireason_jax.inference import guidance, turns
from unireason_jax.inference.context import Context
from unireason_jax.inference.conversation import Conversation, Request
from unireason_jax.inference.engine import bucket
from unireason_jax.inference.settings import FlowSettings, Settings
from unireason_jax.inference.trace import Trace


class Batch:
    """Rows of conversations on their way, and those that wait for a row."""

    def __init__(self, context: Context, settings: Settings, jobs: Sequence[tuple[Request, int]]):
        self.engine, self.context, self.settings = context.engine, context, settings
        self.waiting = collections.deque(enumerate(jobs))
        self.rows: list[tuple[int, Conversation] | None] = [None] * context.rows

    def run(self) -> Iterator[tuple[int, Trace]]:
        """Works until nothing waits and every row has ended."""
        while self.waiting or any(self.rows):
            with self.engine.meshed():
                self.admit()
                self.read()
                self._work()
            for row, talk in enumerate(self.rows):
                if talk and talk[1].ended:
                    yield talk[0], talk[1].trace()
                    self.rows[row] = None
            self._shrink()

    def admit(self) -> None:
        """Gives empty rows to those that wait, a quarter of the batch at a time."""
        free = [row for row, talk in enumerate(self.rows) if talk is None]
        if not self.waiting or len(free) < max(len(self.rows) // 4, 1):
            return
        for row in free[: len(self.waiting)]:
            place, (request, sample) = self.waiting.popleft()
            talk = Conversation(request, sample, self.engine.spec, self.settings)
            self.rows[row] = place, talk
        self.context.forget(free)

    def read(self) -> None:
        """Reads what was given or drawn since the last time."""
        started = time.perf_counter()
        talks = self._talks()
        restarts = [row for row, talk in talks.items() if talk.restarts]
        if restarts:
            self.context.forget(restarts)
        retracts = [row for row, talk in talks.items() if talk.retracts]
        if retracts:
            self.context.retract(retracts)
        pending = {row: talk.pending for row, talk in talks.items() if talk.pending}
        wanted = self.context.read(pending)
        for talk in talks.values():
            talk.pending, talk.restarts, talk.retracts = [], False, False
        for row, handover in wanted.items():
            talks[row].heard(handover)
        self._note("read", list(pending), started)

    def _work(self) -> None:
        """Does the work that most rows wait for."""
        groups = collections.defaultdict(list)
        for row, talk in self._talks().items():
            if talk.ended:
                continue
            groups[self._work_of(row, talk)].append(row)
        if not groups:
            return
        started = time.perf_counter()
        work, rows = max(groups.items(), key=lambda item: len(item[1]))
        if isinstance(work, int):
            self._write(rows, work)
            self._note("write", rows, started)
        else:
            self.draw(rows)
            self._note("draw", rows, started)

    def _work_of(self, row: int, talk: Conversation) -> Any:
        """What a row waits for: a text of at most so many tokens, or an image.

        Rows of equal work share a program.
        """
        if talk.hole.kind == "text":
            return self.settings.limit_of(talk.hole.role)
        if self.engine.spec.by_codes:
            return talk.grid()
        tokens = bucket(turns.tokens_of(talk.grid()), 1)
        flow, guides = self.guides(row, talk)
        return flow, len(guides), tokens

    def _write(self, rows: Sequence[int], limit: int) -> None:
        """A text for each row."""
        talks = self._talks()
        seeds = {row: talks[row].seed() for row in rows}
        texts = self.context.write(seeds, self.settings.text, limit)
        for row in rows:
            talks[row].wrote(texts[row], seeds[row])

    def draw(self, rows: Sequence[int]) -> None:
        """An image for each row."""
        talks = self._talks()
        seeds = {row: talks[row].seed() for row in rows}
        if self.engine.spec.by_codes:
            return self._draw_codes(rows, seeds)
        grids = {row: talks[row].grid() for row in rows}
        guided = {row: self.guides(row, talks[row]) for row in rows}
        flow, first = guided[rows[0]]
        branches = [{row: guided[row][1][n] for row in rows} for n in range(len(first))]
        pictures = self.context.draw(seeds, grids, flow, branches)
        images = self.engine.pictures([pictures[row].latents for row in rows])
        for row, image in zip(rows, images):
            talks[row].drew(image, seeds[row], pictures[row].forwards)

    def _draw_codes(self, rows: Sequence[int], seeds: Mapping[int, int]) -> None:
        """An image of codes for each row, all of one size."""
        talks, spec, settings = self._talks(), self.engine.spec, self.settings.codes
        guides = []
        if settings.guidance > 1:
            seen = self.context.turns
            guides = [{row: turns.blanked(seen[row], spec) for row in rows}]
        grid = talks[rows[0]].grid()
        codes = self.context.draw_codes(seeds, grid, settings, guides)
        for row, image in zip(rows, self.engine.pictures([codes[row] for row in rows])):
            talks[row].drew(image, seeds[row], grid[0] * grid[1] * (1 + len(guides)))

    def guides(self, row: int, talk: Conversation) -> tuple[FlowSettings, list[list[turns.Turn]]]:
        """How a row's next image is guided."""
        flow, seen = self.settings.flow_of(talk.hole.role), self.context.turns[row]
        return guidance.guides(flow, seen, talk.said(), self.engine.spec)

    def _shrink(self) -> None:
        """Goes on with fewer rows when nothing waits and most are empty."""
        live = [row for row, talk in enumerate(self.rows) if talk]
        count = self.engine.rows_for(len(live), len(self.rows))
        if self.waiting or not live or count > len(self.rows) // 4:
            return
        kept = live + [row for row, talk in enumerate(self.rows) if not talk][: count - len(live)]
        self.rows = [self.rows[row] for row in kept]
        self.context.keep(kept)

    def _talks(self) -> dict[int, Conversation]:
        """Conversations by row."""
        return {row: talk[1] for row, talk in enumerate(self.rows) if talk}

    def _note(self, phase: str, rows: Sequence[int], started: float) -> None:
        """Shares the time since `started` among rows."""
        talks = self._talks()
        for row in rows:
            talks[row].seconds[phase] += (time.perf_counter() - started) / len(rows)
