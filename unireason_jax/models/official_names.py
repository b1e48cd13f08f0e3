"""Where each parameter lives in a released checkpoint: official name, shape and layout.

Linear weights are [out, in] there and [in, out] here, heads are split here, and layers are
separate tensors there and one stacked leaf here.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import numpy as np

from unireason_jax.models import functional
from unireason_jax.models.config import ModelConfig
from unireason_jax.models.janus import names
from unireason_jax.models.janus.config import JanusConfig

TABLES = ("embed", "position", "gen_embed")  # read by row, stored as they are
LLM = "language_model.model."
VIT = "vit_model.vision_model."
ROOT = {
    "embed": LLM + "embed_tokens.weight",
    "head": "language_model.lm_head",
    "stack/und_norm": LLM + "norm",
    "stack/gen_norm": LLM + "norm_moe_gen",
    "latent_in": "vae2llm",
    "latent_out": "llm2vae",
    "time_in": "time_embedder.mlp.0",
    "time_out": "time_embedder.mlp.2",
    "connector_in": "connector.fc1",
    "connector_out": "connector.fc2",
    "vit/patch": VIT + "embeddings.patch_embedding",
    "vit/position": VIT + "embeddings.position_embedding.weight",
    "vit/norm": VIT + "post_layernorm",
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
        if self._as_is():
            return index, (slice(None),) * len(index)
        outer, rest = [], list(index)
        for start, group in self._groups():
            low, high, _ = index[start].indices(group[0])
            per = math.prod(group[1:])
            outer.append(slice(low * per, high * per))
            rest[start] = slice(None)
        return tuple(reversed(outer)), tuple(rest)

    def _as_is(self) -> bool:
        """Whether the tensor is stored in our layout."""
        return not self.inputs and self.shape == self.inner

    def _groups(self) -> list[tuple[int, tuple[int, ...]]]:
        """(first dimension, sizes) of the inputs and of the outputs, or of the whole leaf."""
        if not self.inputs:
            return [(0, self.inner)]
        return [(0, self.inner[: self.inputs]), (self.inputs, self.inner[self.inputs :])]

    def _sized(self, flat: tuple[int, ...]) -> tuple[int, ...]:
        """`inner`, with the first size of each group as the flat sizes imply."""
        if self._as_is():
            return flat
        shape: list[int] = []
        for size, (_, group) in zip(flat, self._groups()):
            shape += [size // math.prod(group[1:]), *group[1:]]
        return tuple(shape)


def layout(config: ModelConfig) -> dict[str, Tensor]:
    """Where every parameter of a model is stored, by its path such as "stack/und_norm/scale"."""
    pattern = names.pattern if isinstance(config, JanusConfig) else _pattern
    leaves = jax.tree_util.tree_leaves_with_path(functional.abstract(config))
    paths = {jax.tree_util.keystr(p, simple=True, separator="/"): leaf.shape for p, leaf in leaves}
    return {path: _tensor(path, shape, pattern(path)) for path, shape in paths.items()}


def _pattern(path: str) -> str:
    """BAGEL's name of one leaf, with {layer} in that of a stacked one."""
    module, _, kind = path.rpartition("/")
    if path in ROOT:
        return ROOT[path]
    suffix = "bias" if kind == "bias" else "weight"
    if "/blocks/" not in path:
        return f"{ROOT[module]}.{suffix}"
    if module.startswith("vit/"):
        return VIT + "encoder.layers.{layer}." + f"{_TOWER[module.rpartition('/')[2]]}.{suffix}"
    _, _, expert, part = module.split("/")
    gen = "_moe_gen" if expert == "gen" else ""
    return LLM + "layers.{layer}." + f"{_EXPERT[part].replace('{gen}', gen)}.{suffix}"


def _tensor(path: str, shape: tuple[int, ...], pattern: str) -> Tensor:
    """The layout of one leaf."""
    module, _, kind = path.rpartition("/")
    stacked = "/blocks/" in path
    official = tuple(pattern.replace("{layer}", str(i)) for i in range(shape[0] if stacked else 1))
    inner = shape[1:] if stacked else shape
    if kind != "kernel":
        flat = inner if kind in TABLES else (math.prod(inner),)
        return Tensor(official, flat, stacked, inner, 0)
    inputs = len(inner) - 1 if stacked and module.endswith("/out") else 1
    flat = (math.prod(inner[inputs:]), math.prod(inner[:inputs]))
    return Tensor(official, flat, stacked, inner, inputs)


def at_path(tree: functional.Params, path: str) -> Any:
    """The leaf of a nested dict at a path such as "stack/und_norm/scale"."""
    return functools.reduce(lambda node, name: node[name], path.split("/"), tree)


def official_tensors(config: ModelConfig, params: functional.Params) -> dict[str, np.ndarray]:
    """A tree of parameters (or their gradients) by official name and in official layout."""
    found = {}
    for path, tensor in layout(config).items():
        leaf = np.asarray(at_path(params, path))
        for i, name in enumerate(tensor.names):
            found[name] = tensor.official(leaf[i] if tensor.stacked else leaf)
    return found
