"""The config.json of Janus releases, as sizes and back.

The tower and the VQ model are looked up by name in the official code; sizes that it has no name for
stand in `tiny_overrides`. A field that asks for something this model does not do is refused by
name.
"""

from collections.abc import Mapping
from typing import Any

from etils import epath

from unireason_jax.models.archive import read_json
from unireason_jax.models.janus.config import CodesConfig, JanusConfig, VQConfig
from unireason_jax.models.released import MOST_LAYERS, expect, number, size
from unireason_jax.models.sizes import LLMConfig, ViTConfig

EXTRA = "tiny_overrides"
TOWERS: dict[str, dict[str, Any]] = {
    "siglip_large_patch16_384": {
        "image_size": 384,
        "patch_size": 16,
        "width": 1024,
        "layers": 24,
        "heads": 16,
        "mlp_ratio": 4,
    }
}


def read_config(folder: epath.PathLike, **policies: Any) -> tuple[JanusConfig, VQConfig]:
    """The sizes of a released model and of its VQ tokenizer, from its config.json.

    Args:
      folder: the checkpoint folder.
      **policies: `dtype`, `remat`, `attention`, `chunk` of JanusConfig.

    Raises:
      FileNotFoundError, ValueError: the file is missing, or a field is, or asks for what is not
        implemented.
    """
    file = epath.Path(folder) / "config.json"
    values = read_json(file)
    expect(values, file, model_type="multi_modality")
    part = {name: _table(values, f"{name}_config", file) for name in _PARTS}
    params = {name: _table(value, "params", file) for name, value in part.items()}
    for name in ("aligner", "gen_aligner"):
        expect(params[name], file, projector_type="mlp_gelu", depth=2)
    expect(part["gen_vision"], file, cls="VQ-16")
    own = _table(values, EXTRA, file)
    llm, vit = _llm(part["language"], file), _tower(params["vision"], own, file)
    tokenizer = _vq(_table(own, "vq", file), file)
    codes = CodesConfig(
        size=size(params["gen_head"], "image_token_size", file, tokenizer.codes),
        width=size(params["gen_vision"], "n_embed", file, tokenizer.code_width),
        side=size(params["vision"], "image_size", file, 384) // tokenizer.stride,
    )
    if codes.size != tokenizer.codes:
        raise ValueError(
            f"{file}: gen_head predicts {codes.size} codes, but the codebook has {tokenizer.codes}."
        )
    return JanusConfig(llm=llm, codes=codes, vit=vit, **policies), tokenizer


_PARTS = ("vision", "aligner", "gen_vision", "gen_aligner", "gen_head", "language")


def _llm(values: Mapping[str, Any], file: epath.Path) -> LLMConfig:
    """Sizes of the language model; what is missing defaults as in transformers' LlamaConfig."""
    plain = {"attention_bias": False, "mlp_bias": False, "tie_word_embeddings": False}
    expect(values, file, hidden_act="silu", **plain)
    rope = _table(values, "rope_parameters", file) or _table(values, "rope_scaling", file)
    kind = rope.get("rope_type", rope.get("type", "default"))
    expect({"rope_scaling": kind}, file, rope_scaling="default")
    width = size(values, "hidden_size", file, 4096)
    heads = size(values, "num_attention_heads", file, 32)
    return LLMConfig(
        width=width,
        layers=size(values, "num_hidden_layers", file, 32, most=MOST_LAYERS),
        heads=heads,
        kv_heads=size(values, "num_key_value_heads", file, heads),
        head_dim=size(values, "head_dim", file, max(width // heads, 1)),
        mlp=size(values, "intermediate_size", file, 11008),
        vocab=size(values, "vocab_size", file, 32000),
        rope_theta=number({**values, **rope}, "rope_theta", file, 1e4),
        norm_eps=number(values, "rms_norm_eps", file, 1e-6),
        qk_norm=False,
        qkv_bias=False,
        experts=1,
    )


def _tower(params: Mapping[str, Any], own: Mapping[str, Any], file: epath.Path) -> ViTConfig:
    """Sizes of the vision tower: those of its name, cut to the layers that are selected."""
    expect(params, file, select_feature="same")
    name = params.get("model_name", "siglip_large_patch16_384")
    table = _table(own, "siglip", file) or TOWERS.get(str(name))
    if table is None:
        raise ValueError(f"{file}: model_name {name!r} is unknown; known is {', '.join(TOWERS)}.")
    every = size(table, "layers", file, most=MOST_LAYERS)
    select = params.get("select_layer", -1)
    if type(select) is not int:
        raise ValueError(f"{file}: field 'select_layer' is {select!r}; it must be a whole number.")
    layers = min(every, select if select > 0 else every + select + 1)
    if layers < 1:
        raise ValueError(f"{file}: select_layer {select} leaves none of {every} layers.")
    width, patch = size(table, "width", file), size(table, "patch_size", file)
    pixels = size(params, "image_size", file, size(table, "image_size", file, 384))
    return ViTConfig(
        width=width,
        layers=layers,
        heads=size(table, "heads", file),
        mlp=int(width * number(table, "mlp_ratio", file, 4)),
        patch=patch,
        side=pixels // patch,
        norm_eps=number(table, "norm_eps", file, 1e-6),
        gelu="erf",
    )


def _vq(own: Mapping[str, Any], file: epath.Path) -> VQConfig:
    """Sizes of the VQ tokenizer. The official class has its own, whatever the config says."""
    base = VQConfig()
    levels = own.get("ch_mult", base.multipliers)
    if not isinstance(levels, list | tuple) or not levels or {type(x) for x in levels} != {int}:
        raise ValueError(f"{file}: field 'ch_mult' is {levels!r}; it must be a list of numbers.")
    return VQConfig(
        image_channels=size(own, "out_channels", file, base.image_channels),
        channels=size(own, "ch", file, base.channels),
        multipliers=tuple(levels),
        blocks=size(own, "num_res_blocks", file, base.blocks, most=MOST_LAYERS),
        latents=size(own, "z_channels", file, base.latents),
        codes=size(own, "codebook_size", file, base.codes),
        code_width=size(own, "codebook_embed_dim", file, base.code_width),
        groups=size(own, "group_norm_groups", file, base.groups),
        norm_eps=number(own, "group_norm_eps", file, base.norm_eps),
    )


def _table(values: Mapping[str, Any], name: str, file: epath.Path) -> Mapping[str, Any]:
    """A JSON object inside another; empty if it is missing. ValueError names file and field."""
    found = values.get(name) or {}
    if not isinstance(found, dict):
        raise ValueError(f"{file}: field {name!r} is no table.")
    return found


def json_config(config: JanusConfig, tokenizer: VQConfig) -> dict[str, Any]:
    """The config.json of a release of these sizes; what has no official name is written out."""
    llm, vit, codes, width = config.llm, config.vit, config.codes, config.llm.width
    pixels, tower = vit.side * vit.patch, "siglip_large_patch16_384"
    table = {
        "image_size": pixels,
        "patch_size": vit.patch,
        "width": vit.width,
        "layers": vit.layers,
        "heads": vit.heads,
        "mlp_ratio": vit.mlp / vit.width,
    }
    own: dict[str, Any] = {}
    if table != TOWERS[tower]:
        tower = f"siglip_{vit.width}_patch{vit.patch}_{pixels}"
        own["siglip"] = {**table, "norm_eps": vit.norm_eps, "global_pool": "map"}
    if tokenizer != VQConfig():
        own["vq"] = {
            "ch": tokenizer.channels,
            "ch_mult": list(tokenizer.multipliers),
            "z_channels": tokenizer.latents,
            "codebook_size": tokenizer.codes,
            "codebook_embed_dim": tokenizer.code_width,
            "num_res_blocks": tokenizer.blocks,
            "out_channels": tokenizer.image_channels,
            "group_norm_groups": tokenizer.groups,
            "group_norm_eps": tokenizer.norm_eps,
        }
    projector = {"projector_type": "mlp_gelu", "depth": 2, "n_embed": width}
    parts = {
        "vision": (
            "CLIPVisionTower",
            {
                "image_size": pixels,
                "model_name": tower,
                "select_feature": "same",
                "select_layer": -1,
            },
        ),
        "aligner": ("MlpProjector", {**projector, "input_dim": vit.width}),
        "gen_vision": ("VQ-16", {"image_token_size": codes.size, "n_embed": codes.width}),
        "gen_aligner": ("MlpProjector", {**projector, "input_dim": codes.width}),
        "gen_head": (
            "vision_head",
            {"image_token_embed": width, "image_token_size": codes.size, "n_embed": width},
        ),
    }
    values: dict[str, Any] = {
        "model_type": "multi_modality",
        "architectures": ["MultiModalityCausalLM"],
    }
    for name, (cls, params) in parts.items():
        values[f"{name}_config"] = {"cls": cls, "model_type": name, "params": params}
    values["language_config"] = {
        "model_type": "llama",
        "hidden_size": width,
        "intermediate_size": llm.mlp,
        "num_hidden_layers": llm.layers,
        "num_attention_heads": llm.heads,
        "num_key_value_heads": llm.kv_heads,
        "head_dim": llm.head_dim,
        "vocab_size": llm.vocab,
        "rms_norm_eps": llm.norm_eps,
        "rope_theta": llm.rope_theta,
        "hidden_act": "silu",
        "max_position_embeddings": 16384,
    }
    return values | ({EXTRA: own} if own else {})
