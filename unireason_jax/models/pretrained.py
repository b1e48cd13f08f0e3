"""A fresh BAGEL from a released Qwen2.5, a released SigLIP, or both, as its authors started.

The gen expert starts as a copy of the und expert, and what no release gives (query-key norms,
connector, latent and time maps, velocity head; the language model, if only a SigLIP is given) as
in a model from scratch. The result looks like an archive of BAGEL's tensors, so that it is
converted like one.
"""

import math
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from etils import epath

from unireason_jax.models import functional, released
from unireason_jax.models.archive import Archive, read_json
from unireason_jax.models.config import BagelConfig, LatentConfig, LLMConfig, ViTConfig
from unireason_jax.models.official_names import LLM, VIT, at_path, layout

WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
HEAD = "language_model.lm_head.weight"


class FreshStart:
    """The tensors of a new model by BAGEL's names; reads like an `Archive`."""

    def __init__(
        self,
        llm: epath.PathLike | LLMConfig,
        vit: epath.PathLike | None,
        *,
        latent: LatentConfig,
        seed: int = 0,
    ):
        """Opens the two folders.

        Args:
          llm: folder of a Qwen2.5 release: config.json and model.safetensors (or its shards); or
            the sizes of a language model that is drawn.
          vit: folder of a SigLIP release with linear or convolutional patch embedding; None for a
            model without a vision tower.
          latent: the latent tokens.
          seed: of what is drawn.

        Raises:
          FileNotFoundError, ValueError: a file or tensor is missing or misshaped.
        """
        drawn = isinstance(llm, LLMConfig)
        self._llm = None if drawn else Archive(_weights(llm))
        self._vit = Archive(_weights(vit)) if vit is not None else None
        self._seed = seed
        self.config = BagelConfig(
            llm=llm if drawn else _llm_config(epath.Path(llm)),
            vit=_vit_config(epath.Path(vit)) if vit is not None else None,
            latent=latent,
        )
        self.path = epath.Path(vit if drawn else llm)
        table, starts = layout(self.config), functional.starts(self.config)
        self._shapes = {name: t.shape for t in table.values() for name in t.names}
        self._starts = {name: at_path(starts, p) for p, t in table.items() for name in t.names}

    @property
    def sources(self) -> list[Archive]:
        """The files that are read."""
        return [archive for archive in (self._llm, self._vit) if archive is not None]

    def __iter__(self) -> Iterator[str]:
        """Tensor names."""
        return iter(self._shapes)

    def __contains__(self, name: str) -> bool:
        """Whether the model has a tensor of this name."""
        return name in self._shapes

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, checked against its source."""
        found = self._source(name)
        if found is None:
            return self._shapes[name]
        archive, source = found
        if source not in archive:
            raise ValueError(f"{archive.path}: tensor {source!r} is missing.")
        stored = archive.shape(source)
        return (stored[0], math.prod(stored[1:])) if len(stored) == 4 else stored

    def dtype(self, name: str) -> str:
        """Element type of a tensor; float32 where it is drawn."""
        found = self._source(name)
        return "F32" if found is None else found[0].dtype(found[1])

    def read(self, name: str, window: tuple[slice, ...] = ()) -> np.ndarray:
        """A tensor, or the part that a tuple of slices selects."""
        found = self._source(name)
        value = self._drawn(name) if found is None else found[0].read(found[1])
        if value.ndim == 4:  # a convolution over patches: [out, channel, row, column]
            value = value.transpose(0, 2, 3, 1).reshape(len(value), -1)
        return value[window]

    def _source(self, name: str) -> tuple[Archive, str] | None:
        """Where a tensor comes from; None if nowhere."""
        if name.startswith(VIT):
            return self._vit, name.removeprefix("vit_model.")
        if self._llm is None or not (name.startswith(LLM) or name == HEAD):
            return None
        source = name.removeprefix("language_model.").replace("_moe_gen", "")
        if source == "lm_head.weight" and source not in self._llm:
            source = "model.embed_tokens.weight"  # tied
        if ("q_norm" in source or "k_norm" in source) and source not in self._llm:
            return None
        return self._llm, source

    def _drawn(self, name: str) -> np.ndarray:
        """As `functional.init` draws it, and the same for both experts."""
        mean, std = self._starts[name]
        value = np.full(self._shapes[name], mean, np.float32)
        if std:
            expert = name.replace("_moe_gen", "")
            rng = np.random.default_rng([self._seed, zlib.crc32(expert.encode())])
            rng.standard_normal(dtype=np.float32, out=value)
            value *= np.float32(std)
            value += np.float32(mean)
        return value


def _weights(folder: epath.PathLike) -> epath.Path:
    """The weight file or index of a folder."""
    for name in WEIGHTS:
        if (epath.Path(folder) / name).exists():
            return epath.Path(folder) / name
    raise FileNotFoundError(f"{folder}: no weights; looked for {', '.join(WEIGHTS)}.")


def _llm_config(folder: epath.Path) -> LLMConfig:
    """Sizes of a Qwen2.5 release, with BAGEL's query-key norms."""
    file = folder / "config.json"
    return released.llm_config(read_json(file), file, qk_norm=True)


def _vit_config(folder: epath.Path) -> ViTConfig:
    """Sizes of a SigLIP release; its last layer is not used (as in BAGEL)."""
    file = folder / "config.json"
    values: dict[str, Any] = read_json(file)
    vision = values.get("vision_config", values)
    if not isinstance(vision, dict):
        raise ValueError(f"{file}: field 'vision_config' is no table.")
    return released.vit_config(vision, file)
