"""Presets as names of models: `unireason` is the checkpoint's own way, `unireason:NAME` a preset.

A short name stands for a preset of the checkpoint's system and for what is asked: of a model that
was trained in the embedded world, `unireason:refine` is `refine_t2i` for a prompt and `refine_edit`
for a picture; of a released UniReason, `unireason_refine` and `unireason_refine_edit`.
"""

import numpy as np

from unireason_jax.inference.preset import Preset
from unireason_jax.inference.reasoner import Reasoner
from unireason_jax.inference.systems import catalog
from unireason_jax.server.errors import Refusal

NAME = "unireason"
SHORT = ("t2i", "think", "refine", "edit", "process")
_ENDINGS = {"generate": ("_t2i",), "edit": ("_edit",), "ask": ("_understand",)}


class Models:
    """What a checkpoint can be asked for.

    Attributes:
      reasoner: the model.
      names: of all models, with what they are.
    """

    def __init__(self, reasoner: Reasoner):
        """Tries every preset: those stay that the checkpoint can do."""
        self.reasoner = reasoner
        own = reasoner.presets["generate"]
        self.system = own.split("_")[0] if own in catalog.SYSTEMS else ""
        able = {
            name: preset.about
            for name, preset in catalog.PRESETS.items()
            if self._can(name, preset)
        }
        self.names = {NAME: "the checkpoint's own way to draw, edit and answer"}
        for short in SHORT:
            found = [self._long(short, verb) for verb in ("generate", "edit")]
            if meant := [name for name in dict.fromkeys(found) if name in able]:
                self.names[f"{NAME}:{short}"] = "; ".join(able[name] for name in meant)
        self.names |= {f"{NAME}:{name}": about for name, about in able.items()}

    def preset(self, model: str, verb: str) -> str | None:
        """The preset of a model for a verb ("generate", "edit", "ask"); None is the verb's own.

        Raises:
          Refusal: there is no such model.
        """
        head, _, name = model.partition(":")
        found = self._long(name, verb)
        base = str(found).partition(":")[0]
        if head == NAME and (not name or f"{NAME}:{base}" in self.names):
            return found
        known = ", ".join(list(self.names)[:8])
        told = f"the model '{model[:80]}' does not exist; there are {known}, ... (GET /v1/models)."
        raise Refusal(404, told, param="model", code="model_not_found")

    def _long(self, name: str, verb: str) -> str | None:
        """The preset that a name means."""
        first = f"{self.system}_" if self.system else ""
        for ending in ("", *_ENDINGS[verb]):
            for start in dict.fromkeys((first, "")):
                try:
                    found = catalog.find(f"{start}{name}{ending}")
                except ValueError:
                    continue
                if verb != "edit" or found.needs_image or ending or not self._edits(name):
                    return f"{start}{name}{ending}"
        return None

    def _edits(self, name: str) -> bool:
        """Whether a short name has a preset of its own for edits."""
        first = f"{self.system}_" if self.system else ""
        return f"{first}{name}_edit" in catalog.PRESETS

    def _can(self, name: str, preset: Preset) -> bool:
        """Whether the checkpoint can do it."""
        if name in catalog.SYSTEMS and name.split("_")[0] != self.system:
            return False
        height, width = self.reasoner.settings.size
        image = {"image": np.zeros((height, width, 3), np.uint8)} if preset.needs_image else {}
        try:
            settings = preset.settings(self.reasoner.settings)
            request = preset.request("a", style=self.reasoner.style, **image)
            self.reasoner.check(request, settings)
        except ValueError:
            return False
        return True
