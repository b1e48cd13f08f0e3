"""Official names of Janus's tensors, those of one of our leaves each.

Some official tensors hold several of ours: the tower's queries, keys and values are one, and such
a part has the name of the whole with "#0", "#1" or "#2" behind it.
"""

LLM = "language_model.model."
TOWER = "vision_model.vision_tower."
POOL = TOWER + "attn_pool."
VQ = "gen_vision_model."
USED = VQ + "quantize.codebook_used"
PATCH = TOWER + "patch_embed.proj.weight"
POSITION = TOWER + "pos_embed"
_ROOT = {
    "embed": LLM + "embed_tokens",
    "head": "language_model.lm_head",
    "stack/und_norm": LLM + "norm",
    "vit/patch": TOWER + "patch_embed.proj",
    "vit/norm": TOWER + "norm",
    "aligner/into": "aligner.layers.0",
    "aligner/out": "aligner.layers.2",
    "gen_aligner/into": "gen_aligner.layers.0",
    "gen_aligner/out": "gen_aligner.layers.2",
    "gen_head/into": "gen_head.output_mlp_projector",
    "gen_head/out": "gen_head.vision_head",
    "gen_embed": "gen_embed",
}
_LAYER = {
    "attention_norm": "input_layernorm",
    "mlp_norm": "post_attention_layernorm",
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "out": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
_BLOCK = {
    "attention_norm": "norm1",
    "mlp_norm": "norm2",
    "query": "attn.qkv#0",
    "key": "attn.qkv#1",
    "value": "attn.qkv#2",
    "out": "attn.proj",
    "up": "mlp.fc1",
    "down": "mlp.fc2",
}


def pattern(path: str) -> str:
    """The name of the leaf at a path of the parameters, with {layer} in that of a stacked one."""
    if path == "vit/position":
        return POSITION
    module, _, kind = (path, "", "") if path in _ROOT else path.rpartition("/")
    suffix = "bias" if kind == "bias" else "weight"
    if "/blocks/" not in path:
        return f"{_ROOT[module]}.{suffix}"
    part = module.rpartition("/")[2]
    if module.startswith("stack/"):
        return LLM + "layers.{layer}." + f"{_LAYER[part]}.{suffix}"
    name, mark, third = _BLOCK[part].partition("#")
    return TOWER + "blocks.{layer}." + f"{name}.{suffix}{mark}{third}"


def is_part(name: str) -> bool:
    """Whether a name is of a part of an official tensor."""
    return "#" in name


def whole(name: str) -> str:
    """The official tensor that holds a part."""
    return name.partition("#")[0]
