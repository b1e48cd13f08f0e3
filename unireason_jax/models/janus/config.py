"""Sizes of Janus-Pro models and of their VQ tokenizer.

`JANUS_VARIANTS` names the released ones, and `janus_nano` (tests) and `janus_world` (the embedded
world), whose tokenizers are made to measure.
"""

import dataclasses

from unireason_jax.models.sizes import LLMConfig, Policies, ViTConfig


@dataclasses.dataclass(frozen=True)
class CodesConfig:
    """The discrete tokens that a picture is drawn with.

    Attributes:
      size: number of codes; columns of the generation head.
      width: numbers per row of the table that codes are read through.
      side: codes per side of a picture, which has side * side of them in reading order.
    """

    size: int = 16384
    width: int = 8
    side: int = 24

    @property
    def count(self) -> int:
        """Codes of a picture."""
        return self.side**2


@dataclasses.dataclass(frozen=True)
class VQConfig:
    """The VQ tokenizer (LlamaGen's VQ-16).

    Attributes:
      image_channels: 3.
      channels: width of the first level.
      multipliers: width of every level, as multiples of `channels`; each but the last halves the
        resolution.
      blocks: residual blocks per level of the encoder; the decoder has one more.
      latents: channels between the encoder and the codebook's projection.
      codes: rows of the codebook.
      code_width: numbers per row.
      groups: groups of every norm.
      norm_eps: epsilon of every norm.
    """

    image_channels: int = 3
    channels: int = 128
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    blocks: int = 2
    latents: int = 256
    codes: int = 16384
    code_width: int = 8
    groups: int = 32
    norm_eps: float = 1e-6

    @property
    def stride(self) -> int:
        """Pixels per code and side."""
        return 2 ** (len(self.multipliers) - 1)


@dataclasses.dataclass(frozen=True)
class JanusConfig(Policies):
    """A whole Janus: sizes, and the policies that change speed and memory but not the formula.

    Attributes:
      llm: the language model, with one expert.
      codes: the tokens that pictures are drawn with.
      vit: the vision tower, or None for a model that is never shown images.
    """

    llm: LLMConfig
    codes: CodesConfig
    vit: ViTConfig | None = None

    def __post_init__(self) -> None:
        """Raises ValueError on sizes or names that cannot work."""
        self.check(self.llm, self.vit)
        if self.llm.experts != 1:
            raise ValueError(f"llm: Janus has one expert, not {self.llm.experts}.")


def _llama(**sizes: int) -> LLMConfig:
    """A LLaMA-shaped decoder with plain multi-head attention."""
    heads = sizes["heads"]
    fixed = {"kv_heads": heads, "head_dim": sizes["width"] // heads, "rope_theta": 1e4}
    return LLMConfig(**sizes, **fixed, qk_norm=False, qkv_bias=False, experts=1)


SIGLIP_LARGE = ViTConfig(width=1024, layers=24, heads=16, mlp=4096, patch=16, side=24, gelu="erf")
_RELEASED = {"vit": SIGLIP_LARGE, "dtype": "bfloat16", "remat": "full", "chunk": 512}

JANUS_VARIANTS: dict[str, JanusConfig] = {
    "janus_nano": JanusConfig(
        llm=_llama(width=32, layers=2, heads=4, mlp=64, vocab=384),
        vit=ViTConfig(width=24, layers=2, heads=2, mlp=48, patch=4, side=4, gelu="erf"),
        codes=CodesConfig(size=64, width=8, side=4),
    ),
    "janus_world": JanusConfig(
        llm=_llama(width=320, layers=6, heads=8, mlp=960, vocab=512),
        vit=ViTConfig(width=128, layers=3, heads=4, mlp=384, patch=8, side=16, gelu="erf"),
        codes=CodesConfig(size=512, width=8, side=8),
        chunk=32,
        unroll=6,
    ),
    "janus_pro_1b": JanusConfig(
        llm=_llama(width=2048, layers=24, heads=16, mlp=5632, vocab=102400),
        codes=CodesConfig(),
        **_RELEASED,
    ),
    "janus_pro_7b": JanusConfig(
        llm=_llama(width=4096, layers=30, heads=32, mlp=11008, vocab=102400),
        codes=CodesConfig(),
        **_RELEASED,
    ),
}
