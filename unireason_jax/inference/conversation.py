"""One request on its way: what has happened, and what comes next.

A conversation walks the segments of a record. Given ones are read, holes are written or drawn by
the model. A record may grow (a drawing in steps goes on for as long as the model wants), and one
record may follow another (a draft of one system prompt is refined under another).
"""

import collections
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from unireason_jax.data import images
from unireason_jax.data.bagel.tokens import SampleSpec, text_tokens
from unireason_jax.data.janus import script
from unireason_jax.data.records import Record, Segment, untag
from unireason_jax.inference import sampler
from unireason_jax.inference.context import Written
from unireason_jax.inference.settings import Settings
from unireason_jax.inference.trace import Step, Trace
from unireason_jax.inference.turns import Turn, code_turns, image_turns, said_turns, text_turn

Grow = Callable[[Record, str], Record]
Follow = Callable[[Trace], Record]


@dataclasses.dataclass(frozen=True)
class Request:
    """A record to finish, and how the conversation may go on.

    Attributes:
      record: with holes, from a template.
      grow: (record, hand-over) after a reflection -> the record to go on with, which starts with
        the segments of the old one; None keeps it.
      following: records that come after, made from the trace so far; each starts an empty context.
      seed: gives other draws to the same id and sample; 0 for those of id and sample alone.
      told: texts and images of the first holes, in order, which are taken as they are: a
        conversation goes on from there.
      upright: pictures in files are a user's, and turned as their EXIF orientation says; records
        of a training set are shown as training shows them.
    """

    record: Record
    grow: Grow | None = None
    following: tuple[Follow, ...] = ()
    seed: int = 0
    told: tuple[Step, ...] = ()
    upright: bool = False


class Conversation:
    """A request, the number of its sample, and what has become of it.

    Attributes:
      record: that is being walked.
      place: of the next segment in it.
      steps: what was given and generated.
      pending: turns that the context has not read yet.
      restarts: the context must be emptied before it reads.
      retracts: the context must forget the text just written before it reads.
      ended: why it ended, None while it goes on.
      seconds: wall time by phase.
    """

    def __init__(self, request: Request, sample: int, spec: SampleSpec, settings: Settings):
        """Reads up to the first hole."""
        reading = settings.reading
        self.request, self.sample, self.settings = request, sample, settings
        self.spec = reading.spec(spec) if reading else spec
        self.record, self.place = request.record, 0
        self.following = collections.deque(request.following)
        self.told = collections.deque(request.told)
        self.steps: list[Step] = []
        self.pending: list[Turn] = []
        self.restarts = self.retracts = False
        self.ended: str | None = None
        self.seconds: collections.Counter[str] = collections.Counter()
        self._go_on()

    @property
    def hole(self) -> Segment:
        """The segment that the model fills next; only while the conversation goes on."""
        return self.record.segments[self.place]

    def seed(self) -> int:
        """uint32 from request id, sample, its seed, and how many of the hole's kind were made."""
        kind = self.hole.kind
        made = sum(step.kind == kind and not step.given for step in self.steps)
        sample, shared = self.sample, self.settings.share_texts
        if kind == "text":
            sample -= sample % shared
        own = (self.request.seed,) if self.request.seed else ()
        return sampler.seed(self.request.record.id, sample, kind, made, *own)

    def grid(self) -> tuple[int, int]:
        """Latent tokens (rows, columns) of the next image."""
        cell = self.spec.codec.stride * self.spec.latent_patch
        shown = [Shown(s.image.shape[:2], s.given) for s in self.steps if s.kind == "image"]
        height, width = drawn_size(shown, self.hole.role, self.settings, self.spec)
        return height // cell, width // cell

    def said(self) -> dict[str, str]:
        """The request, and the last text of every role, as what follows reads them."""
        said = {step.role: step.read for step in self.steps if step.kind == "text"}
        asked = [step.read for step in self.steps if step.role == "user" and step.given]
        return said | ({"prompt": asked[0]} if asked else {})

    def wrote(self, text: Written, seed: int) -> None:
        """Takes the text for the hole."""
        segment = self.hole
        said = self.spec.tokenizer.decode(text.ids)
        kept = self.settings.kept(segment.role, said)
        if kept != said:
            markers = self.spec.tokenizer
            self.retracts = True
            self.pending.append(text_turn([markers.bos, *markers.encode(kept), markers.eos]))
        step = Step("text", segment.role, untag(said, segment.tag), content=kept, seed=seed)
        step = dataclasses.replace(step, forwards=len(text.ids) + 2, handover=text.handover)
        self.steps.append(dataclasses.replace(step, cut=text.cut))
        if segment.role == "reflection":
            self._reflected(text.handover)
        self.place += 1
        self._go_on()

    def drew(self, image: np.ndarray, seed: int, forwards: int) -> None:
        """Takes the image (uint8 [H, W, 3]) for the hole."""
        step = Step("image", self.hole.role, image=image, seed=seed, forwards=forwards)
        self._drawn(step)
        self._go_on()

    def _drawn(self, step: Step) -> None:
        """Puts an image into the hole."""
        self.steps.append(step)
        if self.place < self.record.holes[-1]:
            self._show(self.hole, step.image)
        self.place += 1

    def _told(self) -> None:
        """Puts what is told into the hole, as if the model had just made it."""
        segment, step = self.hole, self.told.popleft()
        if (segment.kind, segment.role) != (step.kind, step.role):
            raise ValueError(
                f"step {len(self.steps)} is '{step.role}' ({step.kind}), but this preset goes on "
                f"with '{segment.role}' ({segment.kind})."
            )
        if step.kind == "image":
            self._drawn(step)
            return
        content = dataclasses.replace(segment, text=step.text).content
        content = step.content if step.content is not None else content
        step = dataclasses.replace(step, content=self.settings.kept(segment.role, content))
        ids = self.spec.tokenizer.encode(step.content)
        markers = self.spec.tokenizer
        self.pending.append(text_turn([markers.bos, *ids, markers.eos]))
        self.steps.append(step)
        if segment.role == "reflection":
            self._reflected("image")
        self.place += 1

    def heard(self, handover: str) -> None:
        """Takes what the model wants after an image it was shown, where training teaches it."""
        shown = self.record.segments[self.place - 1]
        if shown.kind != "image" or shown.next == "none":
            return
        self.steps[-1] = dataclasses.replace(self.steps[-1], handover=handover)
        if shown.role == "refined" and handover == "stop" and self._may_stop():
            self.ended = "stop"

    def trace(self) -> Trace:
        """What has happened so far."""
        return Trace(
            id=self.request.record.id,
            template=self.record.source,
            steps=tuple(self.steps),
            sample=self.sample,
            ended=self.ended or "end",
            seconds={name: round(taken, 6) for name, taken in self.seconds.items()},
            settings=dataclasses.asdict(self.settings),
            details=self.request.record.metadata
            | ({"seed": self.request.seed} if self.request.seed else {}),
        )

    def _reflected(self, handover: str) -> None:
        """Ends or lengthens the conversation, as the model wants after a reflection."""
        if handover == "stop" and self._may_stop():
            self.ended = "stop"
        elif self.request.grow is not None:
            self.record = self.request.grow(self.record, handover)

    def _may_stop(self) -> bool:
        """Whether the settings let the model end here."""
        rounds = sum(step.role == "refined" and not step.given for step in self.steps)
        return self.settings.learned_stop and rounds >= self.settings.min_rounds

    def _go_on(self) -> None:
        """Reads what is given up to the next hole, or ends."""
        while not self.ended and self.place <= self.record.holes[-1]:
            segment = self.record.segments[self.place]
            if segment.is_hole and self.told:
                self._told()
                continue
            if segment.is_hole:
                self._open(segment)
                return
            self._given(segment)
            self.place += 1
        if self.following and not self.ended:
            self.record, self.place = self.following.popleft()(self.trace()), 0
            self.pending, self.restarts, self.retracts = [], True, False
            self._go_on()
        elif not self.ended:
            limited = any(step.role == "reflection" for step in self.steps)
            self.ended = "rounds" if limited else "end"

    def _open(self, segment: Segment) -> None:
        """Reads what stands before a segment that the model makes, where anything does."""
        if self.spec.by_codes:
            ids = script.opening(self.record, self.place, self.spec.tokenizer)
            ids = ids[:-1] if segment.kind == "text" else ids  # the last one starts the writing
            self.pending += [text_turn(ids)] if ids else []

    def _given(self, segment: Segment) -> None:
        """Takes a given segment; one that was generated before is not told twice."""
        if segment.kind == "text":
            if self.spec.by_codes:
                self.pending += said_turns(self.record, self.place, self.spec)
            else:
                ids = text_tokens(segment, self.spec)
                self.pending.append(text_turn(ids, segment.role))
            step = Step("text", segment.role, segment.text, content=segment.content, given=True)
        else:
            upright, reading = self.request.upright, self.settings.reading
            image = images.load(segment.image, self.spec.image_root, upright=upright)
            shown = reading.given(image, self.spec) if reading else image
            if self.spec.by_codes:
                self.pending += said_turns(self.record, self.place, self.spec, shown)
            else:
                self._show(segment, shown, segment.role)
            step = Step("image", segment.role, image=image, given=True)
        if not self.restarts or not self._has(step):
            self.steps.append(step)

    def _has(self, step: Step) -> bool:
        """Whether the same was given or generated before."""
        return any(
            (
                (old.kind, old.text) == (step.kind, step.text)
                and np.array_equal(old.image, step.image)
            )
            or (step.kind == old.kind == "text" and old.read == step.read)
            for old in self.steps
        )

    def _show(self, segment: Segment, image: Any, role: str = "") -> None:
        """Puts an image before the model's eyes; with the role of its segment if it is given."""
        if self.spec.by_codes:
            self.pending += code_turns(segment, image, self.spec)
            return
        copies = {"gen": segment.gen, "und": segment.und}
        self.pending += image_turns(image, self.spec, **copies, role=role)


class Shown(NamedTuple):
    """An image before the next: (height, width) in pixels, and whether it was given."""

    size: tuple[int, int]
    given: bool


def drawn_size(
    shown: Sequence[Shown], role: str, settings: Settings, spec: SampleSpec
) -> tuple[int, int]:
    """(height, width) in pixels of the image that is drawn next.

    Args:
      shown: the images before it, in order.
      role: of the image.
      settings: `size` is that of images without a source; the others have `edit_size`, else the
        size of the first or last image before them as the model is shown it. A refined image has
        that of its draft.
      spec: how the model is shown images.
    """
    if not shown:
        return settings.size
    if settings.edit_size:
        return settings.edit_size
    height, width = shown[0 if settings.size_from == "first" else -1].size
    drawn = [one.size for one in shown if not one.given]
    if role == "refined" and drawn:
        height, width = drawn[-1]
    if spec.latent_resize:
        width, height = spec.latent_resize(width, height)
    return height, width
