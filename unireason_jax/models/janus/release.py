"""Released Janus checkpoints: their configs and weights, in and out.

A folder holds the weights (safetensors, or PyTorch's `pytorch_model.bin`), `config.json`, and the
files of the processor and the tokenizer. The tower and the VQ model are looked up by name there;
sizes that the official code has no name for stand in `tiny_overrides`.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from unireason_jax.models import convolutional, functional
from unireason_jax.models.archive import DTYPES, read_json, type_name
from unireason_jax.models.huggingface import leaf_reader
from unireason_jax.models.janus import names, vq
from unireason_jax.models.janus.config import CodesConfig, JanusConfig, VQConfig
from unireason_jax.models.official_names import layout
from unireason_jax.models.released import MOST_LAYERS, expect, number, size
from unireason_jax.models.sizes import LLMConfig, ViTConfig

WEIGHTS = ("model.safetensors", "weights.safetensors")
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


def find_weights(folder: epath.PathLike) -> epath.Path:
    """The weight file or index of a folder. FileNotFoundError lists what was looked for."""
    files = [n for name in WEIGHTS for n in (name, name + ".index.json")]
    for name in files:
        if (epath.Path(folder) / name).exists():
            return epath.Path(folder) / name
    raise FileNotFoundError(f"{folder}: no weights; looked for {', '.join(files)}.")


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


class Parts:
    """A release's tensors by the names of `names.pattern`; reads like an `Archive`.

    The patch embedding is a matrix [width, patch * patch * 3], ordered (row, column, channel), the
    position table [tokens, width]; thirds of the tower's fused projections are tensors of their
    own. What is no part of the network (`outside`) is left out.
    """

    def __init__(self, archive: Any):
        """`archive`: the official tensors."""
        self.archive = archive
        self.path = archive.path

    def __iter__(self) -> Iterator[str]:
        """Names of all parts."""
        for name in self.archive:
            if not outside(name):
                yield from [f"{name}#{i}" for i in range(3)] if _fused(name) else [name]

    def __contains__(self, name: str) -> bool:
        """Whether there is a part of this name."""
        return names.whole(name) in self.archive

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a part; nothing is read."""
        shape = self.archive.shape(names.whole(name))
        if "#" in name:
            return (shape[0] // 3, *shape[1:])
        if name == names.PATCH:
            return (shape[0], int(np.prod(shape[1:])))
        return shape[1:] if name == names.POSITION else shape

    def dtype(self, name: str) -> str:
        """Element type of a part as the format spells it, such as BF16."""
        return self.archive.dtype(names.whole(name))

    def read(self, name: str, window: tuple[slice, ...] = ()) -> np.ndarray:
        """A part, or what a tuple of slices selects of it."""
        if name == names.PATCH:
            value = self.archive.read(name).transpose(0, 2, 3, 1)
            return value.reshape(len(value), -1)[window]
        if name == names.POSITION:
            return self.archive.read(name)[0][window]
        if "#" not in name:
            return self.archive.read(name, window)
        rows = self.shape(name)[0]
        low, high, _ = (window or (slice(None),))[0].indices(rows)
        first = rows * int(name[-1])
        whole = names.whole(name)
        return self.archive.read(whole, (slice(first + low, first + high), *window[1:]))


def outside(name: str) -> bool:
    """Whether a tensor is not read by the network: the VQ model, and the pooling nobody calls."""
    return name.startswith((names.VQ, names.POOL))


def official_shapes(config: JanusConfig, tokenizer: VQConfig) -> dict[str, tuple[int, ...]]:
    """Shape of every official tensor by name, the unused ones included."""
    shapes: dict[str, tuple[int, ...]] = {}
    for tensor in layout(config).values():
        for name in tensor.names:
            whole, fused = names.whole(name), 3 if "#" in name else 1
            shapes[whole] = (fused * tensor.shape[0], *tensor.shape[1:])
    vit = config.vit
    if vit is not None:
        shapes[names.PATCH] = (vit.width, 3, vit.patch, vit.patch)
        shapes[names.POSITION] = (1, *shapes[names.POSITION])
        shapes |= _pool_shapes(vit)
    return shapes | _vq_shapes(tokenizer)


def _pool_shapes(vit: ViTConfig) -> dict[str, tuple[int, ...]]:
    """The pooling that every release holds and nobody calls."""
    width = vit.width
    maps = {
        "q": (width, width),
        "kv": (2 * width, width),
        "proj": (width, width),
        "mlp.fc1": (vit.mlp, width),
        "mlp.fc2": (width, vit.mlp),
    }
    shapes = {names.POOL + "latent": (1, 1, width)}
    for name, shape in maps.items():
        shapes |= {f"{names.POOL}{name}.weight": shape, f"{names.POOL}{name}.bias": shape[:1]}
    norm = {f"{names.POOL}norm.{kind}": (width,) for kind in ("weight", "bias")}
    return shapes | norm


def _vq_shapes(tokenizer: VQConfig) -> dict[str, tuple[int, ...]]:
    """The VQ model, with the counter of its training."""
    shapes = {
        names.VQ + name: convolutional.official(shape)
        for name, shape in vq.shapes(tokenizer).items()
    }
    return shapes | {names.USED: (65536,)}


def check(archive: Any, config: JanusConfig, tokenizer: VQConfig) -> None:
    """Compares names, shapes and types of all tensors. Only unused ones may be missing.

    Raises:
      ValueError: naming the first tensor that is missing, extra, misshaped or not floating point.
    """
    wanted = official_shapes(config, tokenizer)
    for name, shape in wanted.items():
        if name not in archive:
            if unused(name):
                continue
            raise ValueError(f"{archive.path}: tensor {name!r} {list(shape)} is missing.")
        if archive.shape(name) != shape:
            raise ValueError(
                f"{archive.path}: tensor {name!r} has shape {list(archive.shape(name))}, "
                f"but config.json asks for {list(shape)}."
            )
        if archive.dtype(name) not in ("F32", "BF16", "F16"):
            raise ValueError(
                f"{archive.path}: tensor {name!r} is {archive.dtype(name)}; "
                "weights must be F32, BF16 or F16."
            )
    if extra := sorted(set(archive) - set(wanted)):
        raise ValueError(
            f"{archive.path}: tensor {extra[0]!r} is not part of the model that config.json "
            f"describes ({len(extra)} such)."
        )


def unused(name: str) -> bool:
    """Whether nothing ever reads a tensor: the pooling, and the counter of the codebook."""
    return name.startswith(names.POOL) or name == names.USED


def load(archive: Any, config: JanusConfig, *, dtype: str = "float32") -> functional.Params:
    """Parameters of the network on one device; `check` first."""
    parts = Parts(archive)

    def place(path: Any, leaf: Any) -> jax.Array:
        tensor = table[jax.tree_util.keystr(path, simple=True, separator="/")]
        read = leaf_reader(parts, tensor, DTYPES[type_name(dtype)])
        return jnp.asarray(read(tuple(slice(0, n) for n in leaf.shape)))

    table = layout(config)
    return jax.tree_util.tree_map_with_path(place, functional.abstract(config))


def load_vq(archive: Any, tokenizer: VQConfig) -> vq.Params:
    """Parameters of the VQ tokenizer, float32."""
    params = {}
    for name in vq.shapes(tokenizer):
        value = archive.read(names.VQ + name).astype(np.float32)
        params[name] = jnp.asarray(value.transpose(2, 3, 1, 0) if value.ndim == 4 else value)
    return params


def official(config: JanusConfig, parts: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Parts by the names of `names.pattern` as official tensors: thirds joined, as released."""
    found = {}
    for name, value in parts.items():
        if name.endswith("#0"):
            thirds = [parts[f"{names.whole(name)}#{i}"] for i in range(3)]
            found[names.whole(name)] = np.concatenate(thirds)
        elif name == names.PATCH:
            patch = config.vit.patch
            found[name] = value.reshape(-1, patch, patch, 3).transpose(0, 3, 1, 2)
        elif "#" not in name:
            found[name] = value[None] if name == names.POSITION else value
    return found


def _fused(name: str) -> bool:
    """Whether a tensor holds queries, keys and values."""
    return name.startswith(names.TOWER + "blocks.") and ".attn.qkv." in name
