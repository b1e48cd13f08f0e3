"""Sizes and policies of the models, as frozen values that can key a cache.

`VARIANTS` names the ones in use: `nano` (tests), `world` (the embedded world), `small` (the CPU
benchmark), `bagel_7b_mot` (the released BAGEL and UniReason checkpoints), and those of Janus (see
`models.janus.config`).
"""

import dataclasses
import difflib
from typing import Any

from unireason_jax.models.janus.config import JANUS_VARIANTS, CodesConfig, JanusConfig
from unireason_jax.models.sizes import (
    LLMConfig,
    LoraConfig,
    Policies,
    QuantizedConfig,
    ViTConfig,
)


@dataclasses.dataclass(frozen=True)
class LatentConfig:
    """How image latents become tokens.

    Attributes:
      channels: channels of the autoencoder's latent.
      patch: latents per side of one token.
      side: tokens per side of the position table; a position is row * side + column. BAGEL calls
        it max_latent_size, and a checkpoint trained with one value is wrong with another.
    """

    channels: int
    patch: int
    side: int

    @property
    def features(self) -> int:
        """Numbers per latent token, ordered (row, column, channel) inside the patch."""
        return self.channels * self.patch**2


@dataclasses.dataclass(frozen=True)
class VAEConfig:
    """The FLUX.1 autoencoder.

    Attributes:
      image_channels: 3.
      channels: width of the first level.
      multipliers: width of every level, as multiples of `channels`; each but the last halves the
        resolution.
      blocks: residual blocks per level of the encoder; the decoder has one more.
      latents: channels C of a latent.
      scale: latent = scale * (z - shift).
      shift: see `scale`.
    """

    image_channels: int = 3
    channels: int = 128
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    blocks: int = 2
    latents: int = 16
    scale: float = 0.3611
    shift: float = 0.1159

    @property
    def stride(self) -> int:
        """Pixels per latent and side."""
        return 2 ** (len(self.multipliers) - 1)


@dataclasses.dataclass(frozen=True)
class BagelConfig(Policies):
    """A whole BAGEL: sizes, and the policies that change speed and memory but not the formula.

    Attributes:
      llm: the two-expert language model.
      latent: the latent tokens.
      vit: the vision tower, or None for a model that is never shown images.
    """

    llm: LLMConfig
    latent: LatentConfig
    vit: ViTConfig | None = None

    def __post_init__(self) -> None:
        """Raises ValueError on sizes or names that cannot work."""
        self.check(self.llm, self.vit)
        if self.llm.width % 4:
            raise ValueError(
                f"llm: width {self.llm.width} must be a multiple of 4 (sin-cos table)."
            )


ModelConfig = BagelConfig | JanusConfig
_ADDED = {"lora": LoraConfig, "quantized": QuantizedConfig}
BAGEL_VARIANTS: dict[str, BagelConfig] = {
    "nano": BagelConfig(
        llm=LLMConfig(width=32, layers=2, heads=4, kv_heads=2, head_dim=8, mlp=64, vocab=128),
        vit=ViTConfig(width=24, layers=2, heads=2, mlp=48, patch=4, side=8),
        latent=LatentConfig(channels=4, patch=2, side=8),
    ),
    "world": BagelConfig(
        llm=LLMConfig(width=256, layers=6, heads=8, kv_heads=4, head_dim=32, mlp=768, vocab=512),
        vit=ViTConfig(width=128, layers=3, heads=4, mlp=384, patch=8, side=16),
        latent=LatentConfig(channels=24, patch=1, side=16),
        chunk=32,
        unroll=6,
    ),
    "small": BagelConfig(
        llm=LLMConfig(width=512, layers=8, heads=8, kv_heads=4, head_dim=64, mlp=1536, vocab=8192),
        vit=ViTConfig(width=256, layers=4, heads=4, mlp=1024, patch=14, side=70),
        latent=LatentConfig(channels=16, patch=2, side=32),
        chunk=256,
        unroll=8,
    ),
    "bagel_7b_mot": BagelConfig(
        llm=LLMConfig(
            width=3584, layers=28, heads=28, kv_heads=4, head_dim=128, mlp=18944, vocab=152064
        ),
        vit=ViTConfig(width=1152, layers=26, heads=16, mlp=4304, patch=14, side=70),
        latent=LatentConfig(channels=16, patch=2, side=64),
        dtype="bfloat16",
        remat="full",
        chunk=512,
    ),
}
VARIANTS: dict[str, ModelConfig] = BAGEL_VARIANTS | JANUS_VARIANTS


def variant(name: str, **overrides: Any) -> ModelConfig:
    """A named variant with fields replaced.

    Args:
      name: a key of `VARIANTS`.
      **overrides: fields of the config; `llm`, `vit`, `latent` and `codes` also take a dict of
        fields to replace inside them, e.g. `variant("nano", llm={"layers": 3}, remat="full")`.

    Raises:
      ValueError: unknown variant or field; the message names the nearest one.
    """
    if name not in VARIANTS:
        raise ValueError(f"model: unknown variant {name!r}; did you mean {_near(name, VARIANTS)}?")
    return _replace(VARIANTS[name], overrides, "model")


def to_dict(config: ModelConfig) -> dict[str, Any]:
    """The config as nested plain values, ready for JSON; adapters only where there are any."""
    values = dataclasses.asdict(config)
    return {k: v for k, v in values.items() if k not in _ADDED or v is not None}


def from_dict(values: dict[str, Any]) -> ModelConfig:
    """Inverse of `to_dict`. Raises ValueError naming an unknown or missing field."""
    parts = {"llm": LLMConfig, "vit": ViTConfig, "latent": LatentConfig, "codes": CodesConfig}
    parts |= _ADDED
    made = JanusConfig if "codes" in values else BagelConfig
    fields = {f.name for f in dataclasses.fields(made)}
    _known("model", values, fields)
    out = dict(values)
    for name, cls in parts.items():
        if out.get(name) is not None:
            _known(name, out[name], {f.name for f in dataclasses.fields(cls)})
            given = {k: tuple(v) if isinstance(v, list) else v for k, v in out[name].items()}
            try:
                out[name] = cls(**given)
            except TypeError as error:
                raise ValueError(f"model.{name}: {error}") from error
    try:
        return made(**out)
    except TypeError as error:
        raise ValueError(f"model: {error}") from error


def _replace(value: Any, overrides: dict[str, Any], where: str) -> Any:
    """`dataclasses.replace` that goes into nested configs and names wrong fields."""
    fields = {f.name for f in dataclasses.fields(value)}
    _known(where, overrides, fields)
    changes = {}
    for name, new in overrides.items():
        old = getattr(value, name)
        nested = isinstance(new, dict) and dataclasses.is_dataclass(old)
        changes[name] = _replace(old, new, f"{where}.{name}") if nested else new
    return dataclasses.replace(value, **changes)


def _known(where: str, names: Any, allowed: set[str]) -> None:
    """Raises ValueError for the first name that is not allowed."""
    for name in names:
        if name not in allowed:
            raise ValueError(
                f"{where}: unknown field {name!r}; did you mean {_near(name, allowed)}?"
            )


def _near(name: str, choices: Any) -> str:
    """The closest choice, quoted."""
    return repr((difflib.get_close_matches(name, choices, n=1, cutoff=0.0) or [""])[0])
