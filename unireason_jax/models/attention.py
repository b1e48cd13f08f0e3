"""Masked attention with grouped heads, one function with named backends.

Who sees whom is never an array of booleans in the batch: every query carries three integers and
every key one (see `visibility`), and a backend evaluates the rule where it needs it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from unireason_jax.models.chunked import MASKED, Ids, chunked_attention
from unireason_jax.models.flash import default_tiles, flash_attention
from unireason_jax.models.flash_gpu import default_tilings, gpu_attention
from unireason_jax.models.layers import precision
from unireason_jax.pods.sharding import divides, per_device, platform
from unireason_jax.rules.visibility import visible


class Queries(NamedTuple):
    """What each query may see: three int32 arrays [B, T] (see `visibility.visible`)."""

    lo: jax.Array
    hi: jax.Array
    own: jax.Array


class Keys(NamedTuple):
    """Keys and values [B, S, K, H] with their visibility ids [B, S] int32."""

    k: jax.Array
    v: jax.Array
    ids: jax.Array


class CachedKeys(NamedTuple):
    """The same of a cache, k and v [B, K, S, H]: in this order a product with few queries reads
    them where they are, and copies nothing. They may be of fewer bits than the queries.
    """

    k: jax.Array
    v: jax.Array
    ids: jax.Array


def attend(
    q: jax.Array,
    queries: Queries,
    keys: Keys,
    cached: CachedKeys | None = None,
    *,
    backend: str = "auto",
    chunk: int = 128,
) -> jax.Array:
    """Softmax attention of every query over all the visible keys of its row.

    Args:
      q: [B, T, N, H]; N is a multiple of K, and query head n reads key head n // (N / K).
      queries: visibility of the queries.
      keys: those of the new tokens.
      cached: those of a cache, under one joint softmax with them.
      backend: "dense" holds all scores, and its keys are not copied: for few queries; "chunked"
        has memory linear in the row and skips what nobody sees; "flash" does so in the kernels of
        `flash` or, on GPU, of `flash_gpu`; "auto" is dense up to `chunk` queries, else flash on TPU
        and GPU and chunked on CPU.
      chunk: queries, and keys, that the chunked backend handles at a time.

    Returns:
      [B, T, N, H] in q's dtype. What a query that sees no key gets is finite, and of no meaning.
    """
    length, where = q.shape[1], platform()
    if cached is not None:
        k, v = (x.astype(q.dtype) for x in (cached.k, cached.v))
        cached = CachedKeys(k, v, cached.ids)
    if backend == "auto":
        kernels = where != "cpu" and divides()
        backend = "dense" if length <= chunk else "flash" if kernels else "chunked"
    with jax.named_scope("attention"):
        if backend == "dense" or not length:
            return checkpoint_name(_dense(q, queries, keys, cached), "attention")
        k, v, ids = keys
        if cached is not None:
            before = *(jnp.moveaxis(x, 1, 2) for x in (cached.k, cached.v)), cached.ids
            k, v, ids = (jnp.concatenate(x, axis=1) for x in zip(before, keys))

        def local(q: jax.Array, k: jax.Array, v: jax.Array, *ids: jax.Array) -> jax.Array:
            flat = q.reshape(*q.shape[:2], -1, q.shape[4])
            if backend == "flash" and where == "gpu":
                out = gpu_attention(flat, k, v, Ids(*ids), default_tilings(q.dtype))
            elif backend == "flash":
                tiles = default_tiles(q.shape[3], q.shape[1], k.shape[1])
                out = flash_attention(flat, k, v, Ids(*ids), tiles, where != "tpu")
            else:
                out = chunked_attention(flat, k, v, Ids(*ids), chunk, chunk)
            return out.reshape(q.shape)

        grouped = q.reshape(*q.shape[:2], k.shape[2], -1, q.shape[3])
        row = ("batch", "length")
        names = [(*row, "kv_heads", None, None), *[("batch", None, "kv_heads", None)] * 2]
        names += [*[row] * 3, ("batch", None)]
        return per_device(local, (grouped, k, v, *queries, ids), names).reshape(q.shape)


def _dense(q: jax.Array, queries: Queries, keys: Keys, cached: CachedKeys | None) -> jax.Array:
    """All scores at once, float32 [B, K, G, T, S]."""
    rows, length, heads, size = q.shape
    kv_heads = keys.k.shape[2]
    blocks = [(cached, "BKSH")] * (cached is not None) + [(keys, "BSKH")]
    q = q.reshape(rows, length, kv_heads, heads // kv_heads, size)
    mode = {"precision": precision(q.dtype), "preferred_element_type": jnp.float32}
    lo, hi, own = (x[:, None, None, :, None] for x in queries)
    scores = []
    for block, axes in blocks:
        allowed = visible(lo, hi, own, block.ids[:, None, None, None, :])
        score = jnp.einsum(f"BTKGH,{axes}->BKGTS", q, block.k, **mode) * size**-0.5
        scores.append(jnp.where(allowed, score, MASKED))
    top = jnp.max(jnp.stack([jnp.max(s, axis=-1) for s in scores]), axis=0)
    top = jax.lax.stop_gradient(top)[..., None]
    weights = [jnp.exp(s - top) for s in scores]
    total = sum(jnp.sum(w, axis=-1) for w in weights)
    parts = [
        jnp.einsum(f"BKGTS,{axes}->BKGTH", w.astype(block.v.dtype), block.v, **mode)
        for w, (block, axes) in zip(weights, blocks)
    ]
    # not in the order of the result: XLA's CPU backend has no such product of bfloat16
    out = jnp.moveaxis(sum(parts) / total[..., None], 3, 1)
    return out.reshape(rows, length, heads, size).astype(q.dtype)
