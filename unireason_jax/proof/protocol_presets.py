"""Which preset walks a recorded case: from its system, script, arguments and inputs."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unireason_jax.inference.settings import FlowSettings, Settings, TextSettings
from unireason_jax.inference.systems import catalog
from unireason_jax.inference.systems.bagel import APP_DRAW, CALL_DEFAULTS, NOTEBOOK_DRAW

_FLOW = {
    "cfg_text_scale": "text_scale",
    "cfg_scale": "text_scale",
    "cfg_img_scale": "image_scale",
    "cfg_interval": "interval",
    "timestep_shift": "shift",
    "num_timesteps": "timesteps",
    "cfg_renorm_min": "renorm_min",
    "cfg_renorm_type": "renorm",
}
_LIMITS = ("max_think_token_n", "max_new_tokens", "max_length")
_WITH_PLAN_ONLY = {"unireason_wise_refine": "", "unireason_kris_refine": "_released"}
_DRAWING_CELLS, _THINKING_CELLS, _ANSWERING_CELLS = (13, 16, 32), (16, 24), (28,)


class Unknown(ValueError):
    """No preset is known for a case."""


@dataclasses.dataclass(frozen=True)
class Walk:
    """How a case is walked.

    Attributes:
      preset: its name.
      request: what `Preset.request` is given.
      settings: of the reasoner.
      samples: conversations.
      limited: the case says how long a text may be; where a caller of `Bagel.chat` said it, the
        case does not.
    """

    preset: str
    request: Mapping[str, Any]
    settings: Settings
    samples: int = 1
    limited: bool = True


def walk_of(case: Mapping[str, Any], pictures: Mapping[str, Any]) -> Walk:
    """The walk of a case.

    Args:
      case: a recording.
      pictures: uint8 [H, W, 3] by name.

    Raises:
      Unknown: its system, script or inputs are none we know.
    """
    given = _arguments(case["source"]) | _cell(case["source"])
    request = _request(case["inputs"], pictures)
    name = _preset(case, given, request)
    inherited = f"bagel_{name.removeprefix(case['system'] + '_')}"
    if name not in catalog.PRESETS and inherited in catalog.PRESETS:
        name = inherited  # the siblings are forks of BAGEL: what they left alone is its own
    if name not in catalog.PRESETS:
        raise Unknown(f"no preset '{name}' for {case['system']}'s {case['source']['file']}")
    preset = catalog.PRESETS[name]
    if preset.in_parts and "parts" not in request:
        image, text = request.get("image", []), request["text"]
        request = {"parts": [*({"image": one} for one in image), {"text": text}]}
    rows = int(given.get("batch_size", 1))
    usual = Settings(batch_rows=rows, share_texts=rows, by_codes=preset.codes is not None)
    settings = preset.settings(usual)
    if name.endswith("interleaved") and case["source"].get("cell") in _DRAWING_CELLS:
        settings = dataclasses.replace(settings, flow=NOTEBOOK_DRAW)
    if Path(case["source"]["file"]).name == "inferencer.py":
        settings = dataclasses.replace(settings, flow=CALL_DEFAULTS)
    settings = _overridden(settings, given, name)
    if "size" in case["inputs"]:
        settings = dataclasses.replace(settings, size=tuple(case["inputs"]["size"]))
    limited = name != "bagel_vlm" or bool(given.keys() & set(_LIMITS))
    return Walk(name, request, settings, int(case["inputs"].get("samples", 1)), limited)


def _preset(case: Mapping[str, Any], given: Mapping[str, Any], request: Mapping[str, Any]) -> str:
    """Name of the preset, which may not exist."""
    system, source = case["system"], case["source"]
    file, function = Path(source["file"]).name, str(source.get("function", ""))
    thinks = bool(given.get("think", given.get("show_thinking", False)))
    found = re.fullmatch(r"gen_images(?:_mp)?(?:_(\w+))?\.py", file)
    if found:
        return _script(f"{system}_{found[1] or 'geneval'}", thinks)
    if system == "irg" and "multi_turn" in f"{file} {function}":
        return "irg_released"
    if system == "bagel" and function.endswith("chat"):
        return "bagel_vlm"
    if file == "app.py":
        return _app(system, function, thinks)
    if _is_notebook(case) or file in ("infer.py", "inferencer.py"):
        always = file == "infer.py" and "question" not in case["inputs"]
        thinks = bool(given.get("think", given.get("show_thinking", always)))
        return _interactive(case, given, request, thinks)
    raise Unknown(f"{system}'s {source['file']} {function} is no script we know")


def _script(name: str, thinks: bool) -> str:
    if name in _WITH_PLAN_ONLY:
        if not thinks:
            raise Unknown(f"{name} refines what a plan says; without --think there is none")
        return name + _WITH_PLAN_ONLY[name]
    return f"{name}_think" if thinks else name


def _app(system: str, function: str, thinks: bool) -> str:
    tasks = {
        "text_to_image": "t2i_released",
        "edit_image": "edit_released" if thinks else "edit",
        "image_understanding": "understand_released",
    }
    if function not in tasks:
        raise Unknown(f"{system}'s app.py has no {function!r} that we know")
    return f"{system}_{'think_' * thinks}{tasks[function]}"


def _interactive(
    case: Mapping[str, Any], given: Mapping[str, Any], request: Mapping[str, Any], thinks: bool
) -> str:
    """What BAGEL's interleaved inference is asked: an answer, a picture, an edit."""
    answers = bool(given.get("understanding_output")) or "question" in case["inputs"]
    pictures = "image" in request
    if answers:
        task = "understand" if pictures else "chat"
    elif "parts" in request:
        task = "interleaved"
    else:
        task = "edit" if pictures else "t2i"
    return f"{case['system']}_{'think_' * thinks}{task}"


def _is_notebook(case: Mapping[str, Any]) -> bool:
    return case["source"]["file"].endswith(".ipynb")


def _request(inputs: Mapping[str, Any], pictures: Mapping[str, Any]) -> dict[str, Any]:
    """What the user gives, for `Preset.request`."""
    if "list" in inputs:
        parts = []
        for part in inputs["list"]:
            name = part.removeprefix("@")
            picture = part.startswith("@") and name in pictures
            parts.append({"image": pictures[name]} if picture else {"text": part})
        return {"parts": parts}
    texts = [inputs[key] for key in ("prompt", "instruction", "question") if key in inputs]
    if len(texts) != 1:
        raise Unknown(f"its inputs are {sorted(inputs)}; we know prompt, instruction or question")
    names = inputs.get("image", inputs.get("images", []))
    names = names if isinstance(names, list) else [names]
    missing = [name for name in names if name not in pictures]
    if missing:
        raise Unknown(f"its inputs name pictures that it does not list: {missing}")
    image = {"image": [pictures[name] for name in names]} if names else {}
    return {"text": texts[0], **image}


def _arguments(source: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments by name: of a function, a notebook's call, or a command line."""
    given = source.get("arguments", source.get("call", {}))
    if isinstance(given, Mapping):
        return dict(given)
    return _flags(given) if "arguments" in source else {}


def _cell(source: Mapping[str, Any]) -> dict[str, Any]:
    """What the cell of a notebook adds to a call that is only a list."""
    cell = source.get("cell")
    if not isinstance(source.get("call"), list):
        return {}
    return {"think": cell in _THINKING_CELLS, "understanding_output": cell in _ANSWERING_CELLS}


def _flags(line: Sequence[str]) -> dict[str, Any]:
    """A command line's flags: True where no value follows."""
    found: dict[str, Any] = {}
    name = ""
    for word in map(str, line):
        if word.startswith("--"):
            name, _, value = word[2:].replace("-", "_").partition("=")
            found[name] = value or True
        elif name:
            old = found[name]
            found[name] = word if old is True else f"{old} {word}"
    return found


def _overridden(settings: Settings, given: Mapping[str, Any], name: str) -> Settings:
    """Settings with the values that the caller passed in their place."""
    changes: dict[str, Any] = {}
    if name.startswith("irg"):
        turns = {"flow": "_turn1", "refine": "_turn2"}
        for field, end in turns.items():
            changes[field] = _flow(getattr(settings, field), given, end)
    else:
        field = "refine" if settings.refine else "flow"
        base = getattr(settings, field)
        if name == "bagel_t2i_released" and given.keys() & _FLOW.keys():
            base = APP_DRAW
        changes[field] = _flow(base, given, "")
    limits = [int(given[key]) - 1 for key in _LIMITS if key in given]
    if limits:
        changes["max_text"] = limits[0]
    if "resolution" in given:
        changes["size"] = (int(given["resolution"]),) * 2
    usual = 1.0 if name == "bagel_vlm" else 0.3
    changes["text"] = _text(settings.text, given, usual)
    return dataclasses.replace(settings, **changes)


def _flow(base: FlowSettings, given: Mapping[str, Any], end: str) -> FlowSettings:
    """Flow settings with the arguments whose names end so."""
    values = {field: given[key + end] for key, field in _FLOW.items() if key + end in given}
    for field, value in values.items():
        if field == "interval":
            value = value.split() if isinstance(value, str) else value
            pair = value if isinstance(value, list | tuple) and len(value) == 2 else None
            low = value[0] if isinstance(value, list) and len(value) == 1 else value
            values[field] = tuple(map(float, pair)) if pair else (float(low), 1.0)
        elif field != "renorm":
            values[field] = int(value) if field == "timesteps" else float(value)
    return dataclasses.replace(base, **values)


def _text(base: TextSettings, given: Mapping[str, Any], usual: float) -> TextSettings:
    """How texts are chosen, as the caller says."""
    if "do_sample" not in given:
        return base
    sampled = str(given["do_sample"]) not in ("False", "false", "0")
    temperature = float(given.get("text_temperature", given.get("temperature", usual)))
    return TextSettings(temperature if sampled else 0.0)
