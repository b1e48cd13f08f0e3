"""The three Pallas TPU kernels of `flash`: output, gradient of queries, gradient of keys.

All work on transposed scores [keys, queries], so that softmax statistics are rows along the lanes
and no large matrix is transposed. Queries of the heads that share a key head lie side by side in
one tile of width W = G * tile.queries, and the visibility of a tile is computed once for them.

A kernel's grid is (row, key head, step); which tile of queries meets which tile of keys in a step
is read from a list in scalar memory (`Walk`), and only listed pairs are loaded or computed.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from unireason_jax.models.layers import precision
from unireason_jax.rules.visibility import visible

MASKED = -1e30
UNSEEN = -1e20
SHIFT = 16  # an entry of a walk is outer tile << SHIFT | inner tile


class Tiles(NamedTuple):
    """Tokens of a tile: queries (of each head) and keys."""

    queries: int
    keys: int


class Walk(NamedTuple):
    """Pairs of tiles in the order of the outer one.

    Attributes:
      entries: [B * length] int32, outer << SHIFT | inner; beyond the count the last one again.
      counts: [B] int32, entries that count, at least one per outer tile.
    """

    entries: jax.Array
    counts: jax.Array


class Tensors(NamedTuple):
    """What the kernels read; the gradients' last three are None in the forward pass.

    Attributes:
      q: [B, K, n, W, H] queries by tile.
      k, v: [B, K, S, H].
      seen: [B, n, 3, tile.queries] int32, lo, hi and own by tile.
      key: [B, 1, S] int32.
      d_out: like q.
      lse, delta: [B, K, n, 1, W] float32.
    """

    q: jax.Array
    k: jax.Array
    v: jax.Array
    seen: jax.Array
    key: jax.Array
    d_out: jax.Array | None = None
    lse: jax.Array | None = None
    delta: jax.Array | None = None


def outputs(x: Tensors, walk: Walk, tiles: Tiles, interpret: bool) -> tuple[jax.Array, jax.Array]:
    """Attention of every query: (like q, log-sum-exp of its scores like lse)."""
    lse = jax.ShapeDtypeStruct((*x.q.shape[:3], 1, x.q.shape[3]), jnp.float32)
    width, size = x.q.shape[3:]
    scratch = [(1, width), (1, width), (size, width)]
    results = (x.q, "query"), (lse, "query")
    return _call(_output_kernel, x, walk, tiles, "query", results, scratch, interpret)


def query_gradient(x: Tensors, walk: Walk, tiles: Tiles, interpret: bool) -> jax.Array:
    """Gradient of q, without the factor of the scores' scale."""
    scratch = [(x.q.shape[4], x.q.shape[3])]
    results = ((x.q, "query"),)
    return _call(_query_kernel, x, walk, tiles, "query", results, scratch, interpret)[0]


def key_gradients(
    x: Tensors, walk: Walk, tiles: Tiles, interpret: bool
) -> tuple[jax.Array, jax.Array]:
    """Gradients of k (without the factor of the scores' scale) and v; `walk` is by key tile."""
    scratch = [(tiles.keys, x.k.shape[3])] * 2
    results = (x.k, "key"), (x.v, "key")
    return _call(_key_kernel, x, walk, tiles, "key", results, scratch, interpret)


def _call(
    kernel: Callable,
    x: Tensors,
    walk: Walk,
    tiles: Tiles,
    outer: str,
    results: Sequence[tuple[Any, str]],
    scratch: Sequence[tuple[int, int]],
    interpret: bool,
) -> Any:
    """Runs a kernel over all rows, key heads and listed pairs of tiles."""
    rows, kv_heads, _, width, size = x.q.shape
    length = walk.entries.shape[0] // rows
    by_query = outer == "query"

    def tile(kind: str, row: Any, step: Any, entries: Any) -> Any:
        entry = entries[row * length + step]
        return entry >> SHIFT if (kind == "query") == by_query else entry & ((1 << SHIFT) - 1)

    def at_query(b: Any, h: Any, s: Any, entries: Any, counts: Any) -> Any:
        return b, h, tile("query", b, s, entries), 0, 0

    def at_key(b: Any, h: Any, s: Any, entries: Any, counts: Any) -> Any:
        return b, h, tile("key", b, s, entries), 0

    def at_seen(b: Any, h: Any, s: Any, entries: Any, counts: Any) -> Any:
        return b, tile("query", b, s, entries), 0, 0

    def at_ids(b: Any, h: Any, s: Any, entries: Any, counts: Any) -> Any:
        return b, 0, tile("key", b, s, entries)

    wide = pl.BlockSpec((1, 1, 1, width, size), at_query)
    thin = pl.BlockSpec((1, 1, 1, 1, width), at_query)
    keys = pl.BlockSpec((1, 1, tiles.keys, size), at_key)
    specs = Tensors(
        q=wide,
        k=keys,
        v=keys,
        seen=pl.BlockSpec((1, 1, 3, tiles.queries), at_seen),
        key=pl.BlockSpec((1, 1, tiles.keys), at_ids),
        d_out=wide,
        lse=thin,
        delta=thin,
    )
    given = [i for i, array in enumerate(x) if array is not None]

    def body(entries: Any, counts: Any, *refs: Any) -> None:
        inputs = dict(zip((Tensors._fields[i] for i in given), refs))
        row, step = pl.program_id(0), pl.program_id(2)
        count, start = counts[row], row * length

        def outer_at(step: Any) -> Any:
            return entries[start + step] >> SHIFT

        here = outer_at(step)
        first = (step == 0) | (outer_at(jnp.maximum(step - 1, 0)) != here)
        last = (step == count - 1) | (outer_at(jnp.minimum(step + 1, length - 1)) != here)

        @pl.when(step < count)
        def _() -> None:
            kernel(inputs, refs[len(given) :], first, last, size**-0.5)

    out = [
        pl.BlockSpec(wide.block_shape if a.shape == x.q.shape else thin.block_shape, at_query)
        if kind == "query"
        else keys
        for a, kind in results
    ]
    return pl.pallas_call(
        body,
        out_shape=[jax.ShapeDtypeStruct(a.shape, a.dtype) for a, _ in results],
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=(rows, kv_heads, jnp.max(walk.counts)),
            in_specs=[specs[i] for i in given],
            out_specs=out,
            scratch_shapes=[pltpu.VMEM(shape, jnp.float32) for shape in scratch],
        ),
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "arbitrary")
        ),
        interpret=interpret,
        name=kernel.__name__.strip("_"),
    )(*walk, *(x[i] for i in given))


def _output_kernel(x: dict, refs: Any, first: Any, last: Any, scale: float) -> None:
    """Online softmax over the keys of a tile of queries."""
    out, lse, total, peak, mixed = refs

    @pl.when(first)
    def _() -> None:
        total[...] = jnp.zeros_like(total)
        peak[...] = jnp.full_like(peak, UNSEEN)
        mixed[...] = jnp.zeros_like(mixed)

    v = x["v"][0, 0]
    scores = _scores(x, scale)
    top = jnp.maximum(peak[...], jnp.max(scores, axis=0, keepdims=True))
    weights = jnp.exp(scores - top)
    shrink = jnp.exp(peak[...] - top)
    peak[...] = top
    total[...] = total[...] * shrink + jnp.sum(weights, axis=0, keepdims=True)
    mixed[...] = mixed[...] * shrink + dot(v, weights.astype(v.dtype), 0, 0)

    @pl.when(last)
    def _() -> None:
        whole = jnp.where(total[...] > 0, total[...], 1.0)
        out[0, 0, 0] = (mixed[...] / whole).T.astype(out.dtype)
        lse[0, 0, 0] = peak[...] + jnp.log(whole)


def _query_kernel(x: dict, refs: Any, first: Any, last: Any, scale: float) -> None:
    """Sums over the keys of a tile of queries."""
    out, d_q = refs

    @pl.when(first)
    def _() -> None:
        d_q[...] = jnp.zeros_like(d_q)

    k = x["k"][0, 0]
    d_scores = _backward(x, scale)[1]
    d_q[...] += dot(k, d_scores, 0, 0)

    @pl.when(last)
    def _() -> None:
        out[0, 0, 0] = d_q[...].T.astype(out.dtype)


def _key_kernel(x: dict, refs: Any, first: Any, last: Any, scale: float) -> None:
    """Sums over the queries of a tile of keys."""
    out_k, out_v, d_k, d_v = refs

    @pl.when(first)
    def _() -> None:
        d_k[...] = jnp.zeros_like(d_k)
        d_v[...] = jnp.zeros_like(d_v)

    weights, d_scores = _backward(x, scale)
    d_k[...] += dot(d_scores, x["q"][0, 0, 0], 1, 0)
    d_v[...] += dot(weights, x["d_out"][0, 0, 0], 1, 0)

    @pl.when(last)
    def _() -> None:
        out_k[0, 0] = d_k[...].astype(out_k.dtype)
        out_v[0, 0] = d_v[...].astype(out_v.dtype)


def _scores(x: dict, scale: float) -> jax.Array:
    """Scaled scores of a tile [keys, W] float32, MASKED where the rule does not allow them."""
    q, k = x["q"][0, 0, 0], x["k"][0, 0]
    lo, hi, own = (x["seen"][0, 0, i : i + 1, :] for i in range(3))
    allowed = visible(lo, hi, own, x["key"][0].T)
    bias = jnp.where(allowed, 0.0, MASKED)
    return dot(k, q, 1, 1) * scale + jnp.tile(bias, (1, q.shape[0] // lo.shape[1]))


def _backward(x: dict, scale: float) -> tuple[jax.Array, jax.Array]:
    """Weights of a tile and gradients of its scores, [keys, W] in the inputs' dtype."""
    v, d_out = x["v"][0, 0], x["d_out"][0, 0, 0]
    weights = jnp.exp(_scores(x, scale) - x["lse"][0, 0, 0])
    d_scores = weights * (dot(v, d_out, 1, 1) - x["delta"][0, 0, 0])
    return weights.astype(v.dtype), d_scores.astype(v.dtype)


def dot(a: jax.Array, b: jax.Array, a_axis: int, b_axis: int) -> jax.Array:
    """Product contracting one axis of each, summed in float32."""
    return jax.lax.dot_general(
        a,
        b,
        (((a_axis,), (b_axis,)), ((), ())),
        precision=precision(a.dtype),
        preferred_element_type=jnp.float32,
    )
