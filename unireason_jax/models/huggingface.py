"""The released checkpoint format of BAGEL and UniReason: its tensor names, layouts and configs.

A folder holds `ema.safetensors` (one file, or shards with an index), `llm_config.json`,
`vit_config.json` and `config.json`. Linear weights there are [out, in]; layers are separate
tensors, ours are stacked. The two fixed position tables are stored there and computed here.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from unireason_jax.models import functional
from unireason_jax.models.archive import Archive, read_json
from unireason_jax.models.config import BagelConfig, LatentConfig, LLMConfig, ViTConfig

WEIGHTS = ("ema.safetensors", "model.safetensors")
LATENT_TABLE = "latent_pos_embed.pos_embed"
VIT_TABLE = "vit_pos_embed.pos_embed"

_LLM = "language_model.model."
_VIT = "vit_model.vision_model."
_ROOT = {
    "embed": _LLM + "embed_tokens.weight",
    "head": "language_model.lm_head",
    "stack/und_norm": _LLM + "norm",
    "stack/gen_norm": _LLM + "norm_moe_gen",
    "latent_in": "vae2llm",
    "latent_out": "llm2vae",
    "time_in": "time_embedder.mlp.0",
    "time_out": "time_embedder.mlp.2",
    "connector_in": "connector.fc1",
    "connector_out": "connector.fc2",
    "vit/patch": _VIT + "embeddings.patch_embedding",
    "vit/position": _VIT + "embeddings.position_embedding.weight",
    "vit/norm": _VIT + "post_layernorm",
}
_EXPERT = {
    "attention_norm": "input_layernorm{gen}",
    "mlp_norm": "post_attention_layernorm{gen}",
    "query": "self_attn.q_proj{gen}",
    "key": "self_attn.k_proj{gen}",
    "value": "self_attn.v_proj{gen}",
    "out": "self_attn.o_proj{gen}",
    "query_norm": "self_attn.q_norm{gen}",
    "key_norm": "self_attn.k_norm{gen}",
    "gate": "mlp{gen}.gate_proj",
    "up": "mlp{gen}.up_proj",
    "down": "mlp{gen}.down_proj",
}
_TOWER = {
    "attention_norm": "layer_norm1",
    "mlp_norm": "layer_norm2",
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "out": "self_attn.out_proj",
    "up": "mlp.fc1",
    "down": "mlp.fc2",
}


class Tensor(NamedTuple):
    """How one of our leaves is stored.

    Attributes:
      names: the official tensors, one per layer for a stacked leaf, else one.
      shape: shape of each of them.
      stacked: whether our leaf has a leading layer dimension.
      inner: shape of our leaf without it.
      inputs: number of leading dimensions of `inner` that are a kernel's inputs; 0 if the leaf is
        not a kernel and is only reshaped.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]
    stacked: bool
    inner: tuple[int, ...]
    inputs: int

    def ours(self, official: np.ndarray, index: tuple[slice, ...] | None = None) -> np.ndarray:
        """One official tensor (or rows x columns of it, see `window`) as ours, then indexed."""
        if not self.inputs:
            value = official.reshape(self._sized(official.shape))
        else:
            value = official.T.reshape(self._sized(official.shape[::-1]))
        return value if index is None else value[index]

    def official(self, value: np.ndarray) -> np.ndarray:
        """Inverse of `ours` for a whole tensor."""
        if not self.inputs:
            return value.reshape(self.shape)
        return value.reshape(self.shape[::-1]).T

    def window(self, index: tuple[slice, ...]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
        """The part of an official tensor that an index into `inner` needs.

        Returns:
          Slices of the official tensor, and the slices still to be taken from `ours` of it.
        """
        starts = [0, self.inputs] if self.inputs and self.inputs < len(self.inner) else [0]
        outer, rest = [], list(index)
        for start in starts:
            stop = self.inputs if start == 0 and self.inputs else len(self.inner)
            per = math.prod(self.inner[start + 1 : stop])
            low, high, _ = index[start].indices(self.inner[start])
            outer.append(slice(low * per, high * per))
            rest[start] = slice(None)
        return tuple(reversed(outer)), tuple(rest)

    def _sized(self, flat: tuple[int, ...]) -> tuple[int, ...]:
        """`inner` with the leading dimension of each group derived from the flat sizes."""
        groups = [self.inner[: self.inputs], self.inner[self.inputs :]]
        groups = [group for group in groups if group] if self.inputs else [self.inner]
        shape: list[int] = []
        for size, group in zip(flat, groups):
            shape += [size // max(1, math.prod(group[1:])), *group[1:]]
        return tuple(shape)


def layout(config: BagelConfig) -> dict[str, Tensor]:
    """Where every parameter of a model is stored, by its path such as "stack/und_norm/scale"."""
    leaves = jax.tree_util.tree_leaves_with_path(functional.abstract(config))
    paths = {jax.tree_util.keystr(p, simple=True, separator="/"): leaf.shape for p, leaf in leaves}
    return {path: _tensor(path, shape) for path, shape in paths.items()}


def _tensor(path: str, shape: tuple[int, ...]) -> Tensor:
    """The layout of one leaf."""
    module, _, kind = path.rpartition("/")
    stacked = "/blocks/" in path
    if path in _ROOT:
        names = (_ROOT[path],)
    else:
        suffix = "bias" if kind == "bias" else "weight"
        if not stacked:
            patterns = _ROOT[module]
        elif module.startswith("vit/"):
            patterns = _VIT + "encoder.layers.{layer}." + _TOWER[module.rpartition("/")[2]]
        else:
            _, _, expert, part = module.split("/")
            gen = "_moe_gen" if expert == "gen" else ""
            patterns = _LLM + "layers.{layer}." + _EXPERT[part].replace("{gen}", gen)
        count = shape[0] if stacked else 1
        names = tuple(f"{patterns}.{suffix}".replace("{layer}", str(i)) for i in range(count))
    inner = shape[1:] if stacked else shape
    if kind != "kernel":
        flat = inner if path in ("embed", "vit/position") else (math.prod(inner),)
        return Tensor(names, flat, stacked, inner, 0)
    inputs = len(inner) - 1 if module.endswith("/out") else 1
    flat = (math.prod(inner[inputs:]), math.prod(inner[:inputs]))
    return Tensor(names, flat, stacked, inner, inputs)


def find_weights(folder: Path) -> Path:
    """The weight file or index of a folder. FileNotFoundError lists what was looked for."""
    names = [n for name in WEIGHTS for n in (name, name + ".index.json")]
    for name in names:
        if (folder / name).exists():
            return folder / name
    raise FileNotFoundError(f"{folder}: no weights; looked for {', '.join(names)}.")


def read_config(folder: str | Path, **policies: Any) -> BagelConfig:
    """The sizes of a released model, from its JSON files and what its tensors imply.

    The vision config on disk counts one layer more than is used. The latent table's side is taken
    from the stored table when there is one: the released config.json says 32 for a table of 64.

    Args:
      folder: the checkpoint folder.
      **policies: `dtype`, `remat`, `attention`, `chunk` of BagelConfig.

    Raises:
      FileNotFoundError, ValueError: a file or a field is missing or contradicts the tensors.
    """
    folder = Path(folder)
    archive = Archive(find_weights(folder))
    main, llm_file = read_json(folder / "config.json"), folder / "llm_config.json"
    llm = read_json(llm_file)
    width, heads = (
        _field(llm, "hidden_size", llm_file),
        _field(llm, "num_attention_heads", llm_file),
    )
    language = LLMConfig(
        width=width,
        layers=_field(llm, "num_hidden_layers", llm_file),
        heads=heads,
        kv_heads=_field(llm, "num_key_value_heads", llm_file),
        head_dim=llm.get("head_dim") or width // heads,
        mlp=_field(llm, "intermediate_size", llm_file),
        vocab=_rows(archive, _ROOT["embed"], _field(llm, "vocab_size", llm_file)),
        rope_theta=float(llm.get("rope_theta", 1e6)),
        norm_eps=float(llm.get("rms_norm_eps", 1e-6)),
        qk_norm=any(name.endswith("self_attn.q_norm.weight") for name in archive),
    )
    patch = main.get("latent_patch_size", 2)
    weight = _ROOT["latent_in"] + ".weight"
    if weight not in archive:
        raise ValueError(f"{archive.path}: tensor {weight!r} is missing.")
    side = math.isqrt(_rows(archive, LATENT_TABLE, main.get("max_latent_size", 32) ** 2))
    latent = LatentConfig(channels=archive.shape(weight)[1] // patch**2, patch=patch, side=side)
    vit = _read_vit(folder, main) if any(name.startswith(_VIT) for name in archive) else None
    return BagelConfig(llm=language, latent=latent, vit=vit, **policies)


def _read_vit(folder: Path, main: Mapping[str, Any]) -> ViTConfig:
    """The vision tower of a folder."""
    file = folder / "vit_config.json"
    vit = read_json(file)
    patch = _field(vit, "patch_size", file)
    side = _field(vit, "image_size", file) // patch
    if main.get("vit_max_num_patch_per_side", side) != side:
        raise ValueError(
            f"{folder}/config.json: vit_max_num_patch_per_side "
            f"{main['vit_max_num_patch_per_side']} differs from image_size / patch_size = {side} "
            f"in {file.name}; both tables are indexed by the same position."
        )
    return ViTConfig(
        width=_field(vit, "hidden_size", file),
        layers=_field(vit, "num_hidden_layers", file) - 1,
        heads=_field(vit, "num_attention_heads", file),
        mlp=_field(vit, "intermediate_size", file),
        patch=patch,
        side=side,
        norm_eps=float(vit.get("layer_norm_eps", 1e-6)),
    )


def check(archive: Archive, config: BagelConfig) -> None:
    """Raises ValueError naming the first missing, extra, misshaped or non-float tensor."""
    tensors = [(name, t.shape) for t in layout(config).values() for name in t.names]
    wanted = dict(tensors)
    tables = {LATENT_TABLE: config.latent.side, VIT_TABLE: config.vit.side if config.vit else 0}
    fixed = {name: (side**2, config.llm.width) for name, side in tables.items() if side}
    for name, shape in {**wanted, **{n: s for n, s in fixed.items() if n in archive}}.items():
        if name not in archive:
            raise ValueError(f"{archive.path}: tensor {name!r} {list(shape)} is missing.")
        if archive.shape(name) != shape:
            raise ValueError(
                f"{archive.path}: tensor {name!r} has shape {list(archive.shape(name))}, "
                f"but the configs ask for {list(shape)}."
            )
        if archive.dtype(name) not in ("F32", "BF16", "F16"):
            raise ValueError(
                f"{archive.path}: tensor {name!r} is {archive.dtype(name)}; "
                "weights must be F32, BF16 or F16."
            )
    extra = sorted(set(archive) - set(wanted) - set(fixed))
    if extra:
        raise ValueError(
            f"{archive.path}: tensor {extra[0]!r} is not part of the model that the configs "
            f"describe ({len(extra)} such)."
        )


def load(
    folder: str | Path,
    config: BagelConfig,
    *,
    shardings: Any = None,
    dtype: str = "float32",
) -> functional.Params:
    """Parameters from a released checkpoint, read slice by slice into their sharding.

    Every process reads only what its devices hold, one shard at a time.

    Args:
      folder: the checkpoint folder.
      config: from `read_config`.
      shardings: a tree of Sharding like the parameters; None puts all on the first device.
      dtype: element type of the result.

    Raises:
      FileNotFoundError, ValueError: see `check`.
    """
    archive = Archive(find_weights(Path(folder)))
    check(archive, config)
    table = layout(config)
    default = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shapes = functional.abstract(config)
    if shardings is None:
        shardings = jax.tree.map(lambda _: default, shapes)

    def place(path: Any, leaf: Any, sharding: Any) -> jax.Array:
        tensor = table[jax.tree_util.keystr(path, simple=True, separator="/")]
        read = reader(archive, tensor, dtype)
        return jax.make_array_from_callback(leaf.shape, sharding, read)

    return jax.tree_util.tree_map_with_path(place, shapes, shardings)


def reader(archive: Archive, tensor: Tensor, dtype: str) -> Callable[..., np.ndarray]:
    """A function from an index (tuple of slices) into our leaf to that part of it."""

    def read(index: tuple[slice, ...]) -> np.ndarray:
        if not tensor.stacked:
            return _part(archive, tensor, tensor.names[0], index).astype(dtype)
        chosen = tensor.names[index[0]]
        first = _part(archive, tensor, chosen[0], index[1:])
        out = np.empty((len(chosen), *first.shape), dtype)
        out[0] = first
        for i, name in enumerate(chosen[1:], 1):
            out[i] = _part(archive, tensor, name, index[1:])
        return out

    return read


def _part(archive: Archive, tensor: Tensor, name: str, index: tuple[slice, ...]) -> np.ndarray:
    """The part of our (unstacked) leaf that an index selects, read from one official tensor."""
    window, rest = tensor.window(index)
    if len(tensor.shape) == 1:
        return tensor.ours(archive.read(name), index)
    if not tensor.inputs:
        return archive.read(name, index)
    return tensor.ours(archive.read(name, window), rest)


def _rows(archive: Archive, name: str, default: int) -> int:
    """Rows of a tensor if it is there."""
    return archive.shape(name)[0] if name in archive else default


def _field(values: Mapping[str, Any], name: str, path: Path) -> Any:
    """A field of a JSON object. Raises ValueError naming file and field."""
    if name not in values:
        raise ValueError(f"{path}: field {name!r} is missing.")
    return values[name]
