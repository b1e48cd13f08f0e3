"""Attention in blocks: memory linear in the row, and blocks that nobody may look into skipped.

Queries are walked chunk by chunk and, for each chunk, the blocks of keys that hold anything
visible, under an online softmax (FlashAttention, Dao et al., 2022). The backward pass recomputes
the weights from the saved log-sum-exp. Which blocks are visible follows from the smallest and
largest visibility numbers of a chunk and all keys, over all rows; inside a block the rule is exact.

Plain XLA: it compiles for every platform and is fastest on none but the CPU, whose matmuls decide
the orientation of every product below (scores queries by keys in the forward pass, keys by queries
in the backward pass).
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from unireason_jax.models.layers import precision
from unireason_jax.rules.visibility import NOTHING, PADDING, visible

MASKED = -1e30
UNSEEN = -1e20
FAR = jnp.iinfo(jnp.int32).max


class Ids(NamedTuple):
    """Visibility of queries (lo, hi, own) [B, T] and keys (key) [B, S], int32."""

    lo: jax.Array
    hi: jax.Array
    own: jax.Array
    key: jax.Array


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def chunked_attention(
    q: jax.Array, k: jax.Array, v: jax.Array, ids: Ids, chunk: int, block: int
) -> jax.Array:
    """Softmax attention under the visibility rule, `chunk` queries by `block` keys at a time.

    Args:
      q: [B, T, N, H].
      k: [B, S, K, H]; N is a multiple of K.
      v: [B, S, K, H].
      ids: visibility of queries and keys.
      chunk: queries at a time.
      block: keys at a time.

    Returns:
      [B, T, N, H] in q's dtype; zero for padding queries and those that see nothing.
    """
    return _forward(q, k, v, ids, chunk, block)[0]


def _forward(
    q: jax.Array, k: jax.Array, v: jax.Array, ids: Ids, chunk: int, block: int
) -> tuple[jax.Array, Any]:
    """The output, and what the backward pass needs."""
    kv_heads, size = k.shape[2:]
    group = q.shape[2] // kv_heads
    queries, keys, plan = _padded(ids, q.shape[1], k.shape[1], chunk, block)
    parts = _chunks(q, kv_heads, chunk)
    kh, vh = (_head_major(x, block) for x in (k, v))
    rows, width = q.shape[0], group * chunk

    def walk(_: None, part: Any) -> tuple[None, Any]:
        qc, lo, hi, own, active, count = part

        def step(i: jax.Array, carry: Any) -> Any:
            total, peak, out = carry
            kb, vb, key = (_block(x, active[i], block) for x in (kh, vh, keys))
            bias = _bias(lo[:, :, None], hi[:, :, None], own[:, :, None], key[:, None])
            s = _dot(qc, kb, 3, 3).reshape(rows, kv_heads, group, chunk, block)
            s = (s * size**-0.5 + bias[:, None, None]).reshape(rows, kv_heads, width, block)
            top = jnp.maximum(peak, jnp.max(s, axis=-1))
            weights = jnp.exp(s - top[..., None])
            shrink = jnp.exp(peak - top)
            out = out * shrink[..., None] + _dot(weights.astype(vb.dtype), vb, 3, 2)
            return total * shrink + jnp.sum(weights, axis=-1), top, out

        flat = (rows, kv_heads, width)
        start = jnp.zeros(flat), jnp.full(flat, UNSEEN), jnp.zeros((*flat, size))
        total, peak, out = jax.lax.fori_loop(0, count, step, start)
        total = jnp.where(total > 0, total, 1.0)
        return None, (out / total[..., None], peak + jnp.log(total))

    _, (out, lse) = jax.lax.scan(walk, None, (parts, *queries, *plan))
    result = checkpoint_name(_unchunk(out, q.shape, group).astype(q.dtype), "attention")
    lse = checkpoint_name(lse, "attention")
    return result, (q, k, v, ids, result, lse)


def _backward(chunk: int, block: int, saved: Any, d_result: jax.Array) -> Any:
    """Gradients of q, k and v."""
    q, k, v, ids, result, lse = saved
    kv_heads, size = k.shape[2:]
    group = q.shape[2] // kv_heads
    queries, keys, plan = _padded(ids, q.shape[1], k.shape[1], chunk, block)
    qs, ds = (_chunks(x, kv_heads, chunk) for x in (q, d_result.astype(q.dtype)))
    product = jnp.sum(d_result.astype(jnp.float32) * result.astype(jnp.float32), axis=-1)
    delta = _chunks(product[..., None], kv_heads, chunk)[..., 0]
    kh, vh = (_head_major(x, block) for x in (k, v))
    rows, width = q.shape[0], group * chunk
    split = (rows, kv_heads, block, group, chunk)

    def walk(carry: Any, part: Any) -> tuple[Any, jax.Array]:
        qc, dc, row_lse, row_delta, lo, hi, own, active, count = part
        row_lse = row_lse.reshape(rows, kv_heads, 1, group, chunk)

        def step(i: jax.Array, carry: Any) -> Any:
            dk, dv, dq = carry
            kb, vb, key = (_block(x, active[i], block) for x in (kh, vh, keys))
            bias = _bias(lo[:, None], hi[:, None], own[:, None], key[:, :, None])
            s = _dot(kb, qc, 3, 3).reshape(split) * size**-0.5 + bias[:, None, :, None]
            weights = jnp.exp(s - row_lse).reshape(rows, kv_heads, block, width)
            d_s = weights * (_dot(vb, dc, 3, 3) - row_delta[:, :, None])
            weights, d_s = weights.astype(q.dtype), d_s.astype(q.dtype)
            dq = dq + _dot(jnp.swapaxes(kb, 2, 3), d_s, 3, 2)
            dk = _add_block(dk, _dot(d_s, qc, 3, 2), active[i], block)
            dv = _add_block(dv, _dot(weights, dc, 3, 2), active[i], block)
            return dk, dv, dq

        dq = jnp.zeros((rows, kv_heads, size, width))
        *carry, dq = jax.lax.fori_loop(0, count, step, (*carry, dq))
        return tuple(carry), jnp.swapaxes(dq, 2, 3)

    zero = jnp.zeros(kh.shape)
    xs = (qs, ds, lse, delta, *queries, *plan)
    (dk, dv), dq = jax.lax.scan(walk, (zero, zero), xs)
    dq = _unchunk(dq, q.shape, group) * size**-0.5
    dk, dv = (jnp.moveaxis(x, 1, 2)[:, : k.shape[1]] for x in (dk * size**-0.5, dv))
    return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype), None


chunked_attention.defvjp(_forward, _backward)


def active_blocks(ids: Ids, chunk: int, block: int) -> jax.Array:
    """Which blocks of keys some query of a chunk may see in some row: [chunks, blocks] bool.

    Never false where something is visible; true where nothing is only between the bounds of the
    queries of a chunk. Padding is ignored.
    """
    lo, hi, own, key = ids
    real, noised = lo != PADDING, own != NOTHING
    low = _least(jnp.where(real, lo, FAR), chunk)
    high = -_least(jnp.where(real, -hi, FAR), chunk)
    own_low = _least(jnp.where(noised, own, FAR), chunk)
    own_high = -_least(jnp.where(noised, -own, FAR), chunk)
    low, high, own_low, own_high = (x[..., None] for x in (low, high, own_low, own_high))
    key = key[:, None]  # every key is compared: a block on the border of two streams has no bounds
    seen = (low <= key) & (key <= high) | (own_low <= key) & (key <= own_high)
    return jnp.any(seen.reshape(*seen.shape[:2], -1, block), axis=(0, 3))


def _least(x: jax.Array, size: int) -> jax.Array:
    """Minimum of every run of `size` numbers: [B, n * size] -> [B, n]."""
    return jnp.min(x.reshape(x.shape[0], -1, size), axis=-1)


def _padded(ids: Ids, length: int, keys: int, chunk: int, block: int) -> Any:
    """Ids filled up to whole chunks and blocks, and the plan of the walk.

    Returns:
      lo, hi and own by chunk [n, B, chunk]; key [B, S']; the blocks that each chunk walks first
      [n, blocks] and how many it walks [n].
    """
    more, extra = [(0, 0), (0, -length % chunk)], [(0, 0), (0, -keys % block)]
    lo, hi = (jnp.pad(x, more, constant_values=PADDING) for x in (ids.lo, ids.hi))
    own = jnp.pad(ids.own, more, constant_values=NOTHING)
    key = jnp.pad(ids.key, extra, constant_values=PADDING)
    active = active_blocks(Ids(lo, hi, own, key), chunk, block)
    order = jnp.argsort(~active, axis=1, stable=True).astype(jnp.int32)
    queries = [jnp.moveaxis(x.reshape(x.shape[0], -1, chunk), 1, 0) for x in (lo, hi, own)]
    return queries, key, (order, jnp.sum(active, axis=1))


def _bias(lo: jax.Array, hi: jax.Array, own: jax.Array, key: jax.Array) -> jax.Array:
    """0 where visible, MASKED elsewhere; materialised, so that heads do not each recompute it."""
    return jax.lax.optimization_barrier(jnp.where(visible(lo, hi, own, key), 0.0, MASKED))


def _chunks(x: jax.Array, kv_heads: int, chunk: int) -> jax.Array:
    """[B, T, K * G, H] -> [n, B, K, G * chunk, H], zero-padded to whole chunks."""
    rows, length, heads, size = x.shape
    x = jnp.pad(x, [(0, 0), (0, -length % chunk), (0, 0), (0, 0)])
    x = x.reshape(rows, -1, chunk, kv_heads, heads // kv_heads, size)
    return x.transpose(1, 0, 3, 4, 2, 5).reshape(x.shape[1], rows, kv_heads, -1, size)


def _unchunk(x: jax.Array, shape: tuple[int, ...], group: int) -> jax.Array:
    """Inverse of `_chunks`, without the padding."""
    count, rows, kv_heads, _, size = x.shape
    x = x.reshape(count, rows, kv_heads, group, -1, size).transpose(1, 0, 4, 2, 3, 5)
    return x.reshape(rows, -1, kv_heads * group, size)[:, : shape[1]]


def _head_major(x: jax.Array, block: int) -> jax.Array:
    """[B, S, K, H] -> [B, K, S', H], zero-padded to whole blocks."""
    x = jnp.pad(x, [(0, 0), (0, -x.shape[1] % block), (0, 0), (0, 0)])
    return jnp.moveaxis(x, 2, 1)


def _block(x: jax.Array, index: jax.Array, block: int) -> jax.Array:
    """A block of keys, along axis 2 of [B, K, S, H] or axis 1 of [B, S]."""
    return jax.lax.dynamic_slice_in_dim(x, index * block, block, axis=2 if x.ndim == 4 else 1)


def _add_block(x: jax.Array, value: jax.Array, index: jax.Array, block: int) -> jax.Array:
    """Adds to a block of [B, K, S, H]."""
    value = value + _block(x, index, block)
    return jax.lax.dynamic_update_slice_in_dim(x, value, index * block, axis=2)


def _dot(a: jax.Array, b: jax.Array, a_axis: int, b_axis: int) -> jax.Array:
    """Product batched over rows and heads, contracting one axis of each, summed in float32."""
    dims = (((a_axis,), (b_axis,)), ((0, 1), (0, 1)))
    return jax.lax.dot_general(
        a, b, dims, precision=precision(a.dtype), preferred_element_type=jnp.float32
    )
