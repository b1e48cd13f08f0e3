"""Moments of Adam in fewer bits: bfloat16, or one byte each with a scale a row.

A byte holds a power of the moment relative to the largest of its last axis, so that small ones keep
their digits: the square root of the first moment with its sign, the fourth root of the second. A
second moment that is not zero never becomes zero: its step would be without bound.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

DTYPES = ("float32", "bfloat16", "int8")


class Packed(NamedTuple):
    """Moments of one tree; `scale` is {} unless they are bytes.

    Attributes:
      values: like the parameters.
      scale: float32, the last axis of size 1.
    """

    values: Any
    scale: Any


class AdamState(NamedTuple):
    """Steps so far (i32), and both moments."""

    count: jax.Array
    mu: Packed
    nu: Packed


def scale_by_adam(
    b1: float, b2: float, eps: float, mu_dtype: str, nu_dtype: str
) -> optax.GradientTransformation:
    """`optax.scale_by_adam` whose moments are kept in `mu_dtype` and `nu_dtype`."""
    adam = optax.scale_by_adam(b1=b1, b2=b2, eps=eps)

    def init(params: Any) -> AdamState:
        state = adam.init(params)
        packed = pack(state.mu, mu_dtype, signed=True), pack(state.nu, nu_dtype, signed=False)
        return AdamState(state.count, *packed)

    def update(grads: Any, state: AdamState, params: Any = None) -> tuple[Any, AdamState]:
        mu, nu = unpack(state.mu, signed=True), unpack(state.nu, signed=False)
        updates, new = adam.update(grads, optax.ScaleByAdamState(state.count, mu, nu), params)
        packed = pack(new.mu, mu_dtype, signed=True), pack(new.nu, nu_dtype, signed=False)
        return updates, AdamState(new.count, *packed)

    return optax.GradientTransformation(init, update)


def pack(tree: Any, dtype: str, *, signed: bool) -> Packed:
    """Float32 moments in a dtype; "int8" is an unsigned byte where there is no sign."""
    if dtype != "int8":
        return Packed(jax.tree.map(lambda x: x.astype(dtype), tree), {})
    scale = jax.tree.map(_largest, tree)
    encode = _signed if signed else _unsigned
    return Packed(jax.tree.map(encode, tree, scale), scale)


def unpack(packed: Packed, *, signed: bool) -> Any:
    """Inverse of `pack`, in float32."""
    if not packed.scale:
        return jax.tree.map(lambda x: x.astype(jnp.float32), packed.values)

    def decode(codes: jax.Array, scale: jax.Array) -> jax.Array:
        x = codes.astype(jnp.float32)
        return scale * (jnp.sign(x) * (x / 127) ** 2 if signed else (x / 255) ** 4)

    return jax.tree.map(decode, packed.values, packed.scale)


def _largest(x: jax.Array) -> jax.Array:
    """The largest magnitude of the last axis."""
    return jnp.max(jnp.abs(x), axis=-1, keepdims=True) if x.ndim else jnp.abs(x)


def _relative(x: jax.Array, scale: jax.Array) -> jax.Array:
    return jnp.abs(x) / jnp.where(scale > 0, scale, 1.0)


def _signed(x: jax.Array, scale: jax.Array) -> jax.Array:
    return (jnp.sign(x) * jnp.round(127 * jnp.sqrt(_relative(x, scale)))).astype(jnp.int8)


def _unsigned(x: jax.Array, scale: jax.Array) -> jax.Array:
    codes = jnp.round(255 * jnp.sqrt(jnp.sqrt(_relative(x, scale))))
    return jnp.where(x > 0, jnp.maximum(codes, 1), 0).astype(jnp.uint8)
