"""How texts are chosen and images drawn: values that are checked when they are made."""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np

from unireason_jax.inference.code_drawing import CodeSettings
from unireason_jax.inference.step_cache import CACHES, StepCache
from unireason_jax.inference.turns import WITHOUT_IMAGES, WITHOUT_TEXT, Reading
from unireason_jax.inference.values import number, shown, whole
from unireason_jax.rules import flow

OPTIONS = {
    "temperature": ("text", "temperature"),
    "top_p": ("text", "top_p"),
    "timesteps": ("flow", "timesteps"),
    "shift": ("flow", "shift"),
    "guidance": ("flow", "text_scale"),
    "image_guidance": ("flow", "image_scale"),
    "interval": ("flow", "interval"),
    "renorm": ("flow", "renorm"),
    "solver": ("flow", "solver"),
    "cache": ("flow", "cache"),
    "size": ("", "size"),
    "max_text": ("", "max_text"),
    "min_rounds": ("", "min_rounds"),
}
"""Settings that a call or a command line may change: part of `Settings` and field, by option."""
OPTIONS_OF_CODES = {"guidance": ("codes", "guidance")}
"""Those of `OPTIONS` that mean something else to a model that draws with codes."""
FAST = {"cache": "taylor"}
"""Options of a preset `NAME:fast`; what they cost in quality is in speed/README.md."""


@dataclasses.dataclass(frozen=True)
class TextSettings:
    """How text is chosen.

    Attributes:
      temperature: 0 takes the most likely token; otherwise logits are divided by it and sampled.
      top_p: keep the smallest set of tokens whose probability reaches this (nucleus sampling);
        1 keeps all.
    """

    temperature: float = 0.0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        """Raises ValueError on values outside their range."""
        _set(self, "temperature", number("temperature", self.temperature, least=0))
        _set(self, "top_p", number("top_p", self.top_p, above=0, most=1))


@dataclasses.dataclass(frozen=True)
class FlowSettings:
    """How an image is drawn (BAGEL image generation).

    Attributes:
      timesteps: N points from t = 1 to t = 0; that is N - 1 steps.
      shift: s in t -> s t / (1 + (s - 1) t); above 1 spends more steps near the noise.
      text_scale: guidance away from the context without text; 1 or less turns all guidance off.
      image_scale: guidance away from the context without images; 1 or less turns it off.
      interval: (lo, hi): guidance acts at shifted times lo < t <= hi.
      renorm: "none", "global", "channel" or "text_channel": what the guided velocity's norm is
        compared with; norms are per sample.
      renorm_min: smallest factor of the renormalisation.
      text_free: what the context without text lacks, see `turns.without_text`.
      image_free: what the context without images lacks, see `turns.without_images`; or the texts
        that it consists of, with {prompt} for the request and {role} for the last text of a role.
        "given" is a context of its own also before there are images.
      solver: of the steps, one of `flow.SOLVERS`; "euler" is as BAGEL samples.
      cache: of velocities, a `StepCache` or a name in `step_cache.CACHES`; None computes every one.
    """

    timesteps: int = 50
    shift: float = 3.0
    text_scale: float = 4.0
    image_scale: float = 1.0
    interval: tuple[float, float] = (0.4, 1.0)
    renorm: str = "global"
    renorm_min: float = 0.0
    text_free: str = "all"
    image_free: str | tuple[str, ...] = "gaps"
    solver: str = "euler"
    cache: StepCache | None = None

    def __post_init__(self) -> None:
        """Raises ValueError on values that cannot work."""
        if self.text_free not in WITHOUT_TEXT:
            names = ", ".join(WITHOUT_TEXT)
            raise ValueError(f"flow: text_free {self.text_free!r} is not one of {names}.")
        if isinstance(self.image_free, str) and self.image_free not in WITHOUT_IMAGES:
            names = ", ".join(WITHOUT_IMAGES)
            raise ValueError(f"flow: image_free {self.image_free!r} is not one of {names}.")
        _set(self, "timesteps", whole("timesteps", self.timesteps, least=2, most=100_000))
        _set(self, "shift", number("shift", self.shift, above=0))
        _set(self, "text_scale", number("guidance", self.text_scale, least=0))
        _set(self, "image_scale", number("image_guidance", self.image_scale, least=0))
        _set(self, "renorm_min", number("renorm_min", self.renorm_min, least=0))
        lo, hi = (number("interval", edge, least=0, most=1) for edge in self.interval)
        _set(self, "interval", (lo, hi))
        if self.renorm not in flow.RENORMS:
            names = ", ".join(flow.RENORMS)
            raise ValueError(f"flow: renorm {self.renorm!r} is not one of {names}.")
        if self.solver not in flow.SOLVERS:
            names = ", ".join(flow.SOLVERS)
            raise ValueError(f"flow: solver {self.solver!r} is not one of {names}.")
        if not isinstance(self.cache, StepCache | None):
            if not isinstance(self.cache, str) or self.cache not in CACHES:
                raise ValueError(f"flow: cache {self.cache!r} is not one of {', '.join(CACHES)}.")
            _set(self, "cache", CACHES[self.cache])

    @property
    def scales(self) -> tuple[float, float]:
        """Text and image scale: numbers of a compiled program, not part of it."""
        return self.text_scale, self.image_scale

    @property
    def program(self) -> "FlowSettings":
        """What a compiled program depends on: settings that differ elsewhere share it."""
        return dataclasses.replace(
            self, text_scale=0.0, image_scale=0.0, text_free="all", image_free="gaps"
        )

    def times(self) -> np.ndarray:
        """The N shifted times, float32, from 1 down to 0."""
        return np.asarray(flow.euler_grid(self.timesteps, self.shift), np.float32)

    def segments(self) -> tuple[tuple[int, int, bool], ...]:
        """Runs of steps (first, last + 1, guided), in order."""
        lo, hi = self.interval
        on = [lo < t <= hi for t in self.times()[:-1].tolist()]
        cuts = [0, *(i for i in range(1, len(on)) if on[i] != on[i - 1]), len(on)]
        return tuple((a, b, on[a]) for a, b in itertools.pairwise(cuts))

    def computes(self) -> np.ndarray:
        """Steps that compute their velocity for every image: [N - 1] bool; all, without a cache."""
        if self.cache is None:
            return np.ones(self.timesteps - 1, bool)
        return self.cache.computes(self.timesteps - 1, [a for a, _, on in self.segments() if on])

    def forwards(self, branches: int) -> int:
        """Passes through the model that one image costs, at least ("tea" decides while drawing)."""
        computed = self.computes()
        return sum(
            int(computed[a:b].sum()) * (branches if on else 1) for a, b, on in self.segments()
        )


@dataclasses.dataclass(frozen=True)
class Settings:
    """How the reasoner generates.

    Attributes:
      text: how tokens are chosen.
      flow: how images are drawn.
      refine: how refined images are drawn; None is as all others.
      codes: how images are drawn by a model that draws with codes.
      by_codes: whether the model is one; `flow` and `refine` then are not used.
      max_text: most tokens of one generated text, between bos and eos.
      max_reflection: most tokens of a reflection; None is as all texts.
      simple_think: of a plan, what follows reads only the words after </think>, without blanks
        around them; all of it where nothing follows.
      size: (height, width) in pixels of images without a source.
      edit_size: the same of images with a source; None keeps the size of the source.
      size_from: whether the "first" or the "last" image shown gives the size; a refined image
        always has that of its draft.
      reading: how pictures are resized; None is as in training.
      share_texts: samples of a request that share their written texts.
      min_rounds: refinements before the model may stop.
      learned_stop: end a conversation when the hand-over of a reflection is "stop"; otherwise it
        goes through all of its record.
      batch_rows: conversations that are generated together.
      exact: one at a time, in programs whose shapes depend on nothing else; see `Reasoner.run`.
      is_student: the model draws in the steps that it learned, without guidance: what presets say
        of drawing is its teacher's.
    """

    text: TextSettings = dataclasses.field(default_factory=TextSettings)
    flow: FlowSettings = dataclasses.field(default_factory=FlowSettings)
    refine: FlowSettings | None = None
    codes: CodeSettings = dataclasses.field(default_factory=CodeSettings)
    by_codes: bool = dataclasses.field(default=False, repr=False)
    max_text: int = 64
    max_reflection: int | None = None
    simple_think: bool = False
    size: tuple[int, int] = (32, 32)
    edit_size: tuple[int, int] | None = None
    size_from: str = "last"
    reading: Reading | None = None
    share_texts: int = 1
    min_rounds: int = 0
    learned_stop: bool = True
    batch_rows: int = 64
    exact: bool = dataclasses.field(default=False, repr=False)
    is_student: bool = dataclasses.field(default=False, repr=False)

    def __post_init__(self) -> None:
        """Raises ValueError on values that cannot work."""
        if self.size_from not in ("first", "last"):
            raise ValueError(f"size_from {self.size_from!r} is not one of first, last.")
        if not isinstance(self.exact, bool):
            raise ValueError(f"exact must be True or False, not {shown(self.exact)}.")
        _set(self, "max_text", whole("max_text", self.max_text, least=1, most=1 << 20))
        _set(self, "min_rounds", whole("min_rounds", self.min_rounds, least=0))
        _set(self, "batch_rows", whole("batch", self.batch_rows, least=1))
        _set(self, "size", _size(self.size))
        _set(self, "edit_size", None if self.edit_size is None else _size(self.edit_size))
        _set(self, "share_texts", whole("share_texts", self.share_texts, least=1))
        if self.max_reflection is not None:
            longest = whole("max_reflection", self.max_reflection, least=1, most=1 << 20)
            _set(self, "max_reflection", longest)

    def limit_of(self, role: str) -> int:
        """Most tokens of a text of a role."""
        longer = role == "reflection" and self.max_reflection is not None
        return self.max_reflection if longer else self.max_text

    def kept(self, role: str, text: str) -> str:
        """What of a written text is read by what follows it."""
        answer = [*text.split("</think>"), ""][1]
        simple = self.simple_think and role == "plan" and answer
        return answer.strip() if simple else text

    def flow_of(self, role: str) -> FlowSettings:
        """How an image of a role is drawn."""
        return self.refine if role == "refined" and self.refine else self.flow


def identity(settings: Settings) -> dict[str, Any]:
    """What results depend on, as a nested dict: all but the number of rows and what the checkpoint
    is. `exact` is there only where it is on, so that folders from before it go on.
    """
    found = dataclasses.asdict(settings)
    del found["batch_rows"], found["by_codes"], found["is_student"]
    if not found["exact"]:
        del found["exact"]
    return found


def with_options(settings: Settings, given: Mapping[str, Any]) -> Settings:
    """Settings with some of `OPTIONS` in their place; None leaves what is there.

    A size holds for images with a source too, and the options of drawing for refined images.

    Raises:
      ValueError: a value of a wrong type, or out of range; an option of flow where the model draws
        with codes.
    """
    changes: dict[str, Any] = {}
    parts: dict[str, dict[str, Any]] = {"text": {}, "flow": {}, "codes": {}, "": changes}
    options = OPTIONS | OPTIONS_OF_CODES if settings.by_codes else OPTIONS
    for option, (part, field) in options.items():
        if given.get(option) is not None:
            if settings.by_codes and part == "flow":
                raise ValueError(
                    f"{option} is of models that draw by flow, but this one draws code by code, "
                    f"which knows {', '.join(OPTIONS_OF_CODES)} alone; leave it out."
                )
            value = given[option]
            parts[part][field] = tuple(value) if isinstance(value, list) else value
    if "max_text" in changes:
        changes["max_reflection"] = None
    if "size" in changes:
        changes["edit_size"] = changes["size"]
    targets = (("text", "text"), ("flow", "flow"), ("flow", "refine"), ("codes", "codes"))
    for part, target in targets:
        old = getattr(settings, target)
        if parts[part] and old is not None:
            changes[target] = dataclasses.replace(old, **parts[part])
    return dataclasses.replace(settings, **changes)


def _size(value: Any) -> tuple[int, int]:
    """A size in pixels."""
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise ValueError(f"size must be (height, width) in pixels, not {shown(value)}.")
    height, width = (whole("size", edge, least=1, most=1 << 16) for edge in value)
    return height, width


def _set(settings: Any, name: str, value: Any) -> None:
    """Replaces a field of a frozen dataclass while it is made."""
    object.__setattr__(settings, name, value)
