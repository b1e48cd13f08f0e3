"""What a run carries from step to step, and how it is laid out before a single array exists."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from unireason_jax.pods import sharding
from unireason_jax.training.optim import Optimizer, OptState, Params, flatten


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything that training changes.

    Attributes:
      step: i32 scalar, number of finished steps.
      params: nested dict of all parameters, float32.
      opt_state: optimizer state; moments of the trainable leaves only.
      ema: moving average of the trainable leaves only; {} when none is kept. The averaged model
        is these leaves merged over `params`.
    """

    step: jax.Array
    params: Params
    opt_state: OptState
    ema: Params


def new_state(params: Params, optimizer: Optimizer) -> TrainState:
    """The state before the first step."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(params),
        ema=optimizer.init_ema(params),
    )


def abstract_state(shapes: Params, optimizer: Optimizer) -> TrainState:
    """Shapes and dtypes of the state, given those of the parameters; touches no device."""
    return jax.eval_shape(lambda params: new_state(params, optimizer), shapes)


def state_shardings(mesh: Mesh, abstract: TrainState, logical: Params) -> TrainState:
    """NamedSharding of every leaf of the state.

    A moment or average belongs to the parameter whose path its own path ends with, and takes its
    sharding; every other leaf (counters, the guard's window) is replicated.

    Args:
      mesh: the mesh.
      abstract: the result of `abstract_state`.
      logical: the model's tree of logical axes.
    """
    shapes = {path: leaf.shape for path, leaf in flatten(abstract.params).items()}
    specs = {
        path: sharding.fitted_spec(shapes[path], names, mesh.shape)
        for path, names in flatten(logical).items()
    }

    def of(path: tuple, leaf: jax.ShapeDtypeStruct) -> NamedSharding:
        names = [str(k.key) if isinstance(k, jax.tree_util.DictKey) else None for k in path]
        for start in range(len(names)):
            tail = names[start:]
            owner = None if None in tail else "/".join(tail)
            if owner in specs and shapes[owner] == leaf.shape:
                return NamedSharding(mesh, specs[owner])
        return NamedSharding(mesh, PartitionSpec())

    return jax.tree_util.tree_map_with_path(of, abstract)


def with_shardings(abstract: Any, shardings: Any) -> Any:
    """ShapeDtypeStructs that also say where each leaf lives."""
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, shardings
    )


def initialize(
    init: Callable[[], Params], optimizer: Optimizer, shardings: TrainState
) -> TrainState:
    """Draws fresh parameters straight into their shards.

    Args:
      init: makes the parameters; traced, so no array is ever built whole.
      optimizer: the optimizer.
      shardings: the result of `state_shardings`.
    """
    return jax.jit(lambda: new_state(init(), optimizer), out_shardings=shardings)()


def adopt(params: Params, optimizer: Optimizer, shardings: TrainState) -> TrainState:
    """A state at step 0 around parameters that were loaded (already sharded)."""
    build = jax.jit(lambda p: new_state(p, optimizer), out_shardings=shardings, donate_argnums=0)
    return build(params)


def bytes_per_device(abstract: Any, shardings: Any) -> int:
    """Bytes that a sharded tree takes on one device."""
    sizes = jax.tree.map(
        lambda x, s: _count(s.shard_shape(x.shape)) * jnp.dtype(x.dtype).itemsize,
        abstract,
        shardings,
    )
    return sum(jax.tree.leaves(sizes))


def _count(shape: tuple[int, ...]) -> int:
    """Number of elements of a shape."""
    count = 1
    for size in shape:
        count *= size
    return count
