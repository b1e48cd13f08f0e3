"""All presets by name: how each system samples.

`NAME` is as the system was trained or as its demonstration samples, `NAME_released` as its released
script does where that differs, and `SYSTEM_BENCHMARK` as the evaluation script of a benchmark does:
that one gives the figure of a paper. Templates that can start from a request are presets of their
own name, with the settings and the style of the reasoner. `NAME:fast` is any of them in fewer
passes an image.
"""

import dataclasses
import difflib

from unireason_jax.data.templates import REQUESTS
from unireason_jax.inference.preset import IMAGE_KEY, Preset
from unireason_jax.inference.systems.bagel import BAGEL
from unireason_jax.inference.systems.irg import IRG
from unireason_jax.inference.systems.janus import JANUS
from unireason_jax.inference.systems.process_driven import PROCESS, grow_process
from unireason_jax.inference.systems.uni_edit import UNI_EDIT
from unireason_jax.inference.systems.unireason import UNIREASON

VERBS = {
    "bagel": {"generate": "bagel_t2i", "edit": "bagel_edit", "ask": "bagel_understand"},
    "unireason": {"generate": "unireason_t2i", "edit": "unireason_edit", "ask": "bagel_understand"},
    "irg": {"generate": "irg", "edit": "bagel_edit", "ask": "bagel_understand"},
    "uni_edit": {
        "generate": "uni_edit_t2i",
        "edit": "uni_edit_direct",
        "ask": "uni_edit_understand",
    },
    "janus": {"generate": "janus_t2i", "edit": "janus_edit", "ask": "janus_understand"},
    "process": {"generate": "process_driven", "edit": "bagel_edit", "ask": "bagel_understand"},
}
"""By system, the presets of `generate`, `edit` and `ask` for a model of the released sizes."""
SUFFIX = ":fast"
SYSTEMS: dict[str, Preset] = BAGEL | UNIREASON | IRG | PROCESS | UNI_EDIT | JANUS
_ASKED = {*IMAGE_KEY, "t2i", "think_t2i", "refine_t2i", "irg_improving_full"}
_ASKED |= {"interleaved", "think_interleaved", "answer", "rethink_t2i"}
PRESETS: dict[str, Preset] = {
    name: Preset(f"the template {name}, as the checkpoint was trained", name, None, rounds=3)
    for name in REQUESTS
    if name in _ASKED
} | {"process": Preset("the template process", "process", None, rounds=8, grow=grow_process)}
PRESETS |= SYSTEMS
PRESETS = {name: dataclasses.replace(preset, name=name) for name, preset in PRESETS.items()}


def verbs_of(system: str) -> dict[str, str]:
    """Presets of `generate`, `edit` and `ask` of a system; BAGEL's where none is known."""
    return VERBS.get(system, VERBS["bagel"])


def find(name: str) -> Preset:
    """The preset of a name, or of a name and ":fast".

    Raises:
      ValueError: there is none, the message names the nearest and lists all; or it draws code by
        code, which nothing makes faster.
    """
    plain = name.removesuffix(SUFFIX)
    if plain != name and plain in PRESETS:
        if PRESETS[plain].codes is not None:
            raise ValueError(f"preset '{name}' draws code by code; leave '{SUFFIX}' out.")
        return dataclasses.replace(PRESETS[plain], name=name, fast=True)
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise ValueError(f"unknown preset '{name}'; {hint}there are {', '.join(sorted(PRESETS))}.")
    return PRESETS[name]


def table() -> str:
    """All presets, one a line: name, what it is, where its values are from; and the suffix."""
    width = max(map(len, PRESETS))
    lines = [
        f"{name:<{width}}  {preset.about}" + (f"  [{preset.source}]" if preset.source else "")
        for name, preset in PRESETS.items()
    ]
    return "\n".join([*lines, f"{f'NAME{SUFFIX}':<{width}}  any of them in fewer passes an image"])
