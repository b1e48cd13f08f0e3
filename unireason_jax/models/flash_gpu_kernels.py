"""The three Triton kernels of `flash_gpu`: output, gradient of queries, gradients of keys.

A program owns one tile of queries (or of keys) of one head and loops over the tiles that it meets,
read from a list (`Walk`): those that are visible as a whole come first and need no mask. Tensors
keep the model's layout, heads are read by stride, and rows of features in parts of powers of two.
"""

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from unireason_jax.models.chunked import MASKED, UNSEEN, Ids
from unireason_jax.models.flash import padded
from unireason_jax.models.flash_kernels import Tiles, dot
from unireason_jax.rules.visibility import visible

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


class Walk(NamedTuple):
    """What every outer tile meets.

    Attributes:
      order: [B, outer, inner] int32, inner tiles: visible as a whole, in part, not at all.
      counts: [B, outer, 2] int32, how many of the first kind, and of the first two.
    """

    order: jax.Array
    counts: jax.Array


class Inputs(NamedTuple):
    """What a kernel reads: arrays, or block specifications, or references to a program's parts.

    Attributes:
      q: [B, T, N, H].
      k, v: [B, S, K, H].
      lo, hi, own: [B, T] int32.
      key: [B, S] int32.
      order, counts: see `Walk`.
      d_out: like q.
      lse, delta: [B, N, T] float32; the last three are None in the forward pass.
    """

    q: Any
    k: Any
    v: Any
    lo: Any
    hi: Any
    own: Any
    key: Any
    order: Any
    counts: Any
    d_out: Any = None
    lse: Any = None
    delta: Any = None


class Call:
    """One kernel over all rows, heads and outer tiles (of queries, or of keys)."""

    def __init__(
        self,
        q: jax.Array,
        k: jax.Array,
        ids: Ids,
        kernel: Kernel,
        interpret: bool,
        by_key: bool = False,
    ):
        self.kernel, self.interpret, self.by_key = kernel, interpret, by_key
        self.rows, _, self.heads, self.size = q.shape
        self.kv_heads, self.group = k.shape[2], q.shape[2] // k.shape[2]
        self.width = -(-self.size // 16) * 16
        self.ids = padded(ids, kernel.tiles)
        self.queries, self.keys = self.ids.lo.shape[1], self.ids.key.shape[1]

    def inputs(
        self,
        q: jax.Array,
        k: jax.Array,
        v: jax.Array,
        walk: Walk,
        d_out: jax.Array | None = None,
        lse: jax.Array | None = None,
        delta: jax.Array | None = None,
    ) -> Inputs:
        """Everything zero-padded to whole tiles, and to a multiple of 16 features."""
        q, d_out = (_padded(x, (0, self.queries, 0, self.width)) for x in (q, d_out))
        k, v = (_padded(x, (0, self.keys, 0, self.width)) for x in (k, v))
        lse, delta = (_padded(x, (0, 0, self.queries)) for x in (lse, delta))
        return Inputs(q, k, v, *self.ids, *walk, d_out, lse, delta)

    def _specs(self) -> Inputs:
        """The parts of a program: one outer tile, and all that it may meet."""
        tiles, group, width = self.kernel.tiles, self.group, self.width
        if self.by_key:  # with every query of the query heads of a key head
            q = pl.BlockSpec((None, self.queries, group, width), lambda i, n, b: (b, 0, n, 0))
            k = pl.BlockSpec((None, tiles.keys, None, width), lambda i, n, b: (b, i, n, 0))
            row = pl.BlockSpec((None, group, self.queries), lambda i, n, b: (b, n, 0))
            seen = pl.BlockSpec((None, self.queries), lambda i, n, b: (b, 0))
            key = pl.BlockSpec((None, tiles.keys), lambda i, n, b: (b, i))
        else:  # of one query head, with every key of its key head
            q = pl.BlockSpec((None, tiles.queries, None, width), lambda i, n, b: (b, i, n, 0))
            k = pl.BlockSpec((None, self.keys, None, width), lambda i, n, b: (b, 0, n // group, 0))
            row = pl.BlockSpec((None, None, tiles.queries), lambda i, n, b: (b, n, i))
            seen = pl.BlockSpec((None, tiles.queries), lambda i, n, b: (b, i))
            key = pl.BlockSpec((None, self.keys), lambda i, n, b: (b, 0))
        inner = (self.queries // tiles.queries) if self.by_key else (self.keys // tiles.keys)
        order, counts = (
            pl.BlockSpec((None, None, size), lambda i, n, b: (b, i, 0)) for size in (inner, 2)
        )
        return Inputs(q, k, k, seen, seen, seen, key, order, counts, q, row, row)

    def __call__(self, kernel: Callable, x: Inputs, results: Mapping[str, Any]) -> list[jax.Array]:
        """Runs a kernel; the results are like the inputs of these names."""
        specs = self._specs()
        given = [name for name, array in x._asdict().items() if array is not None]

        def body(*refs: Any) -> None:
            kernel(
                Inputs(**dict(zip(given, refs))),
                *refs[len(given) :],
                tiles=self.kernel.tiles,
                scale=self.size**-0.5,
            )

        return pl.pallas_call(
            body,
            out_shape=[jax.ShapeDtypeStruct(a.shape, a.dtype) for a in results.values()],
            grid=(x.order.shape[1], self.kv_heads if self.by_key else self.heads, self.rows),
            in_specs=[getattr(specs, name) for name in given],
            out_specs=[getattr(specs, name) for name in results],
            compiler_params=triton.CompilerParams(
                num_warps=self.kernel.warps, num_stages=self.kernel.stages
            ),
            interpret=self.interpret,
            name=kernel.__name__,
        )(*(getattr(x, name) for name in given))


def output_kernel(x: Inputs, out: Any, lse: Any, *, tiles: Tiles, scale: float) -> None:
    """Online softmax over the keys of a tile of queries; lse is to the base of two."""
    every, unit = slice(None), scale * LOG2E
    query, seen = _parts(x.q, every), _seen(x, every)

    def step(masked: bool, j: Any, carry: Any) -> Any:
        total, peak, mixed = carry
        at = pl.ds(x.order[j] * tiles.keys, tiles.keys)
        scores = _scores(query, _parts(x.k, at))
        if masked:
            scores = jnp.where(_visible(seen, x.key[at][None], 1), scores, MASKED)
        top = jnp.maximum(peak, jnp.max(scores, axis=1))
        weights = jnp.exp2(scores * unit - (top * unit)[:, None])
        shrink = jnp.exp2((peak - top) * unit)
        mixed = _add(tuple(m * shrink[:, None] for m in mixed), weights, _parts(x.v, at))
        return total * shrink + jnp.sum(weights, axis=1), top, mixed

    flat = (tiles.queries,)
    start = jnp.zeros(flat), jnp.full(flat, UNSEEN), _zeros(query)
    total, peak, mixed = _loop(step, x.counts, 1, start)
    total = jnp.where(total > 0, total, 1.0)
    _write(out, mixed, 1.0 / total[:, None])
    lse[...] = peak * unit + jnp.log2(total)


def query_kernel(x: Inputs, dq: Any, *, tiles: Tiles, scale: float) -> None:
    """Gradient of a tile of queries, summed over its keys."""
    every = slice(None)
    query, d_out, seen = _parts(x.q, every), _parts(x.d_out, every), _seen(x, every)
    lse, delta = x.lse[...][:, None], x.delta[...][:, None]

    def step(masked: bool, j: Any, total: Any) -> Any:
        at = pl.ds(x.order[j] * tiles.keys, tiles.keys)
        keys = _parts(x.k, at)
        scores = _scores(query, keys)
        if masked:
            scores = jnp.where(_visible(seen, x.key[at][None], 1), scores, MASKED)
        weights = jnp.exp2(scores * (scale * LOG2E) - lse)
        d_scores = weights * (_scores(d_out, _parts(x.v, at)) - delta)
        return _add(total, d_scores, keys)

    _write(dq, _loop(step, x.counts, 1, _zeros(query)), scale)


def key_kernel(x: Inputs, dk: Any, dv: Any, *, tiles: Tiles, scale: float) -> None:
    """Gradients of a tile of keys and values, summed over the queries of all their heads."""
    every, group = slice(None), x.q.shape[1]
    keys, values, key = _parts(x.k, every), _parts(x.v, every), x.key[...][:, None]

    def step(masked: bool, j: Any, carry: Any) -> Any:
        dk, dv = carry
        tile, head = x.order[jax.lax.div(j, jnp.int32(group))], jax.lax.rem(j, jnp.int32(group))
        at = pl.ds(tile * tiles.queries, tiles.queries)
        query, d_out = _parts(x.q, at, head), _parts(x.d_out, at, head)
        scores = _scores(keys, query)
        if masked:
            scores = jnp.where(_visible(_seen(x, at), key, 0), scores, MASKED)
        weights = jnp.exp2(scores * (scale * LOG2E) - x.lse[head, at][None])
        dv = _add(dv, weights, d_out)
        d_scores = weights * (_scores(values, d_out) - x.delta[head, at][None])
        return _add(dk, d_scores, query), dv

    total_k, total_v = _loop(step, x.counts, group, (_zeros(keys), _zeros(keys)))
    _write(dk, total_k, scale)
    _write(dv, total_v, 1.0)


def _widths(features: int) -> list[int]:
    """A multiple of 16 as a sum of powers of two, the largest first: 80 -> [64, 16]."""
    return [1 << bit for bit in reversed(range(features.bit_length())) if features >> bit & 1]


def _columns(features: int) -> list[pl.Slice]:
    """The parts of a row of features; Triton's blocks are powers of two."""
    ends = itertools.accumulate(_widths(features))
    return [pl.ds(end - width, width) for end, width in zip(ends, _widths(features))]


def _parts(ref: Any, *at: Any) -> tuple[jax.Array, ...]:
    """Some rows of a reference [..., features], by parts of their features."""
    return tuple(ref[(*at, columns)] for columns in _columns(ref.shape[-1]))


def _scores(a: Sequence[jax.Array], b: Sequence[jax.Array]) -> jax.Array:
    """Products of all rows of a with all rows of b."""
    return functools.reduce(jnp.add, (dot(x, y, 1, 1) for x, y in zip(a, b)))


def _add(
    total: Sequence[jax.Array], weights: jax.Array, rows: Sequence[jax.Array]
) -> tuple[jax.Array, ...]:
    """total + weights times rows, by parts."""
    return tuple(t + dot(weights.astype(x.dtype), x, 1, 0) for t, x in zip(total, rows))


def _zeros(rows: Sequence[jax.Array]) -> tuple[jax.Array, ...]:
    return tuple(jnp.zeros(x.shape, jnp.float32) for x in rows)


def _write(ref: Any, total: Sequence[jax.Array], factor: Any) -> None:
    """total times factor into a reference [rows, features]."""
    for columns, part in zip(_columns(ref.shape[-1]), total):
        ref[:, columns] = (part * factor).astype(ref.dtype)


def _seen(x: Inputs, at: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    """lo, hi and own of some queries."""
    return x.lo[at], x.hi[at], x.own[at]


def _visible(seen: Sequence[jax.Array], key: jax.Array, axis: int) -> jax.Array:
    """The rule for a tile; keys lie along `axis`."""
    return visible(*(jnp.expand_dims(ids, axis) for ids in seen), key)


def _loop(step: Callable, counts: Any, times: int, carry: Any) -> Any:
    """`step(masked, number, carry)` over the tiles without a mask, then those with one."""
    whole, every = counts[0] * times, counts[1] * times
    carry = jax.lax.fori_loop(0, whole, functools.partial(step, False), carry)
    return jax.lax.fori_loop(whole, every, functools.partial(step, True), carry)


def _padded(x: jax.Array | None, sizes: Sequence[int]) -> jax.Array | None:
    """Zeros behind every axis that is shorter than wanted."""
    if x is None:
        return None
    return jnp.pad(x, [(0, max(0, size - have)) for have, size in zip(x.shape, sizes)])
