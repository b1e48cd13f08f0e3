"""What a run of the reasoner leaves behind: every text and image, why it ended, what it cost."""

import dataclasses
import io
import json
import re
import typing
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from unireason_jax.data import images
from unireason_jax.pictures.strips import Note, Panel, strip, tidy
from unireason_jax.storage import atomic, paths

FILE = "trace.json"
PICTURE = "strip.png"
_ENDS = {
    "stop": "the model stopped",
    "rounds": "stopped by the limit of rounds",
    "end": "complete",
}


@dataclasses.dataclass(frozen=True)
class Step:
    """One segment of the conversation, given or generated.

    Attributes:
      kind: "text" or "image".
      role: the segment's role, e.g. user, plan, draft, reflection, refined, answer.
      text: the words without their tag (text steps).
      image: uint8 [H, W, 3] (image steps).
      given: part of the request, not generated.
      seed: of the generated image or text; None when given.
      forwards: passes through the model.
      handover: what the model wanted next at the end of a text: "text", "image" or "stop".
      cut: the text was ended by the length limit.
      verdict: whether a judge accepts the image or text; None when nobody judged it.
      content: the text exactly as what follows it reads it, tag and blanks included; None for
        images, and in traces of before it was kept.
    """

    kind: str
    role: str
    text: str | None = None
    image: np.ndarray | None = None
    given: bool = False
    seed: int | None = None
    forwards: int = 0
    handover: str | None = None
    cut: bool = False
    verdict: bool | None = None
    content: str | None = None

    @property
    def read(self) -> str:
        """The text as what follows it reads it; empty for images."""
        return self.text or "" if self.content is None else self.content


@dataclasses.dataclass(frozen=True)
class Trace:
    """One conversation from request to end.

    Attributes:
      id: of the request.
      template: name of the template that was walked.
      sample: number of the sample for this request.
      steps: segments in order.
      ended: "stop" (the model said so), "rounds" (the limit of rounds), "end" (nothing left).
      seconds: wall time of the batch by phase, divided by its rows.
      settings: what the reasoner was told, JSON-able.
      details: what a judge or the caller adds, JSON-able.
    """

    id: str
    template: str
    steps: tuple[Step, ...]
    sample: int = 0
    ended: str = "end"
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    details: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def texts(self) -> list[str]:
        """Generated texts in order."""
        return [s.text for s in self.steps if s.kind == "text" and not s.given]

    @property
    def images(self) -> list[np.ndarray]:
        """Generated images in order, uint8 [H, W, 3]."""
        return [s.image for s in self.steps if s.kind == "image" and not s.given]

    @property
    def image(self) -> np.ndarray | None:
        """The last image, given or generated; None when there is none."""
        shown = [s.image for s in self.steps if s.kind == "image"]
        return shown[-1] if shown else None

    @property
    def roles(self) -> list[str]:
        """Role of every step."""
        return [step.role for step in self.steps]

    @property
    def forwards(self) -> int:
        """Passes of this row through the model."""
        return sum(step.forwards for step in self.steps)

    @property
    def tokens(self) -> int:
        """Tokens written."""
        return sum(s.forwards for s in self.steps if s.kind == "text" and not s.given)

    @property
    def rounds(self) -> int:
        """Refined images drawn."""
        return sum(step.role == "refined" for step in self.steps if not step.given)

    def text_of(self, role: str) -> str | None:
        """The last text with a role."""
        found = [s.text for s in self.steps if s.kind == "text" and s.role == role]
        return found[-1] if found else None

    def content_of(self, role: str) -> str | None:
        """The last text with a role, exactly as what follows it reads it."""
        found = [s.read for s in self.steps if s.kind == "text" and s.role == role]
        return found[-1] if found else None

    def then(self, later: "Trace") -> "Trace":
        """This conversation and one that went on with its last image, as one."""
        steps = [s for s in later.steps if not (s.given and s.kind == "image")]
        seconds = {
            phase: self.seconds.get(phase, 0.0) + later.seconds.get(phase, 0.0)
            for phase in {**self.seconds, **later.seconds}
        }
        name = f"{self.id} / {later.id}"
        return dataclasses.replace(
            later, id=name, steps=(*self.steps, *steps), seconds=seconds, sample=self.sample
        )

    def judged(self, verdicts: dict[int, bool], **details: Any) -> "Trace":
        """The trace with verdicts by step number, and details added."""
        steps = tuple(
            dataclasses.replace(step, verdict=verdicts.get(number, step.verdict))
            for number, step in enumerate(self.steps)
        )
        return dataclasses.replace(self, steps=steps, details=self.details | details)

    def panels(self) -> list[Panel]:
        """Columns of the strip: every image with what led to it and what was said about it."""
        panels: list[Panel] = []
        before: list[Note] = []
        refined = 0
        for step in self.steps:
            if step.kind == "text":
                note = Note(step.role, tidy(step.text or ""), step.cut)
                if step.role in ("user", "system"):
                    continue
                if panels and step.role in ("reflection", "answer"):
                    last = panels[-1]
                    panels[-1] = last._replace(notes=(*last.notes, note))
                else:
                    before.append(note)
                continue
            refined += step.role == "refined"
            title = f"refined {refined}" if step.role == "refined" else step.role
            panels.append(Panel(title, step.image, tuple(before), step.verdict))
            before = []
        if before:
            panels.append(Panel("no image", None, tuple(before)))
        return panels

    def strip(self) -> Image.Image:
        """The trace as a picture."""
        return strip(self.request or self.id, self.panels(), subtitle=self.caption())

    def _repr_png_(self) -> bytes:
        """The strip as PNG: what a notebook shows."""
        file = io.BytesIO()
        self.strip().save(file, "PNG")
        return file.getvalue()

    @property
    def request(self) -> str:
        """What the user said."""
        asked = [s.text or "" for s in self.steps if s.kind == "text" and s.role == "user"]
        return " / ".join(map(tidy, asked))

    def caption(self) -> str:
        """Small print of the strip: identity, end and cost."""
        name = [] if self.id == self.request else [self.id]
        parts = [*name, *(str(v) for v in self.details.get("caption", ()))]
        return "  ·  ".join([*parts, _ENDS[self.ended], f"{self.forwards} forwards"])

    def save(self, folder: str | Path) -> Path:
        """Writes trace.json, one PNG per image and strip.png; returns the folder.

        trace.json is written last, so a folder that has it is complete.
        """
        folder = paths.of(folder)
        folder.mkdir(parents=True, exist_ok=True)
        steps = []
        for number, step in enumerate(self.steps):
            values = {f.name: getattr(step, f.name) for f in dataclasses.fields(step)}
            if step.image is not None:
                values["image"] = f"{number:02d}_{step.role}.png"
                with atomic.replacing(folder / values["image"]) as part:
                    Image.fromarray(step.image).save(part)
            steps.append(values)
        with atomic.replacing(folder / PICTURE) as part:
            self.strip().save(part)
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        text = json.dumps(values | {"steps": steps}, indent=1, ensure_ascii=False)
        atomic.write_text(folder / FILE, text + "\n")
        return folder


def load(folder: str | Path) -> Trace:
    """A trace that `Trace.save` wrote.

    Raises:
      FileNotFoundError: no trace there, or one of its images is missing.
      ValueError: trace.json is not one of ours, or an image is damaged.
    """
    found = peek(folder)
    steps = tuple(_with_image(step, paths.of(folder)) for step in found.steps)
    return dataclasses.replace(found, steps=steps)


def peek(folder: str | Path) -> Trace:
    """As `load`, but the images are the names of their files, which are not opened."""
    path = paths.of(folder) / FILE
    if not path.exists():
        raise FileNotFoundError(f"{folder}: no {FILE}; give a folder that `Trace.save` wrote.")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        steps = tuple(Step(**step) for step in values.pop("steps"))
        found = Trace(steps=steps, **values)
        _check(found)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path}: not a trace of this program ({error}).") from None
    for step in steps:
        if step.image is not None and not (path.parent / step.image).is_file():
            raise FileNotFoundError(f"{path.parent / step.image}: missing, an image of the trace.")
    return found


def _check(trace: Trace) -> None:
    """Raises TypeError or ValueError unless a trace from a file is what `Trace.save` writes."""
    parts = (trace.details, trace.seconds, trace.settings)
    if not all(isinstance(part, dict) for part in parts) or trace.ended not in _ENDS:
        raise TypeError("a field is of a wrong type")
    numbers = (trace.sample, *trace.seconds.values())
    if not all(isinstance(number, int | float) for number in numbers):
        raise TypeError("a number is of a wrong type")
    names = [trace.id, trace.template, *map(str, trace.details.get("caption", ()))]
    kinds = typing.get_type_hints(Step) | {"image": str | None}
    for step in trace.steps:
        for name, kind in kinds.items():
            if not isinstance(getattr(step, name), kind):
                raise TypeError(f"field '{name}' of a step is of a wrong type")
        if step.kind not in ("text", "image") or (step.image is None) == (step.kind == "image"):
            raise TypeError("a step has not the content of its kind")
        if not re.fullmatch(r"\w{1,40}", step.role) or not _is_plain(step.image or "x"):
            raise TypeError("a name of a step is none")
        names += [step.text or "", step.content or ""]
    for name in names:
        name.encode()  # no half of a character


def _is_plain(name: str) -> bool:
    """Whether a file's name is one of the folder itself."""
    return Path(name).name == name and len(name) < 200


def _with_image(step: Step, folder: Path) -> Step:
    """The step with the picture that its file name stands for."""
    if step.image is None:
        return step
    return dataclasses.replace(step, image=images.load(folder / step.image))
