"""Block-sparse flash attention for GPU under the visibility rule, in Pallas (Triton).

The same algorithm as `flash` has for TPU: tiles that nobody sees are not walked, the rule is
evaluated inside the kernels (`flash_gpu_kernels`), and a mask is never stored.

JAX means to remove this backend of Pallas after 0.12: the pins in pyproject.toml keep it until the
kernels are ported (to Mosaic GPU, or to Triton itself through jax-triton).
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from unireason_jax.models.chunked import Ids
from unireason_jax.models.flash import active_tiles
from unireason_jax.models.flash_gpu_kernels import (
    Call,
    Kernel,
    Walk,
    key_kernel,
    output_kernel,
    query_kernel,
)
from unireason_jax.models.flash_kernels import Tiles


class Tilings(NamedTuple):
    """The three kernels: output, gradient of queries, gradients of keys and values."""

    output: Kernel
    queries: Kernel
    keys: Kernel


def default_tilings(dtype: Any) -> Tilings:
    """The fastest of the tiles tried on an H200 (`unireason bench attention --sweep`).

    They take 128 KiB of shared memory: chips with less need `--config.model.attention=chunked`.
    """
    if jnp.dtype(dtype).itemsize > 2:
        return Tilings(
            Kernel(Tiles(64, 32), 4, 2), Kernel(Tiles(64, 32), 4, 2), Kernel(Tiles(32, 64), 4, 2)
        )
    return Tilings(
        Kernel(Tiles(128, 64), 4, 3), Kernel(Tiles(64, 64), 4, 2), Kernel(Tiles(64, 64), 4, 2)
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def gpu_attention(
    q: jax.Array, k: jax.Array, v: jax.Array, ids: Ids, tilings: Tilings, interpret: bool = False
) -> jax.Array:
    """`flash.flash_attention` by kernels for GPU: the same arguments, but for how they are cut.

    Args:
      q, k, v, ids, interpret: see there.
      tilings: the three kernels (`default_tilings`).

    Returns:
      [B, T, N, H] in q's dtype; zero for queries that see nothing.
    """
    return _forward(q, k, v, ids, tilings, interpret)[0]


def _forward(
    q: jax.Array, k: jax.Array, v: jax.Array, ids: Ids, tilings: Tilings, interpret: bool
) -> tuple[jax.Array, Any]:
    """The output, and what the backward pass needs."""
    call = Call(q, k, ids, tilings.output, interpret)
    x = call.inputs(q, k, v, _walk(*_pairs(call)))
    lse = jax.ShapeDtypeStruct((q.shape[0], q.shape[2], call.queries), jnp.float32)
    out, lse = call(output_kernel, x, {"q": x.q, "lse": lse})
    result = checkpoint_name(out[:, : q.shape[1], :, : q.shape[3]], "attention")
    lse = checkpoint_name(lse[:, :, : q.shape[1]], "attention")
    return result, (q, k, v, ids, result, lse)


def _backward(tilings: Tilings, interpret: bool, saved: Any, d_result: jax.Array) -> Any:
    """Gradients of q, k and v."""
    q, k, v, ids, result, lse = saved
    delta = jnp.einsum("BTNH,BTNH->BNT", d_result.astype(jnp.float32), result.astype(jnp.float32))
    more = d_result.astype(q.dtype), lse, delta

    call = Call(q, k, ids, tilings.queries, interpret)
    x = call.inputs(q, k, v, _walk(*_pairs(call)), *more)
    (dq,) = call(query_kernel, x, {"q": x.q})

    call = Call(q, k, ids, tilings.keys, interpret, by_key=True)
    x = call.inputs(q, k, v, _walk(*(jnp.swapaxes(x, 1, 2) for x in _pairs(call))), *more)
    dk, dv = call(key_kernel, x, {"k": x.k, "v": x.v})
    dk, dv = (x[:, : k.shape[1], :, : k.shape[3]] for x in (dk, dv))
    return dq[:, : q.shape[1], :, : q.shape[3]], dk, dv, None


gpu_attention.defvjp(_forward, _backward)


def whole_tiles(ids: Ids, tiles: Tiles) -> jax.Array:
    """Which pairs of tiles are visible in all their parts: [B, query tiles, key tiles] bool."""

    def bounds(x: jax.Array, size: int) -> tuple[jax.Array, jax.Array]:
        x = x.reshape(x.shape[0], -1, size)
        return jnp.min(x, axis=2), jnp.max(x, axis=2)

    lo, hi, own = (
        [y[:, :, None] for y in bounds(x, tiles.queries)] for x in (ids.lo, ids.hi, ids.own)
    )
    first, last = (x[:, None] for x in bounds(ids.key, tiles.keys))
    same = (own[0] == own[1]) & (first == last) & (own[0] == first)
    return (lo[1] <= first) & (last <= hi[0]) | same


def _pairs(call: Call) -> tuple[jax.Array, jax.Array]:
    """Pairs of tiles that are walked, and those of them that need no mask."""
    return active_tiles(call.ids, call.kernel.tiles), whole_tiles(call.ids, call.kernel.tiles)


def _walk(active: jax.Array, whole: jax.Array) -> Walk:
    """The tiles that each outer tile meets, from [B, outer, inner] bool."""
    kind = jnp.where(active, jnp.where(whole, 0, 1), 2)
    counts = jnp.stack([jnp.sum(kind < n, axis=2, dtype=jnp.int32) for n in (1, 2)], axis=2)
    return Walk(jnp.argsort(kind, axis=2, stable=True).astype(jnp.int32), counts)
