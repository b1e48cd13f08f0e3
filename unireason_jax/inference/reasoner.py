"""The reasoner: fills the holes of records, in order, for many records at once.

A record is the conversation that training would have seen; what is missing in it is generated:
plan, draft, reflection, refined image, answer. The templates of `data/templates` build such
records, so sampling and training share every token. All rows of a batch walk the same segments;
a row that has ended is left out of what follows.
"""

import dataclasses
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from unireason_jax.data import images, sequence
from unireason_jax.data.records import Record, Segment, untag
from unireason_jax.data.sequence import SequenceSpec
from unireason_jax.inference import sampler
from unireason_jax.inference.context import Context, Engine
from unireason_jax.inference.sampler import FlowSettings, TextSettings
from unireason_jax.inference.trace import Step, Trace


@dataclasses.dataclass(frozen=True)
class Settings:
    """How the reasoner generates.

    Attributes:
      text: how tokens are chosen.
      flow: how images are drawn.
      max_text: most tokens of one generated text, between bos and eos.
      size: (height, width) in pixels of images without a source; images with one keep its size.
      min_rounds: refinements before the model may stop.
      learned_stop: end a row when the hand-over of a reflection is "stop"; otherwise it goes
        through all rounds of its record.
      text_free: what the guiding context without text lacks, "all" texts or the "last".
      batch_rows: rows generated together.
    """

    text: TextSettings = dataclasses.field(default_factory=TextSettings)
    flow: FlowSettings = dataclasses.field(default_factory=FlowSettings)
    max_text: int = 64
    size: tuple[int, int] = (32, 32)
    min_rounds: int = 0
    learned_stop: bool = True
    text_free: str = "all"
    batch_rows: int = 64


class Reasoner:
    """A model that finishes conversations.

    Args:
      config: `BagelConfig`.
      params: its parameters.
      spec: tokenizer, codec and sizes as in training.
      settings: how to generate.
      mesh: spreads the rows of a batch over devices; None uses one.
    """

    def __init__(
        self,
        config: Any,
        params: Any,
        spec: SequenceSpec,
        settings: Settings | None = None,
        *,
        mesh: Any = None,
    ):
        if spec.tokenizer.vocab_size > config.llm.vocab:
            raise ValueError(
                f"the tokenizer has {spec.tokenizer.vocab_size} tokens but the model only "
                f"{config.llm.vocab}: checkpoint and tokenizer do not belong together."
            )
        self.engine = Engine(config, params, spec, mesh)
        self.settings = settings or Settings()

    def run(
        self,
        records: Iterable[Record],
        *,
        samples: int = 1,
        settings: Settings | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> list[Trace]:
        """Finishes every record.

        Records of the same shape (kinds, roles and flags of their segments) are generated
        together. The result of a record depends on its id and the number of the sample, not on
        what else is in the call.

        Args:
          records: with holes, from a template.
          samples: conversations per record, from different seeds.
          settings: instead of the reasoner's own.
          progress: called with the number of conversations that were just finished.

        Returns:
          Traces in the order of the records, all samples of a record together.

        Raises:
          ValueError: a record without holes, or longer than the row it was trained in; nothing is
            generated then.
        """
        settings = settings or self.settings
        jobs = [(record, number) for record in records for number in range(samples)]
        groups: dict[Any, list[int]] = {}
        for place, (record, _) in enumerate(jobs):
            self.check(record)
            groups.setdefault(_shape(record), []).append(place)
        out: list[Any] = [None] * len(jobs)
        for places in groups.values():
            rows = self.engine.rows_for(len(places), settings.batch_rows)
            for start in range(0, len(places), rows):
                part = places[start : start + rows]
                walk = _Walk(self.engine, settings, [jobs[place] for place in part], rows)
                for place, trace in zip(part, walk.run()):
                    out[place] = trace
                if progress:
                    progress(len(part))
        return out

    def check(self, record: Record) -> None:
        """Raises ValueError when a record cannot be finished; the message names it."""
        if not record.holes:
            raise ValueError(f"record '{record.id}' has nothing to generate: no segment is a hole.")
        spec, found = self.engine.spec, 0
        for segment in record.segments:
            try:
                sequence.copies(segment, spec)
            except ValueError as error:
                raise ValueError(f"record '{record.id}', {segment.role}: {error}") from None
            if segment.kind == "text" and not segment.is_hole:
                found += len(sequence.text_tokens(segment, spec))
        if spec.max_text is not None and found > spec.max_text:
            raise ValueError(
                f"record '{record.id}': its texts have {found} tokens, but the model was trained "
                f"on rows of {spec.max_text}; shorten the prompt."
            )


class _Walk:
    """One batch on its way through the segments of its records."""

    def __init__(
        self, engine: Engine, settings: Settings, jobs: Sequence[tuple[Record, int]], rows: int
    ):
        self.engine, self.settings, self.jobs, self.rows = engine, settings, jobs, rows
        self.context = Context(engine, rows, flow=settings.flow, text_free=settings.text_free)
        self.steps: list[list[Step]] = [[] for _ in jobs]
        self.ended: list[str | None] = [None] * len(jobs)
        self.alive = np.arange(rows) < len(jobs)
        self.rounds = 0
        self.seconds: dict[str, float] = {}

    def run(self) -> list[Trace]:
        """Walks to the end, or until every row has ended."""
        template = self.jobs[0][0].segments
        last_hole = self.jobs[0][0].holes[-1]
        for number, segment in enumerate(template[: last_hole + 1]):
            if not self.alive.any():
                break
            started = time.perf_counter()
            if segment.kind == "text":
                phase = self._write(number) if segment.is_hole else self._read(number)
            else:
                phase = self._draw(number) if segment.is_hole else self._given(number)
                if number < last_hole:
                    self._show(number)
            taken = time.perf_counter() - started
            self.seconds[phase] = self.seconds.get(phase, 0.0) + taken
        return [self._trace(row) for row in range(len(self.jobs))]

    def _read(self, number: int) -> str:
        """A given text."""
        spec, turns = self.engine.spec, [None] * self.rows
        for row in np.flatnonzero(self.alive):
            segment = self._segment(row, number)
            turns[row] = sequence.text_tokens(segment, spec)
            self.steps[row].append(Step("text", segment.role, text=segment.text, given=True))
        self.context.text(turns)
        return "read"

    def _write(self, number: int) -> str:
        """A text hole; afterwards a reflection may end the row."""
        settings, tokenizer = self.settings, self.engine.spec.tokenizer
        seeds = self._seeds("text")
        drawn = self.context.write(self.alive, seeds, settings.text, settings.max_text)
        for row in np.flatnonzero(self.alive):
            segment, (ids, handover, cut) = self._segment(row, number), drawn[row]
            step = Step(
                "text",
                segment.role,
                text=untag(tokenizer.decode(ids), segment.tag),
                seed=int(seeds[row]),
                forwards=len(ids) + 2,
                handover=handover,
                cut=cut,
            )
            self.steps[row].append(step)
            stops = segment.role == "reflection" and handover == "stop"
            if stops and settings.learned_stop and self.rounds >= settings.min_rounds:
                self._end(row, "stop")
        return "write"

    def _given(self, number: int) -> str:
        """A given image."""
        for row in np.flatnonzero(self.alive):
            segment = self._segment(row, number)
            image = images.load(segment.image, self.engine.spec.image_root)
            self.steps[row].append(Step("image", segment.role, image=image, given=True))
        return "look"

    def _draw(self, number: int) -> str:
        """An image hole."""
        spec, seeds = self.engine.spec, self._seeds("image")
        cell = spec.codec.stride * spec.latent_patch
        sizes = [self._size(row, cell) for row in range(self.rows)]
        grids = [(height // cell, width // cell) for height, width in sizes]
        latents, forwards = self.context.draw(self.alive, seeds, grids)
        for row in np.flatnonzero(self.alive):
            role = self._segment(row, number).role
            image = spec.codec.decode(latents[row])
            step = Step("image", role, image=image, seed=int(seeds[row]), forwards=forwards)
            self.steps[row].append(step)
        self.rounds += self._segment(0, number).role == "refined"
        return "draw"

    def _show(self, number: int) -> None:
        """Puts the image just given or drawn before the model's eyes."""
        segment = self._segment(0, number)
        if segment.gen or segment.und:
            shown = [None] * self.rows
            for row in np.flatnonzero(self.alive):
                shown[row] = self.steps[row][-1].image
            self.context.image(shown, gen=segment.gen, und=segment.und)

    def _segment(self, row: int, number: int) -> Segment:
        return self.jobs[row][0].segments[number]

    def _seeds(self, kind: str) -> np.ndarray:
        """[B] uint32 from record id, sample, and how many of this kind the row generated."""
        seeds = np.zeros(self.rows, np.uint32)
        for row, (record, sample) in enumerate(self.jobs):
            made = sum(step.kind == kind and not step.given for step in self.steps[row])
            seeds[row] = sampler.seed(record.id, sample, kind, made)
        return seeds

    def _size(self, row: int, cell: int) -> tuple[int, int]:
        """Pixels (height, width) of the next image: as the last one shown, else the setting."""
        spec, size = self.engine.spec, self.settings.size
        shown = (
            [s.image for s in self.steps[row] if s.kind == "image"] if row < len(self.jobs) else []
        )
        if shown:
            height, width = shown[-1].shape[:2]
            if spec.latent_resize:
                width, height = spec.latent_resize(width, height)
            size = height, width
        if size[0] % cell or size[1] % cell:
            raise ValueError(f"images of {size[0]} x {size[1]} pixels: give multiples of {cell}.")
        return size

    def _end(self, row: int, why: str) -> None:
        self.alive[row] = False
        self.ended[row] = why

    def _trace(self, row: int) -> Trace:
        record, sample = self.jobs[row]
        settings = dataclasses.asdict(self.settings)
        limited = any(segment.role == "reflection" for segment in record.segments)
        return Trace(
            id=record.id,
            template=record.source,
            steps=tuple(self.steps[row]),
            sample=sample,
            ended=self.ended[row] or ("rounds" if limited else "end"),
            seconds={name: round(s / len(self.jobs), 6) for name, s in self.seconds.items()},
            settings=settings,
            details=dict(record.metadata),
        )


def _shape(record: Record) -> tuple:
    """What records that are generated together must share."""
    return tuple((s.kind, s.role, s.is_hole, s.loss, s.und, s.gen, s.tag) for s in record.segments)
