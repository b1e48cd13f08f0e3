"""The reasoner: finishes conversations, many at once, every one at its own state.

Records come from the templates of `data/templates`, so sampling and training share every token.
What is missing in a record is generated in order: plan, draft, reflection, refined image, answer.
Rows of a batch are conversations; the work that most of them wait for, writing or drawing, is done
for these together, and a row that has ended makes room for the next request.
"""

import collections
import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from unireason_jax.data import images
from unireason_jax.data.records import Record
from unireason_jax.data.templates import PLAIN, Style
from unireason_jax.data.tokens import SampleSpec, copies, text_tokens
from unireason_jax.inference import guidance, turns
from unireason_jax.inference import presets as systems
from unireason_jax.inference.context import Context
from unireason_jax.inference.conversation import Conversation, Request, Shown, drawn_size
from unireason_jax.inference.engine import Engine, bucket
from unireason_jax.inference.given import pictures
from unireason_jax.inference.requests import CALL, check_names, check_text, check_words
from unireason_jax.inference.settings import FlowSettings, Settings, whole, with_options
from unireason_jax.inference.trace import Trace
from unireason_jax.inference.turns import text_turn

Progress = Callable[[int], None]
VERBS = {"generate": "refine_t2i", "edit": "edit", "ask": "vqa"}


class Reasoner:
    """A model that finishes conversations.

    Args:
      config: `BagelConfig`.
      params: its parameters.
      spec: tokenizer, codec and sizes as in training.
      settings: how to generate.
      mesh: spreads the rows of a batch over devices; None uses one.
      presets: names of the presets that `generate`, `edit` and `ask` use unless told otherwise.
      style: switches of the templates that the model was trained with.

    Attributes:
      contexts: (engine, rows) -> what the rows of a batch have seen; a rehearsal without a model
        puts its own here.
    """

    contexts: Callable[[Engine, int], Context] = Context

    def __init__(
        self,
        config: Any,
        params: Any,
        spec: SampleSpec,
        settings: Settings | None = None,
        *,
        mesh: Any = None,
        presets: Mapping[str, str] | None = None,
        style: Style = PLAIN,
    ):
        if spec.tokenizer.vocab_size > config.llm.vocab:
            raise ValueError(
                f"the tokenizer has {spec.tokenizer.vocab_size} tokens but the model only "
                f"{config.llm.vocab}: checkpoint and tokenizer do not belong together."
            )
        self.engine = Engine(config, params, spec, mesh)
        self.settings = settings or Settings()
        self.presets = dict(presets or VERBS)
        self.style = style

    def generate(self, prompt: str | Sequence[str], **options: Any) -> Trace | list[Trace]:
        """Draws a picture of a prompt; `options` are those of `ask`.

        A list of prompts gives a list of conversations, which are worked on together.
        """
        return self._call("generate", prompt, **options)

    def edit(
        self, image: Any, instruction: str | Sequence[str], **options: Any
    ) -> Trace | list[Trace]:
        """Edits an image, or several together; `options` are those of `ask`.

        Given a trace, it goes on with its last image and returns the longer conversation.
        """
        return self._call("edit", instruction, image=image, **options)

    def ask(self, image: Any, question: str | Sequence[str], **options: Any) -> Trace | list[Trace]:
        """Answers a question about an image.

        Args:
          image: what is looked at: a path, bytes, a Pillow image, uint8 [H, W, 3] (or [H, W] or
            [H, W, 4]), a trace, or a list of several. Files are turned upright.
          question: in words, or a list of questions.
          **options: `preset`, a name of `presets.PRESETS`; `rounds`, most rounds of refinement or
            steps; `sample` and `seed`, numbers that give other random draws; `name`, an id instead
            of the text, which keys the draws as well; and `settings.OPTIONS`: `size` (height,
            width), `timesteps`, `guidance`, `image_guidance`, `interval`, `renorm`, `shift`,
            `solver`, `temperature`, `top_p`, `max_text`, `min_rounds`.

        Returns:
          The conversation; in a notebook it shows itself as a strip.

        Raises:
          ValueError: an unknown option or preset, a value that cannot be, words that the model
            does not know, or a request that cannot be finished (see `check`).
        """
        return self._call("ask", question, image=image, **options)

    def _call(
        self, verb: str, text: str | Sequence[str], *, image: Any = None, **options: Any
    ) -> Trace | list[Trace]:
        check_names(list(options), CALL)
        chosen = options.get("preset") or self.presets[verb]
        check_text("preset", chosen)
        preset = systems.find(chosen)
        settings = preset.settings(self.settings)
        if not options.get("preset"):  # one that was not chosen leaves the size of the training
            settings = dataclasses.replace(settings, size=self.settings.size)
        settings = with_options(settings, options)
        sample = whole("sample", options.get("sample") or 0, least=0)
        told = {key: options[key] for key in ("name", "rounds", "parts", "seed") if key in options}
        told |= {"style": self.style} | ({"image": pictures(image)} if image is not None else {})
        requests = []
        for one in text if isinstance(text, list | tuple) else [text]:
            requests.append(preset.request(one, **told))
            check_words(one, self.engine.spec.tokenizer)
            self.check(requests[-1], settings)
        found = dict(self.stream([(request, sample) for request in requests], settings))
        traces = [found[n] for n in range(len(requests))]
        if isinstance(image, Trace):
            traces = [image.then(trace) for trace in traces]
        return traces if isinstance(text, list | tuple) else traces[0]

    def run(
        self,
        requests: Iterable[Record | Request],
        *,
        samples: int = 1,
        settings: Settings | None = None,
        progress: Progress | None = None,
    ) -> list[Trace]:
        """Finishes every record.

        The result of a record depends on its id and the number of the sample, not on what else is
        in the call, how many rows a batch has, or on how many devices it runs.

        Args:
          requests: records with holes, or requests that say how a record goes on.
          samples: conversations per request, from different seeds.
          settings: instead of the reasoner's own.
          progress: called with the number of conversations that were just finished.

        Returns:
          Traces in the order of the requests, all samples of a request together.

        Raises:
          ValueError: a record that cannot be finished (see `check`); nothing is generated then.
        """
        settings = settings or self.settings
        given = [_request(request) for request in requests]
        for request in given:
            self.check(request, settings)
        jobs = [(request, number) for request in given for number in range(samples)]
        out: list[Any] = [None] * len(jobs)
        for place, trace in self.stream(jobs, settings):
            out[place] = trace
            if progress:
                progress(1)
        return out

    def stream(
        self, jobs: Sequence[tuple[Request, int]], settings: Settings
    ) -> Iterator[tuple[int, Trace]]:
        """Finishes (request, sample) pairs that `check` accepts; yields them as they end.

        Yields:
          Number of the job, and its trace.
        """
        if jobs:
            rows = self.engine.rows_for(len(jobs), settings.batch_rows)
            context = self.contexts(self.engine, rows)
            yield from _Batch(context, settings, jobs).run()

    def check(self, given: Record | Request, settings: Settings | None = None) -> None:
        """Raises ValueError when a record cannot be finished; the message names it."""
        settings, request = settings or self.settings, _request(given)
        spec, reading, record = self.engine.spec, settings.reading, request.record
        spec = reading.spec(spec) if reading else spec
        if not record.holes:
            raise ValueError(f"record '{record.id}' has nothing to generate: no segment is a hole.")
        found, shown = 0, []
        for segment in record.segments:
            try:
                if segment.und and not spec.vit_patch and not segment.gen:
                    raise ValueError("this checkpoint has no ViT: it cannot look at images.")
                copies(segment, spec)
                if segment.image is not None:
                    image = images.load(segment.image, spec.image_root, upright=request.upright)
                    copied = {"gen": segment.gen, "und": segment.und}
                    turns.check_image(image, spec, **copied, reading=reading)
                    shown.append(Shown(image.shape[:2], True))
                elif segment.kind == "image":
                    size = drawn_size(shown, segment.role, settings, spec)
                    turns.check_size(size, spec)
                    shown.append(Shown(size, False))
            except (ValueError, OSError) as error:
                raise ValueError(f"record '{record.id}', {segment.role}: {error}") from None
            if segment.kind == "text" and not segment.is_hole:
                found += text_turn(text_tokens(segment, spec)).slots
        if spec.max_text is not None and found > spec.max_text:
            raise ValueError(
                f"record '{record.id}': its texts have {found} tokens, but the model was trained "
                f"on rows of {spec.max_text}; shorten the prompt."
            )


class _Batch:
    """Rows of conversations on their way, and those that wait for a row."""

    def __init__(self, context: Context, settings: Settings, jobs: Sequence[tuple[Request, int]]):
        self.engine, self.context, self.settings = context.engine, context, settings
        self.waiting = collections.deque(enumerate(jobs))
        self.rows: list[tuple[int, Conversation] | None] = [None] * context.rows

    def run(self) -> Iterator[tuple[int, Trace]]:
        """Works until nothing waits and every row has ended."""
        while self.waiting or any(self.rows):
            with self.engine.meshed():
                self._admit()
                self._read()
                self._work()
            for row, talk in enumerate(self.rows):
                if talk and talk[1].ended:
                    yield talk[0], talk[1].trace()
                    self.rows[row] = None
            self._shrink()

    def _admit(self) -> None:
        """Gives empty rows to those that wait, a quarter of the batch at a time."""
        free = [row for row, talk in enumerate(self.rows) if talk is None]
        if not self.waiting or len(free) < max(len(self.rows) // 4, 1):
            return
        for row in free[: len(self.waiting)]:
            place, (request, sample) = self.waiting.popleft()
            talk = Conversation(request, sample, self.engine.spec, self.settings)
            self.rows[row] = place, talk
        self.context.forget(free)

    def _read(self) -> None:
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
            self._draw(rows)
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
        flow, guides = self._guides(row, talk)
        return flow, len(guides), tokens

    def _write(self, rows: Sequence[int], limit: int) -> None:
        """A text for each row."""
        talks = self._talks()
        seeds = {row: talks[row].seed() for row in rows}
        texts = self.context.write(seeds, self.settings.text, limit)
        for row in rows:
            talks[row].wrote(texts[row], seeds[row])

    def _draw(self, rows: Sequence[int]) -> None:
        """An image for each row."""
        talks = self._talks()
        seeds = {row: talks[row].seed() for row in rows}
        if self.engine.spec.by_codes:
            return self._draw_codes(rows, seeds)
        grids = {row: talks[row].grid() for row in rows}
        guided = {row: self._guides(row, talks[row]) for row in rows}
        flow, first = guided[rows[0]]
        branches = [{row: guided[row][1][n] for row in rows} for n in range(len(first))]
        latents = self.context.draw(seeds, grids, flow, branches)
        for row in rows:
            image = self.engine.spec.codec.decode(latents[row])
            talks[row].drew(image, seeds[row], flow.forwards(1 + len(branches)))

    def _draw_codes(self, rows: Sequence[int], seeds: Mapping[int, int]) -> None:
        """An image of codes for each row, all of one size."""
        talks, spec, settings = self._talks(), self.engine.spec, self.settings.codes
        guides = []
        if settings.guidance > 1:
            seen = self.context.turns
            guides = [{row: turns.blanked(seen[row], spec) for row in rows}]
        grid = talks[rows[0]].grid()
        codes = self.context.draw_codes(seeds, grid, settings, guides)
        for row in rows:
            image = spec.codec.decode(codes[row])
            talks[row].drew(image, seeds[row], grid[0] * grid[1] * (1 + len(guides)))

    def _guides(self, row: int, talk: Conversation) -> tuple[FlowSettings, list[list[turns.Turn]]]:
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


def _request(given: Record | Request) -> Request:
    return Request(given) if isinstance(given, Record) else given
