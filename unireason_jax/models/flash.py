"""Block-sparse flash attention for TPU under the visibility rule: tiles nobody sees cost nothing.

FlashAttention (Dao et al., 2022) with the rule of `visibility` evaluated inside the kernel, so a
mask is never stored. Which pairs of tiles are walked follows from the bounds of the queries and all
keys (see `chunked.active_blocks`), separately for every row. The list has room for all pairs, so it
cannot overflow, and the kernel's grid is as long as the longest list in use. The lists lie in
scalar memory, which is small: of many long rows some are attended to after the others.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from unireason_jax.models.chunked import Ids, active_blocks
from unireason_jax.models.flash_kernels import (
    SHIFT,
    Tensors,
    Tiles,
    Walk,
    key_gradients,
    outputs,
    query_gradient,
)
from unireason_jax.rules.visibility import NOTHING, PADDING

SCALARS = (1 << 20) * 7 // 8  # bytes of a core's scalar memory (1 MiB) that lists may take


class RowTooLong(ValueError):
    """The list of one row is too long for scalar memory; the message says what helps."""


def default_tiles(group: int, queries: int, keys: int) -> Tiles:
    """Tiles of about 1024 queries (all heads together) by 384 keys: equal parts of whole lanes.

    Larger tiles would take fewer steps, but the pairs on the borders of images that nobody sees
    would cost more than 5 % of a 7B step in rows of 50k tokens.

    Args:
      group: query heads per key head.
      queries: queries of a row.
      keys: keys of a row.
    """

    def even(tokens: int, most: int) -> int:
        count = max(1, -(-tokens // most))
        return max(1, -(-tokens // (count * 128))) * 128

    return Tiles(even(queries, max(1, 1024 // (group * 128)) * 128), even(keys, 384))


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def flash_attention(
    q: jax.Array, k: jax.Array, v: jax.Array, ids: Ids, tiles: Tiles, interpret: bool = False
) -> jax.Array:
    """Softmax attention under the visibility rule, by Pallas TPU kernels.

    Args:
      q: [B, T, N, H].
      k: [B, S, K, H]; N is a multiple of K.
      v: [B, S, K, H].
      ids: visibility of queries and keys.
      tiles: queries and keys of a tile (on TPU multiples of 128, see `default_tiles`).
      interpret: run the kernels' Python instead of compiling them, on any platform.

    Returns:
      [B, T, N, H] in q's dtype; zero for queries that see nothing.
    """
    return _forward(q, k, v, ids, tiles, interpret)[0]


def _forward(
    q: jax.Array, k: jax.Array, v: jax.Array, ids: Ids, tiles: Tiles, interpret: bool
) -> tuple[jax.Array, Any]:
    """The output, and what the backward pass needs."""
    ids = padded(ids, tiles)
    x = _tensors(q, k, v, ids, tiles)
    out, lse = _in_turns(outputs, x, active_tiles(ids, tiles), tiles, interpret)
    result = checkpoint_name(_untiled(out, q.shape, tiles), "attention")
    lse = checkpoint_name(lse[..., 0, :], "attention")
    return result, (q, k, v, ids, result, lse)


def _backward(tiles: Tiles, interpret: bool, saved: Any, d_result: jax.Array) -> Any:
    """Gradients of q, k and v."""
    q, k, v, ids, result, lse = saved
    product = jnp.sum(d_result.astype(jnp.float32) * result.astype(jnp.float32), axis=-1)
    kv_heads = k.shape[2]
    x = _tensors(q, k, v, ids, tiles)._replace(
        d_out=_tiled(d_result.astype(q.dtype), kv_heads, tiles),
        lse=lse[..., None, :],
        delta=jnp.swapaxes(_tiled(product[..., None], kv_heads, tiles), 3, 4),
    )
    active, scale = active_tiles(ids, tiles), q.shape[3] ** -0.5
    dq = _untiled(_in_turns(query_gradient, x, active, tiles, interpret), q.shape, tiles)
    dk, dv = _in_turns(key_gradients, x, jnp.swapaxes(active, 1, 2), tiles, interpret)
    dk, dv = (jnp.swapaxes(g, 1, 2)[:, : k.shape[1]] for g in (dk, dv))
    return dq * scale, dk * scale, dv, None


flash_attention.defvjp(_forward, _backward)


def rows_at_once(rows: int, pairs: int) -> int:
    """How many of some rows have lists that fit into scalar memory together; it divides them.

    Args:
      rows: rows of a device.
      pairs: pairs of tiles of a row.

    Raises:
      RowTooLong: the list of one row does not fit.
    """
    most = SCALARS // (4 * pairs)
    if not most:
        raise RowTooLong(
            f"attention: the list of a row's {pairs:,} pairs of tiles does not fit into the scalar "
            "memory of a TPU; share a row among devices (--config.mesh.context), or take shorter "
            "ones (--config.data.budgets)."
        )
    return max(turn for turn in range(1, min(most, rows) + 1) if rows % turn == 0)


def _in_turns(
    kernel: Callable, x: Tensors, active: jax.Array, tiles: Tiles, interpret: bool
) -> Any:
    """A kernel over all rows, so many at once as their lists allow."""
    rows = active.shape[0]
    turn = rows_at_once(rows, active.shape[1] * active.shape[2])

    def some(part: tuple[Tensors, jax.Array]) -> Any:
        return kernel(part[0], _walk(part[1]), tiles, interpret)

    if turn == rows:
        return some((x, active))
    parts = jax.tree.map(lambda a: a.reshape(-1, turn, *a.shape[1:]), (x, active))
    return jax.tree.map(lambda a: a.reshape(rows, *a.shape[2:]), jax.lax.map(some, parts))


def active_tiles(ids: Ids, tiles: Tiles) -> jax.Array:
    """Which pairs of tiles are walked in each row: [B, query tiles, key tiles] bool.

    Args:
      ids: visibility, padded to whole tiles.
      tiles: tokens of a tile.
    """

    def row(*ids: jax.Array) -> jax.Array:
        return active_blocks(Ids(*(x[None] for x in ids)), *tiles)

    return jax.vmap(row)(*ids)


def _walk(active: jax.Array) -> Walk:
    """The list of active pairs [B, outer, inner]; an outer tile without any gets inner tile 0."""
    rows, outer, inner = active.shape
    alone = ~jnp.any(active, axis=2, keepdims=True) & (jnp.arange(inner) == 0)
    active = (active | alone).reshape(rows, -1)
    place = jnp.arange(outer * inner, dtype=jnp.int32)
    order = jnp.argsort(~active, axis=1, stable=True).astype(jnp.int32)
    counts = jnp.sum(active, axis=1, dtype=jnp.int32)
    last = jnp.max(jnp.where(active, place, 0), axis=1, keepdims=True)
    order = jnp.where(place < counts[:, None], order, last)
    return Walk((order // inner << SHIFT | order % inner).reshape(-1), counts)


def padded(ids: Ids, tiles: Tiles) -> Ids:
    """Ids filled up to whole tiles with padding."""
    sizes = tiles.queries, tiles.queries, tiles.queries, tiles.keys
    fills = PADDING, PADDING, NOTHING, PADDING
    return Ids(
        *(
            jnp.pad(x, [(0, 0), (0, -x.shape[1] % size)], constant_values=fill)
            for x, size, fill in zip(ids, sizes, fills)
        )
    )


def _tensors(q: jax.Array, k: jax.Array, v: jax.Array, ids: Ids, tiles: Tiles) -> Tensors:
    """Inputs in the kernels' layout, ids padded already."""
    seen = jnp.stack([x.reshape(x.shape[0], -1, tiles.queries) for x in ids[:3]], axis=2)
    more = [(0, 0), (0, 0), (0, -k.shape[1] % tiles.keys), (0, 0)]
    k, v = (jnp.pad(jnp.swapaxes(x, 1, 2), more) for x in (k, v))
    return Tensors(_tiled(q, k.shape[1], tiles), k, v, seen, ids.key[:, None])


def _tiled(x: jax.Array, kv_heads: int, tiles: Tiles) -> jax.Array:
    """[B, T, K * G, H] -> [B, K, n, G * tile, H], zero-padded to whole tiles."""
    rows, length, heads, size = x.shape
    x = jnp.pad(x, [(0, 0), (0, -length % tiles.queries), (0, 0), (0, 0)])
    x = x.reshape(rows, -1, tiles.queries, kv_heads, heads // kv_heads, size)
    return x.transpose(0, 3, 1, 4, 2, 5).reshape(rows, kv_heads, x.shape[1], -1, size)


def _untiled(x: jax.Array, shape: tuple[int, ...], tiles: Tiles) -> jax.Array:
    """Inverse of `_tiled`, without the padding."""
    rows, kv_heads, count, _, size = x.shape
    x = x.reshape(rows, kv_heads, count, -1, tiles.queries, size).transpose(0, 2, 4, 1, 3, 5)
    return x.reshape(rows, -1, *shape[2:])[:, : shape[1]]
