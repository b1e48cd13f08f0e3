"""Sums over the devices of a batch that are sent once, straight to where the result is stored."""

import math

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from unireason_jax.pods.sharding import constrain, fitted_spec


def pieces_of(size: int, logical: str) -> int:
    """Into how many pieces the mesh that is set divides a dimension; 1 without a mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return 1
    (axes,) = fitted_spec((size,), (logical,), mesh.shape)
    return math.prod(mesh.shape[axis] for axis in _several(axes))


def _several(axes: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """The mesh axes of one dimension, as a PartitionSpec has them."""
    return (axes,) if isinstance(axes, str) else axes or ()


def summed(x: jax.Array, *logical: str | None) -> jax.Array:
    """The sum over a leading dimension that lies on the devices of "batch", [pieces, D, ...].

    It is sent once, straight to where the result is stored: scattered over the axes that both use.

    Args:
      x: one term per piece of the batch (`pieces_of`).
      logical: names of the result's dimensions.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return jnp.sum(x, axis=0)
    (rows,) = fitted_spec(x.shape[:1], ("batch",), mesh.shape)
    first, *others = fitted_spec(x.shape[1:], logical, mesh.shape)
    both = tuple(axis for axis in _several(first) if axis in _several(rows))
    rest = tuple(axis for axis in _several(rows) if axis not in both)

    def local(terms: jax.Array) -> jax.Array:
        total = terms[0]
        for axis in both:
            total = jax.lax.psum_scatter(total, axis, scatter_dimension=0, tiled=True)
        return jax.lax.psum(total, rest) if rest else total

    specs = {"in_specs": PartitionSpec(rows, None, *others)}
    specs |= {"out_specs": PartitionSpec(both or None, *others)}
    return constrain(jax.shard_map(local, **specs, check_vma=False)(x), *logical)
