"""One way to sample: template, prompts, scales, limits and rounds, and where they come from."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

from unireason_jax.data.records import Record
from unireason_jax.data.templates import PLAIN, REQUESTS, Example, Style
from unireason_jax.inference.code_drawing import CodeSettings
from unireason_jax.inference.conversation import Request
from unireason_jax.inference.requests import check_seed, check_text
from unireason_jax.inference.settings import (
    FAST,
    FlowSettings,
    Settings,
    TextSettings,
    with_options,
)
from unireason_jax.inference.trace import Trace
from unireason_jax.inference.turns import Reading
from unireason_jax.inference.values import whole

IMAGE_KEY = {"edit": "input_image", "think_edit": "input_image", "refine_edit": "input_image"}
IMAGE_KEY |= {"uni_edit": "image", "vqa": "image"}
_TEXT_KEY = {name: "instruction" for name in IMAGE_KEY} | {"vqa": "question"}
_ANSWERS = ("vqa", "answer")
_IN_PARTS = REQUESTS.keys() & {"interleaved", "think_interleaved", "answer"}
Stage = Callable[[Example, Style], Record]
Part = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Preset:
    """How a system samples.

    Attributes:
      about: what it is.
      template: name of the template that is walked.
      style: its switches, system prompts among them; None for those the model was trained with.
      text, flow, refine, codes, max_text, max_reflection, simple_think, size, size_from, reading,
        share_texts, learned_stop: fields of `Settings`; None keeps those of the reasoner.
      rounds: most rounds of refinement, or steps of a drawing in steps, unless the request says.
      grow: see `Request`; also told the most rounds.
      fast: draws with `settings.FAST`: fewer passes an image, at a small price in quality.
      following: stages after the first: (example with the trace's contents, style) -> record.
      source: the paper's section or the script that the values are from; empty where they are ours
        or the checkpoint's.
      name: in `systems.catalog.PRESETS`, for traces.
    """

    about: str
    template: str
    style: Style | None = PLAIN
    text: TextSettings | None = None
    flow: FlowSettings | None = None
    refine: FlowSettings | None = None
    codes: CodeSettings | None = None
    max_text: int | None = None
    max_reflection: int | None = None
    simple_think: bool | None = None
    size: tuple[int, int] | None = None
    size_from: str | None = None
    reading: Reading | None = None
    share_texts: int | None = None
    learned_stop: bool | None = None
    rounds: int = 1
    grow: Callable[[Record, str, int], Record] | None = None
    fast: bool = False
    following: tuple[Stage, ...] = ()
    source: str = ""
    name: str = ""

    @property
    def needs_image(self) -> bool:
        """Whether a request brings an image."""
        return self.template in IMAGE_KEY

    @property
    def in_parts(self) -> bool:
        """Whether a request may be texts and images in any order."""
        return self.template in _IN_PARTS

    def settings(self, base: Settings) -> Settings:
        """The settings of a reasoner with this preset's own in their place.

        A student keeps its way of drawing (`Settings.is_student`), which nothing makes faster.

        Raises:
          ValueError: it draws by flow and the model with codes, or the other way round.
        """
        other = self.flow if base.by_codes else self.codes
        if other is not None and self.template not in _ANSWERS:
            ways = ("with codes", "by flow")
            model, own = ways if base.by_codes else ways[::-1]
            raise ValueError(
                f"preset '{self.name or self.about}' draws {own}, but this model draws {model}; "
                "take one of its own, or a template's, as 'refine_t2i' (`--preset list`)."
            )
        names = [field.name for field in dataclasses.fields(Settings)]
        own = {name: getattr(self, name, None) for name in names}
        if base.is_student:
            own |= {"flow": None, "refine": None}
        made = dataclasses.replace(base, **{k: v for k, v in own.items() if v is not None})
        return with_options(made, FAST) if self.fast and not base.is_student else made

    def request(
        self,
        text: str = "",
        *,
        name: str | None = None,
        image: Any = None,
        parts: Sequence[Part] | None = None,
        rounds: int | None = None,
        seed: int | None = None,
        style: Style = PLAIN,
    ) -> Request:
        """A conversation to finish.

        Args:
          text: prompt, instruction or question.
          name: id of the request, which keys its randomness; by default the text.
          image: the picture to edit or to ask about (path, bytes or uint8 [H, W, 3]), or a list;
            files are turned upright.
          parts: instead of text and image, a list of {text} and {image} in any order, for presets
            that take one.
          rounds: most rounds of refinement, or steps of a drawing in steps.
          seed: gives other draws to the same name.
          style: that the model was trained with; a preset that has its own does not use it.

        Raises:
          ValueError: an empty text, an image that is missing or of no use, or negative rounds.
        """
        most = whole("rounds", self.rounds if rounds is None else rounds, least=0)
        if name is not None:
            check_text("id", name)
        if parts is not None and not self.in_parts:
            raise ValueError(f"template '{self.template}' takes a text and images, no `parts`.")
        content = self._in_parts(text, image, parts) if self.in_parts else self._asked(text, image)
        example = {"id": text if name is None else name, **content}
        if self.template == "process":
            example["steps"] = 1 if self.grow else max(most, 1)
        else:
            example["rounds"] = most
        style = style if self.style is None else self.style
        record = REQUESTS[self.template](example, style)
        if self.name:
            told = {**record.metadata, "preset": self.name}
            record = dataclasses.replace(record, metadata=told)
        grow = self.grow and functools.partial(self.grow, most=most)
        later = [functools.partial(_stage, stage, example, style) for stage in self.following]
        own = 0 if seed is None else check_seed(seed)
        return Request(record, grow, tuple(later), own, upright=True)

    def _asked(self, text: str, image: Any) -> Example:
        """The fields of a request of one text."""
        _check(text)
        found = {_TEXT_KEY.get(self.template, "prompt"): text}
        if self.needs_image and image is None:
            raise ValueError(
                f"template '{self.template}' needs an image: --image FILE, `image` in a line "
                "of --prompts, or `edit` and `ask` in Python."
            )
        if self.needs_image:
            found[IMAGE_KEY[self.template]] = image
        elif image is not None:
            raise ValueError(
                f"template '{self.template}' takes no image; leave it out, or choose a preset that "
                "edits or answers."
            )
        return found

    def _in_parts(self, text: str, image: Any, parts: Sequence[Part] | None) -> Example:
        """The fields of a request of several texts and images; images come first unless told."""
        if parts is None:
            _check(text)
            images = image if isinstance(image, list) else [image] * (image is not None)
            parts = [*({"image": one} for one in images), {"text": text}]
        return {"parts": list(parts)}


def _check(text: str) -> None:
    check_text("prompt", text)
    if not text.strip():
        raise ValueError("the prompt is empty; write what to draw, change or answer.")


def _stage(stage: Stage, example: Example, style: Style, trace: Trace) -> Record:
    """The record of a later stage: the request's example with what was generated.

    `explanation` is the plan's words; `plan` and `reflection` are as they were written, tags and
    blanks included.
    """
    made = {"explanation": trace.text_of("plan"), "draft": trace.image}
    made |= {role: trace.content_of(role) for role in ("plan", "reflection")}
    return stage({**example, **made}, style)
