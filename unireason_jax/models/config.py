"""Sizes and policies of the models, as frozen values that can key a cache.

`VARIANTS` names the ones in use: `nano` (tests), `world` (the embedded world), `small` (the CPU
benchmark) and `bagel_7b_mot` (the released BAGEL and UniReason checkpoints).
"""

import dataclasses
import difflib
from typing import Any

DTYPES = ("float32", "bfloat16")
REMAT = ("none", "full", "save_attention", "save_matmuls")
ATTENTION = ("auto", "dense", "chunked", "flash")


def _one_of(field: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises ValueError unless value is one of the choices."""
    if value not in choices:
        raise ValueError(f"model.{field}: {value!r} is not one of {', '.join(choices)}.")


@dataclasses.dataclass(frozen=True)
class LLMConfig:
    """A Qwen2.5-shaped decoder, each layer of which has an und and a gen expert.

    Attributes:
      width: residual width D.
      layers: number of layers L.
      heads: query heads N.
      kv_heads: key and value heads K; divides `heads`.
      head_dim: head size H, even.
      mlp: hidden width F of the gated MLP.
      vocab: rows of the embedding table and columns of the head.
      rope_theta: base of the rotary angles.
      norm_eps: epsilon of every RMS norm.
      qk_norm: whether queries and keys are RMS-normalised over the head before the rotation.
    """

    width: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    vocab: int
    rope_theta: float = 1e6
    norm_eps: float = 1e-6
    qk_norm: bool = True


@dataclasses.dataclass(frozen=True)
class ViTConfig:
    """A SigLIP-shaped vision transformer on packed patches.

    Attributes:
      width: residual width; the head size is width / heads.
      layers: layers that are run (the released configs count one more, which is unused).
      heads: attention heads.
      mlp: hidden width of the MLP.
      patch: pixels per side of a patch.
      side: patches per side of the fixed table; a position is row * side + column (BAGEL's
        vit_max_num_patch_per_side).
      norm_eps: epsilon of every layer norm.
      learned: rows of the tower's own position table, indexed by the same positions; None for
        side * side, as in every released model.
    """

    width: int
    layers: int
    heads: int
    mlp: int
    patch: int
    side: int
    norm_eps: float = 1e-6
    learned: int | None = None


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
class BagelConfig:
    """A whole model: sizes, and the policies that change speed and memory but not the formula.

    Attributes:
      llm: the two-expert language model.
      latent: the latent tokens.
      vit: the vision tower, or None for a model that is never shown images.
      dtype: of the matmuls; residuals, norms, softmax, rotations and latents are float32 always.
      remat: what the backward pass recomputes. "none": nothing; "full": every layer from its
        input; "save_attention": like full, but attention outputs are kept; "save_matmuls": only
        what is not a projection.
      attention: backend of `models.attention.attend`; "auto" is dense for few queries, else
        flash on TPU and GPU and chunked on CPU.
      chunk: tokens of a block of the chunked backend, queries and keys alike.
      unroll: layers in one turn of the loop over layers; all of them saves a quarter of the time
        of a step on a CPU, and costs compile time.
      apart: every layer has arrays of its own instead of a slice of one stack. A loop that runs
        the model many times then never copies a slice; see `functional.for_sampling`.
    """

    llm: LLMConfig
    latent: LatentConfig
    vit: ViTConfig | None = None
    dtype: str = "float32"
    remat: str = "none"
    attention: str = "auto"
    chunk: int = 128
    unroll: int = 1
    apart: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError on sizes or names that cannot work."""
        _one_of("dtype", self.dtype, DTYPES)
        _one_of("remat", self.remat, REMAT)
        _one_of("attention", self.attention, ATTENTION)
        llm, vit = self.llm, self.vit
        if llm.heads % llm.kv_heads:
            raise ValueError(
                f"llm: {llm.heads} heads is not a multiple of {llm.kv_heads} kv_heads."
            )
        if llm.head_dim % 2:
            raise ValueError(f"llm: head_dim {llm.head_dim} must be even for the rotary halves.")
        if llm.width % 4:
            raise ValueError(f"llm: width {llm.width} must be a multiple of 4 (sin-cos table).")
        if vit is not None and vit.width % vit.heads:
            raise ValueError(f"vit: width {vit.width} is not a multiple of {vit.heads} heads.")
        for name in ("chunk", "unroll"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"{name} must be >= 1, not {value}.")


VARIANTS: dict[str, BagelConfig] = {
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


def variant(name: str, **overrides: Any) -> BagelConfig:
    """A named variant with fields replaced.

    Args:
      name: a key of `VARIANTS`.
      **overrides: fields of BagelConfig; `llm`, `vit` and `latent` also take a dict of fields to
        replace inside them, e.g. `variant("nano", llm={"layers": 3}, remat="full")`.

    Raises:
      ValueError: unknown variant or field; the message names the nearest one.
    """
    if name not in VARIANTS:
        raise ValueError(f"model: unknown variant {name!r}; did you mean {_near(name, VARIANTS)}?")
    return _replace(VARIANTS[name], overrides, "model")


def to_dict(config: BagelConfig) -> dict[str, Any]:
    """The config as nested plain values, ready for JSON."""
    return dataclasses.asdict(config)


def from_dict(values: dict[str, Any]) -> BagelConfig:
    """Inverse of `to_dict`. Raises ValueError naming an unknown or missing field."""
    parts = {"llm": LLMConfig, "vit": ViTConfig, "latent": LatentConfig}
    fields = {f.name for f in dataclasses.fields(BagelConfig)}
    _known("model", values, fields)
    out = dict(values)
    for name, cls in parts.items():
        if out.get(name) is not None:
            _known(name, out[name], {f.name for f in dataclasses.fields(cls)})
            try:
                out[name] = cls(**out[name])
            except TypeError as error:
                raise ValueError(f"model.{name}: {error}") from error
    try:
        return BagelConfig(**out)
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
