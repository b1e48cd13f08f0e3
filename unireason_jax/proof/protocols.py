"""Recorded protocols of sampling: every case is walked by a preset and compared call by call.

A case says what an official script asked its model for, in order: texts to write and images to
draw, from which contexts, how guided and how limited. The same request goes through the reasoner
with a stand-in for the model (`proof.stand_ins`), and every call must be the same.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from unireason_jax.inference.settings import FlowSettings
from unireason_jax.inference.systems import catalog
from unireason_jax.proof import protocol_presets
from unireason_jax.proof.stand_ins import Call, Left, Tape, reasoner

FORMAT = "protocol-1"
HALF = "the script reads a prompt in float16; here all is in the model's own type"
BATCH = "global norms are of each image here, of the whole batch in the script"
SHARED = "one text serves all rows of a batch, as in the script (share_texts); 1 is the default"
LIMIT = "the limit is an argument of the caller, taken from the recording"
MERGED = "guidance away from an equal context is a larger text scale here: one pass less"
APART = "samples of a request take turns in another order than in the script"
UNGUIDED = "at a text scale of 1 or less the script computes contexts that change nothing"


@dataclasses.dataclass
class Outcome:
    """What became of a case.

    Attributes:
      case: name of it.
      preset: that walked it; empty if none is known.
      calls: of the recording, compared.
      problems: differences, one line each; none where the case passes.
      notes: differences that change nothing or are wanted, with the reason.
    """

    case: str
    preset: str = ""
    calls: int = 0
    problems: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)

    def note(self, reason: str) -> None:
        """Keeps a reason once."""
        if reason not in self.notes:
            self.notes.append(reason)


@dataclasses.dataclass
class Protocols:
    """What a folder's comparison found."""

    outcomes: list[Outcome]

    @property
    def failures(self) -> list[Outcome]:
        """Cases that differ or could not be walked."""
        return [outcome for outcome in self.outcomes if outcome.problems]

    def table(self) -> str:
        """One line a case, then its differences and its notes."""
        width = max(len(outcome.case) for outcome in self.outcomes)
        named = max(len(outcome.preset) for outcome in self.outcomes)
        lines = [f"{'case':<{width}}  {'preset':<{named}}  calls"]
        for one in self.outcomes:
            verdict = "FAIL" if one.problems else "pass"
            row = f"{one.case:<{width}}  {one.preset or '-':<{named}}  {one.calls:>5}  {verdict}"
            lines += [row, *(f"    differs: {problem}" for problem in one.problems)]
            lines += [f"    note: {reason}" for reason in one.notes]
        verdict = f"FAIL: {len(self.failures)}" if self.failures else "PASS: all"
        return "\n".join([*lines, f"{verdict} of {len(self.outcomes)} cases"])

    def to_json(self) -> str:
        """The same as JSON."""
        cases = [dataclasses.asdict(outcome) for outcome in self.outcomes]
        return json.dumps({"passed": not self.failures, "cases": cases}, indent=1)


def found(folder: Path) -> bool:
    """Whether a folder holds recorded protocols: a JSON file says that it is one."""
    return any(_says_so(file) for file in sorted(folder.glob("*.json")))


def compare_protocols(folder: Path) -> Protocols:
    """Walks every case of a folder; a file that cannot be read fails as a case of its own."""
    files = [file for file in sorted(folder.glob("*.json")) if file.name != "tokenizer.json"]
    return Protocols([_outcome(file) for file in files])


def _says_so(file: Path) -> bool:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(value, dict) and str(value.get("format", "")).startswith("protocol-")


def _outcome(file: Path) -> Outcome:
    """Reads, walks and compares one file."""
    outcome = Outcome(file.stem)
    try:
        case = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(case, dict) or case.get("format") != FORMAT:
            raise ValueError(f"its format is {case.get('format')!r}, not {FORMAT!r}")
        if case.get("tokenizer") != "bytes":
            raise ValueError(f"its tokenizer is {case.get('tokenizer')!r}, not 'bytes'")
        _compare(case, outcome)
    except KeyError as error:
        outcome.problems.append(f"field {error} is missing")
    except (OSError, ValueError, TypeError, AttributeError) as error:
        outcome.problems.append(f"cannot be walked: {error}")
    return outcome


def _compare(case: Mapping[str, Any], outcome: Outcome) -> None:
    """Walks a case and notes what differs."""
    outcome.case = case["name"]
    wanted, ended = _calls(case)
    colours = {image["name"]: _colour(number) for number, image in enumerate(case["images"])}
    pictures = {
        image["name"]: np.full((*image["size"], 3), colours[image["name"]], np.uint8)
        for image in case["images"]
    }
    walk = protocol_presets.walk_of(case, pictures)
    outcome.preset = walk.preset
    settings = walk.settings
    if wanted and not walk.limited:
        settings = dataclasses.replace(settings, max_text=wanted[0]["max_length"] - 1)
        outcome.note(LIMIT)
    returns = [_returned(call, colours) for call in wanted]
    tape = Tape(returns, colours, apart=walk.samples > 1)
    model = reasoner(tape)
    request = catalog.find(walk.preset).request(name=case["name"], **walk.request)
    finished = True
    try:
        model.run([request], samples=walk.samples, settings=settings)
    except Left:
        finished = False
    outcome.calls = len(wanted)
    for ours, number in tape.calls:
        if number is not None:
            theirs = wanted[number]
            found = _differences(ours, theirs, outcome)
            outcome.problems += [f"call {number + 1} ({theirs['op']}): {line}" for line in found]
    if tape.left and finished:
        missing = wanted[tape.left[0]]["op"]
        place = tape.left[0] + 1
        outcome.problems.append(f"call {place}: the script goes on ({missing}), we have ended")
    elif not finished and ended and not tape.left:
        outcome.problems.append(f"after call {len(wanted)}: the script ends, we go on")
    order = [number for _, number in tape.calls if number is not None]
    if order != sorted(order):
        outcome.note(APART)
    _note_types(case, outcome)


def _calls(case: Mapping[str, Any]) -> tuple[list[dict[str, Any]], bool]:
    """Texts and images of a recording, a batch as one each, and whether it goes to the end."""
    calls = []
    for event in case["events"]:
        if event["op"] in ("gen_text", "gen_image"):
            rows = event.get("rows", 1)
            calls += [{**event, "row": row} for row in range(rows)]
    ended = any(event["op"] == "end" for event in case["events"])
    return calls, ended and not case.get("cut_after_images")


def _colour(number: int) -> tuple[int, int, int]:
    """A colour for each picture of a case, by which its copies are known."""
    return 8 * (number % 32), 8 * (number // 32 % 32), 128


def _returned(call: Mapping[str, Any], colours: Mapping[str, Any]) -> tuple[str, Any, Any]:
    """What the recording has for a call: kind, content, and the contents of its context."""
    if call["op"] == "gen_text":
        return "text", call["returns"], [_plain(part) for part in call["contents"]]
    contents = [_plain(part) for part in call["full"]["contents"]]
    return "image", colours[call["returns"][call["row"]]], contents


def _differences(ours: Call, theirs: Mapping[str, Any], outcome: Outcome) -> list[str]:
    """What differs between a call and its recording."""
    if theirs["op"] != f"gen_{ours.kind}":
        return [f"we make an {ours.kind}" if ours.kind == "image" else f"we write a {ours.kind}"]
    if ours.kind == "text":
        return _text_differences(ours, theirs, outcome)
    return _image_differences(ours, theirs, outcome)


def _text_differences(ours: Call, theirs: Mapping[str, Any], outcome: Outcome) -> list[str]:
    if theirs.get("rows", 1) > 1:
        outcome.note(SHARED)
    temperature = theirs["temperature"] if theirs["do_sample"] else 0.0
    return [
        *_context_differences("context", ours.full, theirs),
        *_unequal("limit of tokens", ours.limit + 1, theirs["max_length"]),
        *_unequal("temperature", ours.temperature, temperature),
    ]


def _image_differences(ours: Call, theirs: Mapping[str, Any], outcome: Outcome) -> list[str]:
    """Contexts, size and settings of a drawing."""
    flow, computed = ours.flow, list(theirs["evaluated_when_guided"])
    found = _context_differences("context", ours.full, theirs["full"])
    scales = theirs["cfg_text_scale"], theirs["cfg_img_scale"] if "cfg_img" in computed else 1.0
    if scales[0] <= 1 and len(computed) > 1:
        outcome.note(UNGUIDED)
        computed, scales = ["full"], (scales[0], 1.0)
    if _same_branch(theirs, computed) and len(ours.guides) == 1:
        outcome.note(MERGED)
        computed.remove("cfg_img")
        scales = 1 + scales[1] * (scales[0] - 1), 1.0
    wanted = [name for name in ("cfg_text", "cfg_img") if name in computed]
    if len(ours.guides) != len(wanted):
        found.append(f"we compute {len(ours.guides)} contexts beside, the script {wanted}")
    for name, guide in zip(wanted, ours.guides):
        found += _context_differences(name, guide, theirs[name])
    image_scale = flow.image_scale if len(ours.guides) == 2 else 1.0
    if theirs.get("rows", 1) > 1 and flow.renorm == "global":
        outcome.note(BATCH)
    return [
        *found,
        *_unequal("size", list(ours.size), list(theirs["size"])),
        *_unequal("text scale", flow.text_scale, scales[0]),
        *_unequal("image scale", image_scale, scales[1]),
        *_flow_differences(flow, theirs),
    ]


def _same_branch(theirs: Mapping[str, Any], computed: list[str]) -> bool:
    """Whether the context without images is the full one, and may so be left out."""
    if "cfg_img" not in computed or theirs["cfg_renorm_type"] == "text_channel":
        return False
    keys = ("contents", "slots", "rope")
    return all(theirs["cfg_img"][key] == theirs["full"][key] for key in keys)


def _flow_differences(flow: FlowSettings, theirs: Mapping[str, Any]) -> list[str]:
    """Interval, renormalisation and steps."""
    guided = sum(last - first for first, last, on in flow.segments() if on)
    return [
        *_unequal("interval", list(flow.interval), list(theirs["cfg_interval"])),
        *_unequal("renormalisation", flow.renorm, theirs["cfg_renorm_type"]),
        *_unequal("its least factor", flow.renorm_min, theirs["cfg_renorm_min"]),
        *_unequal("points in time", flow.timesteps, theirs["num_timesteps"]),
        *_unequal("shift", flow.shift, theirs["timestep_shift"]),
        *_unequal("steps", flow.timesteps - 1, theirs["euler_steps"]),
        *_unequal("guided steps", guided, theirs["guided_steps"]),
        *_unequal("TaylorSeer", flow.cache is not None, theirs.get("taylorseer", False)),
        *_unequal("solver", flow.solver, "euler"),
    ]


def _context_differences(
    name: str, ours: Mapping[str, Any], theirs: Mapping[str, Any] | None
) -> list[str]:
    """Contents, slots and position of a context; an empty one has no position that matters."""
    if theirs is None:
        return [f"{name}: the script has none"]
    wanted = [_plain(part) for part in theirs["contents"]]
    for place, (one, two) in enumerate(zip(ours["contents"], wanted)):
        if one != two:
            return [f"{name}, part {place + 1}: {_short(one)}, not {_short(two)}"]
    if len(ours["contents"]) != len(wanted):
        more = ours["contents"][len(wanted) :] or wanted[len(ours["contents"]) :]
        verb = "has beside" if len(ours["contents"]) > len(wanted) else "lacks"
        return [f"{name}: ours {verb} {', '.join(map(_short, more))}"]
    if not wanted:
        return []
    return [
        *_unequal(f"{name}: slots", ours["slots"], theirs["slots"]),
        *_unequal(f"{name}: next position", ours["rope"], theirs["rope"]),
    ]


def _plain(part: Mapping[str, Any]) -> dict[str, Any]:
    keys = ("kind", "text") if part["kind"] == "text" else ("kind", "image", "size")
    return {key: part[key] for key in keys}


def _short(part: Mapping[str, Any]) -> str:
    """A part of a context in few words."""
    if part["kind"] != "text":
        return f"{part['kind']} of {part['image']} {part['size'][0]} x {part['size'][1]}"
    text = part["text"]
    return repr(text if len(text) <= 100 else f"{text[:60]} ... {text[-36:]}")


def _unequal(name: str, ours: Any, theirs: Any) -> list[str]:
    """A line where two values differ; numbers by more than rounding."""
    one, two = (np.asarray(value) for value in (ours, theirs))
    if one.dtype.kind in "biuf" and two.dtype.kind in "biuf" and one.shape == two.shape:
        equal = np.allclose(one, two, rtol=1e-9, atol=1e-12)
    else:
        equal = ours == theirs
    return [] if equal else [f"{name}: {ours}, not {theirs}"]


def _note_types(case: Mapping[str, Any], outcome: Outcome) -> None:
    if any(event.get("autocast") == "float16" for event in case["events"]):
        outcome.note(HALF)
