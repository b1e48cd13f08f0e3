"""The parts that configs of several backbones are made of, as frozen values."""

import dataclasses

DTYPES = ("float32", "bfloat16")
REMAT = ("none", "full", "save_attention", "save_matmuls")
ATTENTION = ("auto", "dense", "chunked", "flash")
GELU = ("tanh", "erf")
QUANTIZED = ("int8", "nf4")
LORA_TARGETS = ("^stack/blocks/(und|gen)/(query|key|value|out|gate|up|down)/kernel$",)


def one_of(field: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises ValueError unless value is one of the choices."""
    if value not in choices:
        raise ValueError(f"model.{field}: {value!r} is not one of {', '.join(choices)}.")


@dataclasses.dataclass(frozen=True)
class LLMConfig:
    """A Qwen2.5- or LLaMA-shaped decoder.

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
      qkv_bias: whether queries, keys and values have a bias (Qwen2: yes, LLaMA: no).
      experts: 2: every layer has an und and a gen expert (BAGEL); 1: an und expert only.
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
    qkv_bias: bool = True
    experts: int = 2


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
      gelu: "tanh" for the approximation (BAGEL's SigLIP), "erf" for the exact form (Janus's).
    """

    width: int
    layers: int
    heads: int
    mlp: int
    patch: int
    side: int
    norm_eps: float = 1e-6
    learned: int | None = None
    gelu: str = "tanh"


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters beside kernels that stay as they are (Hu et al., 2021; `models.lora`).

    Attributes:
      rank: columns of A and rows of B.
      alpha: the product counts alpha / rank times.
      dropout: part of an adapter's inputs that is left out while training.
      rslora: alpha / sqrt(rank) instead (Kalajdzievski, 2023).
      targets: regular expressions; a kernel whose path one of them matches gets an adapter.
    """

    rank: int
    alpha: float = 16.0
    dropout: float = 0.0
    rslora: bool = False
    targets: tuple[str, ...] = LORA_TARGETS

    def __post_init__(self) -> None:
        """Raises ValueError on numbers that cannot work."""
        if self.rank < 1:
            raise ValueError(f"lora.rank is {self.rank}; it must be at least 1, or 0 for none.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"lora.dropout is {self.dropout}; it must be in [0, 1).")
        if not self.targets:
            raise ValueError("lora.targets is empty; name the kernels that get an adapter.")

    @property
    def scale(self) -> float:
        """What the product of A and B is multiplied with."""
        return self.alpha / (self.rank**0.5 if self.rslora else self.rank)


@dataclasses.dataclass(frozen=True)
class QuantizedConfig:
    """Kernels of the layers that are kept in few bits and never move (`models.quantized`).

    Attributes:
      kind: "int8" or "nf4".
      among: regular expressions; of the layers' kernels, those whose path one of them matches.
    """

    kind: str
    among: tuple[str, ...] = ("",)

    def __post_init__(self) -> None:
        """Raises ValueError for a kind that does not exist."""
        one_of("frozen_dtype", self.kind, QUANTIZED)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Policies:
    """What changes a model's speed and memory but not its sizes.

    Attributes:
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
      lora: adapters beside its kernels, or None.
      quantized: kernels that are kept in few bits, or None.
    """

    dtype: str = "float32"
    remat: str = "none"
    attention: str = "auto"
    chunk: int = 128
    unroll: int = 1
    apart: bool = False
    lora: LoraConfig | None = None
    quantized: QuantizedConfig | None = None

    def check(self, llm: LLMConfig, vit: ViTConfig | None) -> None:
        """Raises ValueError on sizes or names that cannot work."""
        one_of("dtype", self.dtype, DTYPES)
        one_of("remat", self.remat, REMAT)
        one_of("attention", self.attention, ATTENTION)
        if llm.heads % llm.kv_heads:
            raise ValueError(
                f"llm: {llm.heads} heads is not a multiple of {llm.kv_heads} kv_heads."
            )
        if llm.head_dim % 2:
            raise ValueError(f"llm: head_dim {llm.head_dim} must be even for the rotary halves.")
        if vit is not None:
            one_of("vit.gelu", vit.gelu, GELU)
        if vit is not None and vit.width % vit.heads:
            raise ValueError(f"vit: width {vit.width} is not a multiple of {vit.heads} heads.")
        for name in ("chunk", "unroll"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"{name} must be >= 1, not {value}.")
