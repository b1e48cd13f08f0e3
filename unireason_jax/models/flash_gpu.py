"""Block-sparse flash attention for GPU under the visibility rule, in Pallas (Triton).

The same algorithm as `flash` has for TPU: tiles that nobody sees are not walked, the rule is
evaluated inside the kernel, and a mask is never stored. Here every program owns one tile of queries
(or of keys) and loops over the tiles it meets, those that are visible as a whole first: they need
no mask. Tensors keep the model's layout; heads are read by stride.

JAX means to remove this backend of Pallas after 0.12: the pins in pyproject.toml keep it until the
kernels are ported (to Mosaic GPU, or to Triton itself through jax-triton).
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from unireason_jax.models.chunked import MASKED, UNSEEN, Ids
from unireason_jax.models.flash import active_tiles, padded
from unireason_jax.models.flash_kernels import Tiles
from unireason_jax.models.layers import precision
from unireason_jax.visibility import visible

LOG2E = 1.4426950408889634


class Kernel(NamedTuple):
    """How one kernel is cut and compiled.

    Attributes:
      tiles: queries and keys of a tile, powers of two from 16 on.
      warps: of a program.
      stages: tiles that are loaded ahead.
    """

    tiles: Tiles
    warps: int
    stages: int


class Plan(NamedTuple):
    """The three kernels: output, gradient of queries, gradients of keys and values."""

    output: Kernel
    queries: Kernel
    keys: Kernel


class Walk(NamedTuple):
    """What every outer tile meets.

    Attributes:
      order: [B, outer, inner] int32, inner tiles: visible as a whole, in part, not at all.
      counts: [B, outer, 2] int32, how many of the first kind, and of the first two.
    """

    order: jax.Array
    counts: jax.Array


def default_plan(dtype: Any) -> Plan:
    """Tiles that fit the shared memory of a Hopper chip, fastest of those tried on one."""
    if jnp.dtype(dtype).itemsize > 2:
        return Plan(
            Kernel(Tiles(64, 32), 4, 2), Kernel(Tiles(64, 32), 4, 2), Kernel(Tiles(32, 64), 4, 2)
        )
    return Plan(
        Kernel(Tiles(128, 64), 4, 3), Kernel(Tiles(64, 64), 4, 2), Kernel(Tiles(64, 64), 4, 2)
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def gpu_attention(
    q: jax.Array, k: jax.Array, v: jax.Array, ids: Ids, plan: Plan, interpret: bool = False
) -> jax.Array:
    """Softmax attention under the visibility rule.

    Args:
      q: [B, T, N, H].
      k: [B, S, K, H]; N is a multiple of K.
      v: [B, S, K, H].
      ids: visibility of queries and keys.
      plan: how the kernels are cut (`default_plan`).
      interpret: run the kernels' Python instead of compiling them, on any platform.

    Returns:
      [B, T, N, H] in q's dtype; zero for queries that see nothing.
    """
    return _forward(q, k, v, ids, plan, interpret)[0]


def _forward(
    q: jax.Array, k: jax.Array, v: jax.Array, ids: Ids, plan: Plan, interpret: bool
) -> tuple[jax.Array, Any]:
    """The output, and what the backward pass needs."""
    call = _Call(q, k, ids, plan.output, interpret)
    walk = _walk(*call.pairs())
    out = jax.ShapeDtypeStruct(call.query(q).shape, q.dtype)
    lse = jax.ShapeDtypeStruct((q.shape[0], q.shape[2], out.shape[1]), jnp.float32)
    specs = call.by_query
    out, lse = call(
        _output_kernel,
        [(call.query(q), specs.query), (call.key(k), specs.keys), (call.key(v), specs.keys)],
        walk,
        [(out, specs.query), (lse, specs.row)],
    )
    result = checkpoint_name(out[:, : q.shape[1], :, : q.shape[3]], "attention")
    lse = checkpoint_name(lse[:, :, : q.shape[1]], "attention")
    return result, (q, k, v, ids, result, lse)


def _backward(plan: Plan, interpret: bool, saved: Any, d_result: jax.Array) -> Any:
    """Gradients of q, k and v."""
    q, k, v, ids, result, lse = saved
    delta = jnp.einsum("BTNH,BTNH->BNT", d_result.astype(jnp.float32), result.astype(jnp.float32))
    d_result = d_result.astype(q.dtype)

    def inputs(call: _Call, specs: Any) -> list:
        return [
            *((call.query(x), specs.query) for x in (q, d_result)),
            *((call.key(x), specs.keys) for x in (k, v)),
            *((call.row(x), specs.row) for x in (lse, delta)),
        ]

    call = _Call(q, k, ids, plan.queries, interpret)
    specs, walk = call.by_query, _walk(*call.pairs())
    like = jax.ShapeDtypeStruct(call.query(q).shape, q.dtype)
    (dq,) = call(_query_kernel, inputs(call, specs), walk, [(like, specs.query)])

    call = _Call(q, k, ids, plan.keys, interpret)
    specs, walk = call.by_key, _walk(*(jnp.swapaxes(x, 1, 2) for x in call.pairs()))
    like = jax.ShapeDtypeStruct(call.key(k).shape, k.dtype)
    dk, dv = call(_key_kernel, inputs(call, specs), walk, [(like, specs.keys)] * 2)
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


def _walk(active: jax.Array, whole: jax.Array) -> Walk:
    """The tiles that each outer tile meets, from [B, outer, inner] bool."""
    kind = jnp.where(active, jnp.where(whole, 0, 1), 2)
    counts = jnp.stack([jnp.sum(kind < n, axis=2, dtype=jnp.int32) for n in (1, 2)], axis=2)
    return Walk(jnp.argsort(kind, axis=2, stable=True).astype(jnp.int32), counts)


class _Specs(NamedTuple):
    """Parts of the arrays that a program reads or writes."""

    query: pl.BlockSpec
    keys: pl.BlockSpec
    row: pl.BlockSpec
    seen: pl.BlockSpec
    key: pl.BlockSpec


class _Call:
    """One kernel over all rows, heads and outer tiles."""

    def __init__(self, q: jax.Array, k: jax.Array, ids: Ids, kernel: Kernel, interpret: bool):
        self.kernel, self.interpret = kernel, interpret
        self.rows, _, self.heads, self.size = q.shape
        self.kv_heads, self.group = k.shape[2], q.shape[2] // k.shape[2]
        self.width = max(16, pl.next_power_of_2(self.size))
        self.ids = padded(ids, kernel.tiles)
        self.queries, self.length = self.ids.lo.shape[1], self.ids.key.shape[1]

    def pairs(self) -> tuple[jax.Array, jax.Array]:
        """Pairs of tiles that are walked, and those of them that need no mask."""
        return active_tiles(self.ids, self.kernel.tiles), whole_tiles(self.ids, self.kernel.tiles)

    def query(self, x: jax.Array) -> jax.Array:
        """[B, T, N, H] zero-padded to whole tiles and a power of two of features."""
        return _padded(x, (0, self.queries, 0, self.width))

    def key(self, x: jax.Array) -> jax.Array:
        """[B, S, K, H], likewise."""
        return _padded(x, (0, self.length, 0, self.width))

    def row(self, x: jax.Array) -> jax.Array:
        """[B, N, T], likewise."""
        return _padded(x, (0, 0, self.queries))

    @property
    def by_query(self) -> _Specs:
        """A program has a tile of queries of one head, and every key of its key head."""
        tile, group = self.kernel.tiles.queries, self.group
        return _Specs(
            query=pl.BlockSpec((None, tile, None, self.width), lambda i, n, b: (b, i, n, 0)),
            keys=pl.BlockSpec(
                (None, self.length, None, self.width), lambda i, n, b: (b, 0, n // group, 0)
            ),
            row=pl.BlockSpec((None, None, tile), lambda i, n, b: (b, n, i)),
            seen=pl.BlockSpec((None, tile), lambda i, n, b: (b, i)),
            key=pl.BlockSpec((None, self.length), lambda i, n, b: (b, 0)),
        )

    @property
    def by_key(self) -> _Specs:
        """A program has a tile of keys of one key head, and every query of its query heads."""
        tile = self.kernel.tiles.keys
        return _Specs(
            query=pl.BlockSpec(
                (None, self.queries, self.group, self.width), lambda i, n, b: (b, 0, n, 0)
            ),
            keys=pl.BlockSpec((None, tile, None, self.width), lambda i, n, b: (b, i, n, 0)),
            row=pl.BlockSpec((None, self.group, self.queries), lambda i, n, b: (b, n, 0)),
            seen=pl.BlockSpec((None, self.queries), lambda i, n, b: (b, 0)),
            key=pl.BlockSpec((None, tile), lambda i, n, b: (b, i)),
        )

    def __call__(
        self,
        body: Callable,
        inputs: Sequence[tuple[jax.Array, pl.BlockSpec]],
        walk: Walk,
        outputs: Sequence[tuple[Any, pl.BlockSpec]],
    ) -> Sequence[jax.Array]:
        """Runs a kernel over the pairs of tiles of a walk."""
        by_key = body is _key_kernel
        specs = self.by_key if by_key else self.by_query
        outer = walk.order.shape[1]
        given = [
            *inputs,
            *zip(self.ids, (specs.seen, specs.seen, specs.seen, specs.key)),
            *((x, pl.BlockSpec((None, None, x.shape[2]), lambda i, n, b: (b, i, 0))) for x in walk),
        ]
        return pl.pallas_call(
            functools.partial(body, tiles=self.kernel.tiles, scale=self.size**-0.5),
            out_shape=[x for x, _ in outputs],
            grid=(outer, self.kv_heads if by_key else self.heads, self.rows),
            in_specs=[spec for _, spec in given],
            out_specs=[spec for _, spec in outputs],
            compiler_params=triton.CompilerParams(
                num_warps=self.kernel.warps, num_stages=self.kernel.stages
            ),
            interpret=self.interpret,
            name=body.__name__.strip("_"),
        )(*(x for x, _ in given))


def _output_kernel(
    q: Any,
    k: Any,
    v: Any,
    lo: Any,
    hi: Any,
    own: Any,
    key: Any,
    order: Any,
    counts: Any,
    out: Any,
    lse: Any,
    *,
    tiles: Tiles,
    scale: float,
) -> None:
    """Online softmax over the keys of a tile of queries; lse is to the base of two."""
    query, seen = q[...], [x[...][:, None] for x in (lo, hi, own)]
    unit = scale * LOG2E

    def step(masked: bool, j: Any, carry: Any) -> Any:
        total, peak, mixed = carry
        at = pl.ds(order[j] * tiles.keys, tiles.keys)
        scores = _dot(query, k[at, :], 1, 1)
        if masked:
            scores = jnp.where(visible(*seen, key[at][None]), scores, MASKED)
        top = jnp.maximum(peak, jnp.max(scores, axis=1))
        weights = jnp.exp2(scores * unit - (top * unit)[:, None])
        shrink = jnp.exp2((peak - top) * unit)
        values = v[at, :]
        mixed = mixed * shrink[:, None] + _dot(weights.astype(values.dtype), values, 1, 0)
        return total * shrink + jnp.sum(weights, axis=1), top, mixed

    flat = (tiles.queries,)
    start = jnp.zeros(flat), jnp.full(flat, UNSEEN), jnp.zeros(query.shape, jnp.float32)
    total, peak, mixed = _loop(step, counts, 1, start)
    total = jnp.where(total > 0, total, 1.0)
    out[...] = (mixed / total[:, None]).astype(out.dtype)
    lse[...] = peak * unit + jnp.log2(total)


def _query_kernel(
    q: Any,
    d_out: Any,
    k: Any,
    v: Any,
    lse: Any,
    delta: Any,
    lo: Any,
    hi: Any,
    own: Any,
    key: Any,
    order: Any,
    counts: Any,
    dq: Any,
    *,
    tiles: Tiles,
    scale: float,
) -> None:
    """Gradient of a tile of queries, summed over its keys."""
    query, d_result, seen = q[...], d_out[...], [x[...][:, None] for x in (lo, hi, own)]
    peak, shared = lse[...][:, None], delta[...][:, None]

    def step(masked: bool, j: Any, total: Any) -> Any:
        at = pl.ds(order[j] * tiles.keys, tiles.keys)
        keys = k[at, :]
        scores = _dot(query, keys, 1, 1)
        if masked:
            scores = jnp.where(visible(*seen, key[at][None]), scores, MASKED)
        weights = jnp.exp2(scores * (scale * LOG2E) - peak)
        d_scores = weights * (_dot(d_result, v[at, :], 1, 1) - shared)
        return total + _dot(d_scores.astype(keys.dtype), keys, 1, 0)

    total = _loop(step, counts, 1, jnp.zeros(query.shape, jnp.float32))
    dq[...] = (total * scale).astype(dq.dtype)


def _key_kernel(
    q: Any,
    d_out: Any,
    k: Any,
    v: Any,
    lse: Any,
    delta: Any,
    lo: Any,
    hi: Any,
    own: Any,
    key: Any,
    order: Any,
    counts: Any,
    dk: Any,
    dv: Any,
    *,
    tiles: Tiles,
    scale: float,
) -> None:
    """Gradients of a tile of keys and values, summed over the queries of all their heads."""
    keys, values, seen_by = k[...], v[...], key[...][:, None]
    group = jnp.int32(q.shape[1])

    def step(masked: bool, j: Any, carry: Any) -> Any:
        dk, dv = carry
        tile, head = order[jax.lax.div(j, group)], jax.lax.rem(j, group)
        at = pl.ds(tile * tiles.queries, tiles.queries)
        query, d_result = q[at, head, :], d_out[at, head, :]
        scores = _dot(keys, query, 1, 1)
        if masked:
            seen = (x[at][None] for x in (lo, hi, own))
            scores = jnp.where(visible(*seen, seen_by), scores, MASKED)
        weights = jnp.exp2(scores * (scale * LOG2E) - lse[head, at][None])
        dv = dv + _dot(weights.astype(query.dtype), d_result, 1, 0)
        d_scores = weights * (_dot(values, d_result, 1, 1) - delta[head, at][None])
        return dk + _dot(d_scores.astype(query.dtype), query, 1, 0), dv

    zero = jnp.zeros(keys.shape, jnp.float32)
    total_k, total_v = _loop(step, counts, q.shape[1], (zero, zero))
    dk[...] = (total_k * scale).astype(dk.dtype)
    dv[...] = total_v.astype(dv.dtype)


def _loop(step: Callable, counts: Any, times: int, carry: Any) -> Any:
    """`step(masked, number, carry)` over the tiles without a mask, then those with one."""
    whole, every = counts[0] * times, counts[1] * times
    carry = jax.lax.fori_loop(0, whole, functools.partial(step, False), carry)
    return jax.lax.fori_loop(whole, every, functools.partial(step, True), carry)


def _padded(x: jax.Array, sizes: Sequence[int]) -> jax.Array:
    """Zeros behind every axis that is shorter than wanted."""
    return jnp.pad(x, [(0, max(0, size - have)) for have, size in zip(x.shape, sizes)])


def _dot(a: jax.Array, b: jax.Array, a_axis: int, b_axis: int) -> jax.Array:
    """Product contracting one axis of each, summed in float32."""
    return jax.lax.dot_general(
        a,
        b,
        (((a_axis,), (b_axis,)), ((), ())),
        precision=precision(a.dtype),
        preferred_element_type=jnp.float32,
    )
