"""The reasoner: finishes conversations, many at once, every one at its own state.

Records come from the templates of `data/templates`, so sampling and training share every token.
What is missing in a record is generated in order: plan, draft, reflection, refined image, answer.
Rows of a batch are conversations; the work that most of them wait for, writing or drawing, is done
for these together, and a row that has ended makes room for the next request.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from unireason_jax.data import images
from unireason_jax.data.bagel.tokens import SampleSpec, copies, text_tokens
from unireason_jax.data.records import Record, cut
from unireason_jax.data.samples import TEXT
from unireason_jax.data.templates import PLAIN, Style
from unireason_jax.inference import turns
from unireason_jax.inference.batch import Batch
from unireason_jax.inference.cache import KV_DTYPES
from unireason_jax.inference.chat import Chat, Listener
from unireason_jax.inference.context import Context
from unireason_jax.inference.conversation import Conversation, Request, Shown, drawn_size
from unireason_jax.inference.engine import Engine
from unireason_jax.inference.input_pictures import pictures
from unireason_jax.inference.requests import CALL, check_names, check_text, check_words
from unireason_jax.inference.settings import Settings, with_options
from unireason_jax.inference.systems import catalog as systems
from unireason_jax.inference.trace import Step, Trace
from unireason_jax.inference.turns import text_turn
from unireason_jax.inference.values import whole

Progress = Callable[[int], None]
LISTENER = ("on_text", "on_image", "previews")
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
      kv_dtype: that keys and values are kept in, one of `cache.KV_DTYPES`; None is the model's.

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
        kv_dtype: str | None = None,
    ):
        if spec.tokenizer.vocab_size > config.llm.vocab:
            raise ValueError(
                f"the tokenizer has {spec.tokenizer.vocab_size} tokens but the model only "
                f"{config.llm.vocab}: checkpoint and tokenizer do not belong together."
            )
        if kv_dtype not in (None, *KV_DTYPES):
            raise ValueError(f"kv_dtype {kv_dtype!r} is not one of {', '.join(KV_DTYPES)}.")
        self.engine = Engine(config, params, spec, mesh, kv_dtype)
        by_codes = {"by_codes": spec.by_codes}
        self.settings = dataclasses.replace(settings or Settings(), **by_codes)
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
          **options: `preset`, a name of `systems.catalog.PRESETS`; `rounds`, most rounds of
            refinement or steps; `sample` and `seed`, numbers that give other random draws; `name`,
            an id instead of the text, which keys the draws as well; and `settings.OPTIONS`: `size`
            (height, width), `timesteps`, `guidance`, `image_guidance`, `interval`, `renorm`,
            `shift`, `solver`, `cache`, `temperature`, `top_p`, `max_text`, `min_rounds`.
            For one prompt also `on_text`, `on_image` and `previews`, which tell of it while it is
            made, see `chat.Listener`.

        Returns:
          The conversation; in a notebook it shows itself as a strip.

        Raises:
          ValueError: an unknown option or preset, a value that cannot be, words that the model
            does not know, or a request that cannot be finished (see `check`).
        """
        return self._call("ask", question, image=image, **options)

    def chat(self, **options: Any) -> Chat:
        """A conversation that goes on, see `chat.Chat`; `options` are those of `ask`."""
        return Chat(self, **options)

    def prepare(
        self,
        verb: str,
        text: str,
        *,
        image: Any = None,
        told: Sequence[Step] = (),
        **options: Any,
    ) -> tuple[Request, int, Settings]:
        """What a call of a verb asks for: the request, the number of its sample, the settings.

        Args:
          verb: "generate", "edit" or "ask": whose preset is taken where none is named.
          text: prompt, instruction or question.
          image: as `ask`, or None.
          told: steps that are taken as they are, see `Request`.
          **options: as `ask`.

        Raises:
          ValueError: as `ask`.
        """
        check_names(list(options), CALL)
        chosen = options.get("preset") or self.presets[verb]
        check_text("preset", chosen)
        preset = systems.find(chosen)
        settings = preset.settings(self.settings)
        if not options.get("preset"):  # one that was not chosen leaves the size of the training
            settings = dataclasses.replace(settings, size=self.settings.size)
        settings = with_options(settings, options)
        sample = whole("sample", options.get("sample") or 0, least=0)
        fixed = {key: options[key] for key in ("name", "rounds", "parts", "seed") if key in options}
        fixed |= {"style": self.style} | ({"image": pictures(image)} if image is not None else {})
        request = dataclasses.replace(preset.request(text, **fixed), told=tuple(told))
        check_words(text, self.engine.spec.tokenizer)
        self.check(request, settings)
        if told:
            self._check_told(request, sample, settings)
        return request, sample, settings

    def _check_told(self, request: Request, sample: int, settings: Settings) -> None:
        """Raises ValueError unless a conversation can go on from what is told."""
        spec = self.engine.spec
        if spec.by_codes:
            raise ValueError("a model that draws with codes cannot go on from given steps.")
        talk = Conversation(request, sample, spec, settings)
        if talk.told or talk.ended:
            raise ValueError("the given steps leave nothing to generate; leave the last ones out.")
        found = sum(len(turn.tokens) for turn in talk.pending if turn.kind == TEXT)
        if spec.max_text is not None and found > spec.max_text:
            raise ValueError(
                f"the given texts have {found} tokens, but the model was trained on rows of "
                f"{spec.max_text}; shorten them."
            )

    def _call(self, verb: str, text: str | Sequence[str], **options: Any) -> Trace | list[Trace]:
        image = options.get("image")
        listener = Listener(**{name: options.pop(name) for name in LISTENER if name in options})
        texts = text if isinstance(text, list | tuple) else [text]
        jobs = [self.prepare(verb, one, **options) for one in texts]
        if not jobs:
            return []
        if listener and len(jobs) > 1:
            raise ValueError(
                "on_text and on_image are for one prompt; give one, or leave them out."
            )
        if listener:
            found = {0: listener.finish(self.engine, *jobs[0])}
        else:
            found = dict(self.stream([job[:2] for job in jobs], jobs[0][2]))
        traces = [found[n] for n in range(len(jobs))]
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
        in the call, how many rows a batch has, or on how many devices it runs. That is so up to the
        rounding of sums, whose order depends on the shapes of a program: in float32 latents agree
        to 1e-5, and pictures are nearly always the same to the bit; in bfloat16 0.6 to 7 % of the
        values of a picture were found to differ, by one of 255 levels. With `settings.exact` every
        record has programs of its own shapes and is the same to the bit in any dtype, on devices
        of one kind and number, at the price of batching.

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
        size = 1 if settings.exact else max(len(jobs), 1)
        rows = self.engine.rows_for(size, settings.batch_rows)
        last: list[Context] = []
        for start in range(0, len(jobs), size):
            context = self.contexts(self.engine, rows)
            last[:] = [*last[-1:], context]
            context.beside = lambda: last
            for place, trace in Batch(context, settings, jobs[start : start + size]).run():
                yield start + place, trace

    def check(self, given: Record | Request, settings: Settings | None = None) -> None:
        """Raises ValueError when a record cannot be finished; the message names it."""
        settings, request = settings or self.settings, _request(given)
        spec, reading, record = self.engine.spec, settings.reading, request.record
        spec = reading.spec(spec) if reading else spec
        name = cut(record.id)
        if not record.holes:
            raise ValueError(f"record {name} has nothing to generate: no segment is a hole.")
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
                raise ValueError(f"record {name}, {segment.role}: {error}") from None
            if segment.kind == "text" and not segment.is_hole:
                found += text_turn(text_tokens(segment, spec)).slots
        if spec.max_text is not None and found > spec.max_text:
            raise ValueError(
                f"record {name}: its texts have {found} tokens, but the model was trained "
                f"on rows of {spec.max_text}; shorten the prompt."
            )


def _request(given: Record | Request) -> Request:
    return Request(given) if isinstance(given, Record) else given
