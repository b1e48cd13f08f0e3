"""The JSON files of a release, as sizes and back.

Keys are spelled, and missing ones default, as in the official configs (BAGEL's Qwen2 and SigLIP).
A field that asks for something this model does not do is refused by name.
"""

from collections.abc import Mapping
from typing import Any

from etils import epath

from unireason_jax.models.config import BagelConfig, LLMConfig, ViTConfig

MOST_LAYERS = 10_000
"""No model has more; a damaged file that says so must not be obeyed."""


def llm_config(values: Mapping[str, Any], file: epath.PathLike, *, qk_norm: bool) -> LLMConfig:
    """Sizes from the fields of a Qwen2 config.

    Args:
      values: the fields.
      file: named in errors.
      qk_norm: whether the weights have query-key norms; the released config does not say.

    Raises:
      ValueError: a size is missing, or a field asks for what is not implemented.
    """
    expect(values, file, hidden_act="silu", use_sliding_window=False)
    rope = values.get("rope_parameters") or values.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        raise ValueError(f"{file}: field 'rope_parameters' or 'rope_scaling' is no table.")
    rope = {**values, **rope}
    kind = rope.get("rope_type", rope.get("type", "default"))
    expect({"rope_type": kind}, file, rope_type="default")
    width, heads = (size(values, n, file) for n in ("hidden_size", "num_attention_heads"))
    return LLMConfig(
        width=width,
        layers=size(values, "num_hidden_layers", file, most=MOST_LAYERS),
        heads=heads,
        kv_heads=size(values, "num_key_value_heads", file, 32),
        head_dim=size(values, "head_dim", file, max(width // heads, 1)),
        mlp=size(values, "intermediate_size", file),
        vocab=size(values, "vocab_size", file),
        rope_theta=number(rope, "rope_theta", file, 1e4),
        norm_eps=number(values, "rms_norm_eps", file, 1e-6),
        qk_norm=qk_norm,
    )


def vit_config(
    values: Mapping[str, Any], file: epath.PathLike, *, side: int | None = None
) -> ViTConfig:
    """Sizes from the fields of a SigLIP config, which counts one layer more than is used.

    Args:
      values: the fields.
      file: named in errors.
      side: BAGEL's vit_max_num_patch_per_side; None for the side of the tower's own table.

    Raises:
      ValueError: a field asks for what is not implemented.
    """
    expect(values, file, hidden_act="gelu_pytorch_tanh", num_channels=3)
    patch = size(values, "patch_size", file, 16)
    own = max(size(values, "image_size", file, 224) // patch, 1)
    side = side or own
    return ViTConfig(
        width=size(values, "hidden_size", file, 768),
        layers=size(values, "num_hidden_layers", file, 12, most=MOST_LAYERS) - 1,
        heads=size(values, "num_attention_heads", file, 12),
        mlp=size(values, "intermediate_size", file, 3072),
        patch=patch,
        side=side,
        norm_eps=number(values, "layer_norm_eps", file, 1e-6),
        learned=None if own == side else own**2,
    )


def json_configs(config: BagelConfig) -> dict[str, dict[str, Any]]:
    """The JSON files of a release, by name."""
    llm, vit, latent = config.llm, config.vit, config.latent
    language = {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "layer_module": "Qwen2MoTDecoderLayer",
        "vocab_size": llm.vocab,
        "hidden_size": llm.width,
        "intermediate_size": llm.mlp,
        "num_hidden_layers": llm.layers,
        "num_attention_heads": llm.heads,
        "num_key_value_heads": llm.kv_heads,
        "head_dim": llm.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": 32768,
        "rms_norm_eps": llm.norm_eps,
        "rope_theta": llm.rope_theta,
        "qk_norm": llm.qk_norm,
        "tie_word_embeddings": False,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "use_sliding_window": False,
    }
    main = {
        "visual_gen": True,
        "visual_und": vit is not None,
        "latent_patch_size": latent.patch,
        "max_latent_size": latent.side,
        "connector_act": "gelu_pytorch_tanh",
        "interpolate_pos": False,
    }
    if vit is None:
        return {"config.json": main, "llm_config.json": language}
    own = round((vit.learned or vit.side**2) ** 0.5)
    vision = {
        "model_type": "siglip_vision_model",
        "hidden_size": vit.width,
        "intermediate_size": vit.mlp,
        "num_hidden_layers": vit.layers + 1,
        "num_attention_heads": vit.heads,
        "num_channels": 3,
        "image_size": own * vit.patch,
        "patch_size": vit.patch,
        "hidden_act": "gelu_pytorch_tanh",
        "layer_norm_eps": vit.norm_eps,
        "attention_dropout": 0.0,
        "rope": False,
    }
    main["vit_max_num_patch_per_side"] = vit.side
    return {"config.json": main, "llm_config.json": language, "vit_config.json": vision}


def expect(values: Mapping[str, Any], file: epath.PathLike, **only: Any) -> None:
    """Raises ValueError naming the first field that is set to something else than `only`."""
    for name, supported in only.items():
        if values.get(name, supported) not in (supported, None):
            value = _shown(values[name])
            raise ValueError(
                f"{file}: field {name!r} is {value}; only {supported!r} is implemented."
            )


def size(
    values: Mapping[str, Any],
    name: str,
    file: epath.PathLike,
    default: int | None = None,
    *,
    most: int = 1 << 24,
) -> int:
    """A size from a JSON object: a whole number from 1 to `most`.

    Raises:
      ValueError: naming file and field; also where it is missing (or null) without a default.
    """
    value = values.get(name)
    if value is None:
        value = default
    if value is None:
        raise ValueError(f"{file}: field {name!r} is missing.")
    if type(value) is not int or not 1 <= value <= most:
        raise ValueError(
            f"{file}: field {name!r} is {_shown(value)}; it must be a whole number, 1 to {most}."
        )
    return value


def number(values: Mapping[str, Any], name: str, file: epath.PathLike, default: float) -> float:
    """A finite number from a JSON object. Raises ValueError naming file and field."""
    value = values.get(name)
    if value is None:
        return default
    if type(value) not in (int, float) or not abs(value) < 1e30:
        raise ValueError(f"{file}: field {name!r} is {_shown(value)}; it must be a number.")
    return float(value)


def _shown(value: Any) -> str:
    """A value of a file in a message, cut where it is long."""
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
