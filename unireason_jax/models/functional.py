"""Models as plain values: a config, a nested dict of parameters, and methods on the two.

`abstract` and `logical_axes` say what the parameters look like, `init` draws them, and `bind`
gives the methods of `Bagel` or `Janus` inside a jitted function. Nothing outside this room touches
Flax, and nothing is ever built unsharded: jit `init` with `out_shardings` made from the two former.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from unireason_jax.models import lora, quantized
from unireason_jax.models.bagel import Bagel
from unireason_jax.models.config import BagelConfig, ModelConfig
from unireason_jax.models.janus.config import JanusConfig
from unireason_jax.models.janus.model import Janus
from unireason_jax.models.layers import draw
from unireason_jax.models.sizes import LoraConfig

Params = dict[str, Any]
_NETWORKS = {BagelConfig: Bagel, JanusConfig: Janus}


def abstract(config: ModelConfig) -> Params:
    """Shapes and dtypes of the parameters as ShapeDtypeStruct; allocates nothing."""
    return nnx.to_pure_dict(_template(config)[1])


def logical_axes(config: ModelConfig) -> Params:
    """Like `abstract`, with a tuple of logical names (or None) per dimension as leaves."""
    state = _template(config)[1]
    names = jax.tree.map(_names, state, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))
    return nnx.to_pure_dict(names)


def starts(config: ModelConfig) -> Params:
    """Like `abstract`, with (mean, standard deviation) of the freshly drawn parameter as leaves."""
    state = _template(config)[1]
    values = jax.tree.map(_start, state, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))
    return nnx.to_pure_dict(values)


def init(config: ModelConfig, key: jax.Array) -> Params:
    """Freshly drawn float32 parameters; jit it, with `out_shardings` on more than one device.

    Keys start as the queries of their group's first head, so that every head looks for what is
    like itself: pictures are copied cell by cell from the start (mimetic initialisation, Trockman
    and Kolter, 2023).
    """
    leaves, tree = jax.tree.flatten(
        _template(config)[1], is_leaf=lambda leaf: isinstance(leaf, nnx.Variable)
    )
    made = [leaf.get_metadata() for leaf in leaves]
    shapes = [leaf.shape for leaf in leaves]
    values = draw(key, shapes, [m["fill"] for m in made], [m["std"] for m in made])
    params = nnx.to_pure_dict(jax.tree.unflatten(tree, values))
    if config.quantized:
        raise ValueError("weights that are drawn learn, and are not quantized.")
    group = config.llm.heads // config.llm.kv_heads
    for expert in params["stack"]["blocks"].values():
        expert["key"]["kernel"] = expert["query"]["kernel"][:, :, ::group]
    return params


def init_adapters(config: ModelConfig, key: jax.Array) -> dict[str, jax.Array]:
    """Freshly drawn float32 adapters by path, which change nothing yet; jit it."""
    leaves = jax.tree_util.tree_leaves_with_path(
        _template(config)[1], is_leaf=lambda leaf: isinstance(leaf, nnx.Variable)
    )
    named = {"/".join(str(p.key) for p in path): leaf for path, leaf in leaves}
    own = lora.own(named)
    made = [_start(leaf) for leaf in own.values()]
    shapes = [leaf.shape for leaf in own.values()]
    return dict(zip(own, draw(key, shapes, [m for m, _ in made], [std for _, std in made])))


def bind(config: ModelConfig, params: Params, dropout: jax.Array | None = None) -> Bagel | Janus:
    """The model with these parameters; cheap, and meant to be called inside jit.

    Args:
      config: of the model.
      params: its parameters.
      dropout: key of the adapters' dropout; None for none.

    Raises:
      ValueError: a parameter is missing or not part of the model; the message names it.
    """
    graph, template = _template(config)
    state = jax.tree.map(lambda leaf: leaf, template)
    _same_leaves(nnx.to_pure_dict(template), params)
    nnx.replace_by_pure_dict(state, params)
    model = nnx.merge(graph, state)
    if dropout is not None:
        lora.give_keys(model, dropout)
    return model


def encoded(config: ModelConfig, flat: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Parameters by path as the model keeps them: kernels that it quantizes as codes and scales."""
    found, places = {}, quantized_kernels(config)
    for path, leaf in flat.items():
        if path not in places:
            found[path] = leaf
            continue
        lead, inputs = places[path]
        parts = quantized.encode(leaf, kind=config.quantized.kind, lead=lead, inputs=inputs)
        found |= {f"{path}/{name}": part for name, part in parts.items()}
    return found


def unquantized(config: ModelConfig) -> ModelConfig:
    """The model with whole kernels."""
    return dataclasses.replace(config, quantized=None)


def with_adapters(config: ModelConfig, made: LoraConfig | None) -> ModelConfig:
    """The model with such adapters beside its kernels, or with None."""
    return dataclasses.replace(config, lora=made)


def bare(config: ModelConfig) -> ModelConfig:
    """The model as it is released: whole kernels, and nothing beside them."""
    return dataclasses.replace(config, lora=None, quantized=None)


def adapted_kernels(config: ModelConfig) -> set[str]:
    """Paths of the kernels that have an adapter."""
    leaves = jax.tree_util.tree_leaves_with_path(abstract(config))
    paths = {jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves}
    return {lora.kernel_of(path) for path in paths if lora.is_part(path)}


@functools.lru_cache(maxsize=16)
def quantized_kernels(config: ModelConfig) -> dict[str, tuple[int, int]]:
    """(leading dimensions, inputs) of the kernels that the model quantizes, by path."""
    found: dict[str, tuple[int, int]] = {}

    def look() -> nnx.Module:
        model = _NETWORKS[type(config)](config)
        found.update(quantized.install(model, config.quantized))
        return model

    if config.quantized:
        nnx.eval_shape(look)
    return found


def for_sampling(config: ModelConfig, params: Params) -> tuple[ModelConfig, Params]:
    """A model as a sampler reads it: every matrix once for every token it writes.

    Matrices have the dtype they are multiplied in, else they were cast again and again; vectors
    (norms, biases) stay as they are. Where the loop over layers is unrolled, the layers are put
    `apart`, else each were copied out of the stack again and again.

    Args:
      config: of the model that was trained.
      params: its parameters, stacked.

    Returns:
      The config and the parameters to sample with.
    """

    params, layers = in_matmul_dtype(config, params), config.llm.layers
    if config.unroll < layers:
        return config, params
    blocks = params["stack"]["blocks"]
    apart = {layer: _layer(blocks, np.int32(layer)) for layer in range(layers)}
    stack = params["stack"] | {"blocks": apart}
    return dataclasses.replace(config, apart=True), params | {"stack": stack}


@jax.jit
def _layer(blocks: Params, number: jax.Array) -> Params:
    """One of the stacked layers; one program takes every array of any of them."""
    return jax.tree.map(lambda leaf: leaf[number], blocks)


def in_matmul_dtype(config: ModelConfig, params: Params) -> Params:
    """Parameters whose matrices have the dtype that they are multiplied in."""

    def cast(path: Any, leaf: jax.Array) -> jax.Array:
        return leaf.astype(config.dtype) if is_matrix([p.key for p in path]) else leaf

    return jax.tree_util.tree_map_with_path(cast, params)


def is_matrix(path: Sequence[str]) -> bool:
    """Whether a parameter of this path is multiplied or looked up, in the dtype of the matmuls."""
    return path[-1] in ("kernel", "embed", "gen_embed") or lora.is_part("/".join(path))


def draws_noise(params: Params) -> bool:
    """Whether the head of velocities (`latent_out`, BAGEL's `llm2vae`) is zero, as a new model's.

    Then no picture moves away from its noise. False for models that have no such head.
    """
    head = params.get("latent_out", {})
    leaves = {
        "/".join(str(p.key) for p in path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(head)
    }
    moving = [leaf for name, leaf in leaves.items() if name in ("kernel", lora.PARTS[1])]
    return bool(moving) and not any(bool(jnp.any(leaf)) for leaf in moving)


def count(params: Params) -> int:
    """Number of parameters of a tree of arrays or ShapeDtypeStruct."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def size(config: ModelConfig) -> int:
    """Number of parameters of a model, in however few bits some are kept."""
    return count(abstract(unquantized(config)))


@functools.lru_cache(maxsize=16)
def _template(config: ModelConfig) -> tuple[Any, Any]:
    """Graph definition and abstract state."""

    def make() -> nnx.Module:
        model = _NETWORKS[type(config)](config)
        if config.lora:
            lora.install(model, config.lora)
        if config.quantized:
            quantized.install(model, config.quantized)
        return model

    graph, state = nnx.split(nnx.eval_shape(make), nnx.Param)
    # Of no mesh: these are kept, and the next caller may have another one.
    return graph, jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state)


def _start(variable: nnx.Variable) -> tuple[float, float]:
    """Mean and standard deviation of a variable."""
    metadata = variable.get_metadata()
    return metadata["fill"], metadata["std"]


def _names(variable: nnx.Variable) -> tuple[str | None, ...]:
    """Logical names of a variable, with "layers" in front of a stacked one."""
    axes = variable.get_metadata()["axes"]
    return ("layers",) * (variable.ndim - len(axes)) + axes


def _same_leaves(wanted: Params, given: Params) -> None:
    """Raises ValueError naming the first leaf that only one of the trees has."""
    paths = [
        {jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves}
        for leaves in (jax.tree_util.tree_leaves_with_path(tree) for tree in (wanted, given))
    ]
    if missing := sorted(paths[0] - paths[1]):
        raise ValueError(f"parameters: {missing[0]!r} is missing ({len(missing)} missing in all).")
    if extra := sorted(paths[1] - paths[0]):
        raise ValueError(f"parameters: {extra[0]!r} is not in this model ({len(extra)} in all).")
