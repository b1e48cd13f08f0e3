"""How each system samples: its template, prompts, scales and rounds, by name.

Templates that can start from a request are presets of their own name, with the settings and the
style of the reasoner. The others carry the values of a paper or of a released script, and where the
two disagree there is one of each (the released one has `_released` in its name). Values not given
anywhere are ours, and said to be.
"""

import dataclasses
import difflib
import functools
from collections.abc import Callable
from typing import Any

from unireason_jax.data.records import Record, Segment
from unireason_jax.data.templates import PLAIN, TEMPLATES, Example, Style, prompts
from unireason_jax.data.templates.style import given, supervised, target
from unireason_jax.inference.conversation import Request
from unireason_jax.inference.settings import FlowSettings, Settings, TextSettings
from unireason_jax.inference.trace import Trace

THINKING = TextSettings(temperature=0.3)
DRAW = FlowSettings(timesteps=50, shift=3.0, text_scale=4.0, interval=(0.4, 1.0), renorm="global")
ALWAYS = dataclasses.replace(DRAW, interval=(0.0, 1.0))
EDIT = dataclasses.replace(ALWAYS, image_scale=2.0, renorm="text_channel", text_free="since_image")
_IMAGE_KEY = {"edit": "input_image", "think_edit": "input_image", "refine_edit": "input_image"}
_IMAGE_KEY |= {"uni_edit": "image", "vqa": "image"}
_TEXT_KEY = {name: "instruction" for name in _IMAGE_KEY} | {"vqa": "question"}


@dataclasses.dataclass(frozen=True)
class Preset:
    """How a system samples.

    Attributes:
      about: what it is, and where its values come from.
      template: name of the template that is walked.
      style: its switches, system prompts among them; None for those the model was trained with.
      text, flow, refine, max_text, size, learned_stop: fields of `Settings`; None keeps those of
        the reasoner.
      rounds: most rounds of refinement, or steps of a drawing in steps, unless the request says.
      grow: see `Request`; also told the most rounds.
      following: stages after the first: (example with the trace's contents, style) -> record.
    """

    about: str
    template: str
    style: Style | None = PLAIN
    text: TextSettings | None = None
    flow: FlowSettings | None = None
    refine: FlowSettings | None = None
    max_text: int | None = None
    size: tuple[int, int] | None = None
    learned_stop: bool | None = None
    rounds: int = 1
    grow: Callable[[Record, str, int], Record] | None = None
    following: tuple[Callable[[Example, Style], Record], ...] = ()

    @property
    def needs_image(self) -> bool:
        """Whether a request brings an image."""
        return self.template in _IMAGE_KEY

    def settings(self, base: Settings) -> Settings:
        """The settings of a reasoner with this preset's own in their place."""
        names = ("text", "flow", "refine", "max_text", "size", "learned_stop")
        own = {name: getattr(self, name) for name in names}
        return dataclasses.replace(base, **{k: v for k, v in own.items() if v is not None})

    def request(
        self,
        text: str,
        *,
        name: str | None = None,
        image: Any = None,
        rounds: int | None = None,
        style: Style = PLAIN,
    ) -> Request:
        """A conversation to finish.

        Args:
          text: prompt, instruction or question.
          name: id of the request, which keys its randomness; by default the text.
          image: the picture to edit or to ask about (path, bytes or uint8 [H, W, 3]).
          rounds: most rounds of refinement, or steps of a drawing in steps.
          style: that the model was trained with; a preset that has its own does not use it.

        Raises:
          ValueError: an empty text, an image that is missing or of no use, or negative rounds.
        """
        if not text.strip():
            raise ValueError("the prompt is empty; write what to draw, change or answer.")
        most = self.rounds if rounds is None else rounds
        if most < 0:
            raise ValueError(f"rounds must be >= 0, not {most}.")
        example = {
            "id": text if name is None else name,
            _TEXT_KEY.get(self.template, "prompt"): text,
        }
        if self.needs_image:
            if image is None:
                raise ValueError(
                    f"template '{self.template}' needs an image: --image FILE, `image` in a line "
                    "of --prompts, or `edit` and `ask` in Python."
                )
            example[_IMAGE_KEY[self.template]] = image
        elif image is not None:
            raise ValueError(
                f"template '{self.template}' takes no image; leave it out, or choose a preset that "
                "edits or answers."
            )
        if self.template == "process":
            example["steps"] = 1 if self.grow else max(most, 1)
        else:
            example["rounds"] = most
        style = style if self.style is None else self.style
        record = TEMPLATES[self.template](example, style)
        grow = self.grow and functools.partial(self.grow, most=most)
        later = [functools.partial(_stage, stage, example, style) for stage in self.following]
        return Request(record, grow, tuple(later))


def find(name: str) -> Preset:
    """The preset of a name.

    Raises:
      ValueError: there is none; the message names the nearest and lists all.
    """
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise ValueError(f"unknown preset '{name}'; {hint}there are {', '.join(sorted(PRESETS))}.")
    return PRESETS[name]


def _stage(
    stage: Callable[[Example, Style], Record], example: Example, style: Style, trace: Trace
) -> Record:
    """The record of a later stage: the request's example with what was generated."""
    made = {"explanation": trace.text_of("plan"), "draft": trace.image}
    return stage({**example, **made, "reflection": trace.text_of("reflection")}, style)


def _look(example: Example, style: Style) -> Record:
    """UniReason's released scripts: the draft is looked at by the ViT alone, then criticised."""
    looked = Segment("image", "draft", image=example["draft"], und=True)
    reflection = supervised("reflection", None, None, then="none", style=style)
    return Record(example["id"], (*_nudged(example), looked, reflection), "unireason_look")


def _redraw(example: Example, style: Style) -> Record:
    """Then the draft is shown as latents too, and the critique drawn from."""
    shown = Segment("image", "draft", image=example["draft"], gen=True, und=True)
    critique = given("reflection", example["reflection"])
    segments = (*_nudged(example), shown, critique, target("refined", None))
    return Record(example["id"], segments, "unireason_redraw")


def _nudged(example: Example) -> list[Segment]:
    """System prompt, prompt, and the sentence that asks for a suggestion."""
    texts = [given("system", prompts.REFINE), given("user", example["prompt"])]
    return [*texts, given("user", prompts.REFLECT)]


def grow_process(record: Record, handover: str, most: int) -> Record:
    """A drawing in steps goes on as the model says: repair, draw the next step, or end.

    Args:
      record: of the template `process`, every hole of it filled but the reflection just written.
      handover: after that reflection: "image" repairs the sketch, "text" plans the next step.
      most: steps, after which no other is begun.
    """
    roles = [segment.role for segment in record.segments]
    steps: list[dict[str, Any]] = []
    for role in roles:
        if role == "sketch":
            steps.append({})
        elif role == "refined":
            steps[-1]["wrong"] = True
    if handover == "image":
        steps[-1]["wrong"] = True
    if len(steps) < most and handover != "stop":
        steps.append({})
    prompt = record.segments[roles.index("user")].text
    longer = TEMPLATES["process"]({"id": record.id, "prompt": prompt, "steps": steps}, PLAIN)
    system = record.segments[: roles.index("user")]
    return dataclasses.replace(record, segments=(*system, *longer.segments))


_UNIREASON = Style(system=prompts.UNIREASON)
_BAGEL = Style(
    image_first=True,
    system={"think_t2i": prompts.BAGEL_THINK_IMAGE, "think_edit": prompts.BAGEL_THINK_IMAGE},
)
_IRG = Style(system={"irg_improving_full": prompts.BAGEL_THINK_IMAGE})
_IRG_FIRST = dataclasses.replace(DRAW, text_free="since_image")
_REFINE = dataclasses.replace(DRAW, text_scale=3.0, image_scale=1.5, renorm="text_channel")
_ENHANCE = (
    prompts.BAGEL_THINK_IMAGE,
    "{user}",
    "Strictly apply all modification suggestions: {reflection} to refine and correct the input "
    "image, and ensure the final edited image is a perfect, faithful, and unambiguous realization "
    "of the caption: {user} better than the input image.",
)
_OFFICIAL = {"max_text": 1000, "size": (1024, 1024), "text": THINKING}

SYSTEMS: dict[str, Preset] = {
    "bagel_t2i": Preset("BAGEL, notebook: text guidance 4", "t2i", flow=DRAW, **_OFFICIAL),
    "bagel_t2i_released": Preset(
        "BAGEL, app: its image guidance 1.5 on an identical context amounts to text guidance 5.5",
        "t2i",
        flow=dataclasses.replace(DRAW, text_scale=5.5),
        **_OFFICIAL,
    ),
    "bagel_think_t2i": Preset(
        "BAGEL with a plan, WISE script", "think_t2i", _BAGEL, flow=DRAW, **_OFFICIAL
    ),
    "bagel_edit": Preset("BAGEL, app and notebook", "edit", _BAGEL, flow=EDIT, **_OFFICIAL),
    "bagel_think_edit": Preset(
        "BAGEL with a plan, RISE script", "think_edit", _BAGEL, flow=EDIT, **_OFFICIAL
    ),
    "bagel_understand": Preset(
        "BAGEL, questions about pictures: greedy, the picture as ViT patches only",
        "vqa",
        text=TextSettings(),
        max_text=1000,
    ),
    "unireason_t2i": Preset(
        "UniReason with a plan, WISE script; system prompt as in training",
        "think_t2i",
        _UNIREASON,
        flow=DRAW,
        **_OFFICIAL,
    ),
    "unireason_edit": Preset(
        "UniReason with a plan, edits in the order of training; scales of its UniREdit script",
        "think_edit",
        _UNIREASON,
        flow=dataclasses.replace(EDIT, text_free="all"),
        **_OFFICIAL,
    ),
    "unireason_refine": Preset(
        "UniReason: plan and draft, then refined as in training; scales of its WISE script",
        "think_t2i",
        _UNIREASON,
        flow=DRAW,
        refine=dataclasses.replace(_REFINE, text_free="since_image"),
        following=(TEMPLATES["refine_t2i"],),
        **_OFFICIAL,
    ),
    "unireason_refine_edit": Preset(
        "UniReason: edit, then refined as in training; scales of its KRIS script",
        "think_edit",
        _UNIREASON,
        flow=dataclasses.replace(EDIT, image_scale=1.5, text_free="all"),
        refine=dataclasses.replace(EDIT, image_scale=1.5),
        following=(TEMPLATES["refine_edit"],),
        **_OFFICIAL,
    ),
    "unireason_refine_released": Preset(
        "UniReason, CoreBench script: a sentence asks for the suggestion, the ViT alone looks at "
        "the draft, there is exactly one round, and a fixed sentence is the context without images",
        "think_t2i",
        dataclasses.replace(_BAGEL, reference=True),
        flow=ALWAYS,
        refine=dataclasses.replace(EDIT, image_scale=1.5, image_free=_ENHANCE),
        learned_stop=False,
        following=(_look, _redraw),
        **_OFFICIAL | {"max_text": 2048},
    ),
    "irg": Preset(
        "IRG, paper: two turns, the second at guidance 2.0 and 2.0",
        "irg_improving_full",
        _IRG,
        flow=_IRG_FIRST,
        refine=dataclasses.replace(EDIT, text_scale=2.0),
        learned_stop=False,
        **_OFFICIAL,
    ),
    "irg_released": Preset(
        "IRG, script: two turns, the second at guidance 4.0 and 2.0",
        "irg_improving_full",
        _IRG,
        flow=_IRG_FIRST,
        refine=EDIT,
        learned_stop=False,
        **_OFFICIAL,
    ),
    "process_driven": Preset(
        "Process-driven generation: plan, sketch, inspect, repair until the model stops; its paper "
        "names no scales, those of BAGEL are our choice",
        "process",
        Style(step_request=prompts.STEP_REQUEST),
        flow=DRAW,
        rounds=8,
        grow=grow_process,
        **_OFFICIAL,
    ),
    "uni_edit": Preset(
        "Uni-Edit, infer.py: image first, no text is written",
        "uni_edit",
        flow=EDIT,
        size=(1024, 1024),
    ),
}
PRESETS: dict[str, Preset] = {
    name: Preset(f"the template {name}, as the checkpoint was trained", name, None, rounds=3)
    for name in TEMPLATES
    if name in {*_IMAGE_KEY, "t2i", "think_t2i", "refine_t2i", "irg_improving_full"}
} | {"process": Preset("the template process", "process", None, rounds=8, grow=grow_process)}
PRESETS |= SYSTEMS
