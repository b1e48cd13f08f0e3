"""The JSON files of a release, as sizes and back.

Keys are spelled, and missing ones default, as in the official configs (BAGEL's Qwen2 and SigLIP).
A field that asks for something this model does not do is refused by name.
"""

from collections.abc import Mapping
from typing import Any

from etils import epath

from unireason_jax.models.config import BagelConfig, LLMConfig, ViTConfig


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
    rope = {**values, **(values.get("rope_parameters") or values.get("rope_scaling") or {})}
    kind = rope.get("rope_type", rope.get("type", "default"))
    expect({"rope_type": kind}, file, rope_type="default")
    width, heads = (_field(values, n, file) for n in ("hidden_size", "num_attention_heads"))
    return LLMConfig(
        width=width,
        layers=_field(values, "num_hidden_layers", file),
        heads=heads,
        kv_heads=values.get("num_key_value_heads", 32),
        head_dim=values.get("head_dim") or width // heads,
        mlp=_field(values, "intermediate_size", file),
        vocab=_field(values, "vocab_size", file),
        rope_theta=float(rope.get("rope_theta", 1e4)),
        norm_eps=float(values.get("rms_norm_eps", 1e-6)),
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
    patch = values.get("patch_size", 16)
    own = values.get("image_size", 224) // patch
    side = side or own
    return ViTConfig(
        width=values.get("hidden_size", 768),
        layers=values.get("num_hidden_layers", 12) - 1,
        heads=values.get("num_attention_heads", 12),
        mlp=values.get("intermediate_size", 3072),
        patch=patch,
        side=side,
        norm_eps=float(values.get("layer_norm_eps", 1e-6)),
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
            raise ValueError(
                f"{file}: field {name!r} is {values[name]!r}; only {supported!r} is implemented."
            )


def _field(values: Mapping[str, Any], name: str, file: epath.PathLike) -> Any:
    """A field of a JSON object. Raises ValueError naming file and field."""
    if name not in values:
        raise ValueError(f"{file}: field {name!r} is missing.")
    return values[name]
