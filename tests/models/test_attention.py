"""Both attention backends against brute force on random packings, with gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unireason_jax import visibility
from unireason_jax.models.attention import Keys, Queries, attend
from unireason_jax.models.chunked import Ids, active_blocks
from unireason_jax.visibility import Visibility


def random_row(rng, length):
    """Visibility of a random packing, tokens in a random order, some padding at the end."""
    samples, splits, modes = [], [], []
    real = length - rng.integers(0, 5)
    while sum(samples) < real:
        size = min(int(rng.integers(1, 14)), real - sum(samples))
        samples.append(size)
        while size:
            part = int(rng.integers(1, size + 1))
            splits.append(part)
            modes.append(int(rng.integers(0, 3)))
            size -= part
    row = visibility.build(splits, modes, samples)
    pad = visibility.padding(length - real)
    order = rng.permutation(real)
    return Visibility(*(np.concatenate([a[order], b]) for a, b in zip(row, pad)))


def inputs(rng, rows, length, heads=4, kv_heads=2, size=8):
    """q, k, v and the visibility of some rows."""
    seen = [random_row(rng, length) for _ in range(rows)]
    seen = Visibility(*(jnp.asarray(np.stack(x)) for x in zip(*seen)))
    shapes = [(rows, length, n, size) for n in (heads, kv_heads, kv_heads)]
    return *(jnp.asarray(rng.normal(size=s), jnp.float32) for s in shapes), seen


def brute_force(q, k, v, seen):
    """Loops over rows, queries and heads, in float64."""
    mask = np.asarray(visibility.dense(seen))
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    out, group = np.zeros_like(q), q.shape[2] // k.shape[2]
    for b, t, n in np.ndindex(q.shape[:3]):
        keys = np.flatnonzero(mask[b, t])
        scores = k[b, keys, n // group] @ q[b, t, n] / np.sqrt(q.shape[3])
        weights = np.exp(scores - scores.max())
        out[b, t, n] = weights @ v[b, keys, n // group] / weights.sum()
    return out


@functools.partial(jax.jit, static_argnames=("backend", "chunk"))
def run(q, k, v, seen, backend, chunk=8):
    """`attend` within the row."""
    return attend(q, Queries(*seen[1:]), [Keys(k, v, seen.key)], backend=backend, chunk=chunk)


@pytest.mark.parametrize("options", [{"backend": "dense"}, {"backend": "chunked", "chunk": 8}])
@pytest.mark.parametrize("seed", range(3))
def test_backends_equal_brute_force(options, seed):
    q, k, v, seen = inputs(np.random.default_rng(seed), 2, 45)
    real = np.asarray(seen.lo) != visibility.PADDING
    found = np.asarray(run(q, k, v, seen, **options))
    np.testing.assert_allclose(found[real], brute_force(q, k, v, seen)[real], atol=2e-6)
    assert np.isfinite(found).all()


@pytest.mark.parametrize("length", [17, 150])
def test_gradients_of_the_backends_agree(length):
    rng = np.random.default_rng(7)
    *qkv, seen = inputs(rng, 2, length)
    real = (seen.lo != visibility.PADDING)[:, :, None, None]
    target = jnp.asarray(rng.normal(size=qkv[0].shape), jnp.float32)

    def loss(qkv, options):
        return jnp.sum(jnp.where(real, run(*qkv, seen, **dict(options)) * target, 0.0))

    grad = jax.jit(jax.grad(loss), static_argnums=1)
    dense, chunked = (
        grad(qkv, (("backend", name), ("chunk", 16))) for name in ("dense", "chunked")
    )
    for a, b in zip(dense, chunked):
        np.testing.assert_allclose(a, b, atol=3e-6)


def test_dense_gradient_equals_finite_differences():
    rng = np.random.default_rng(8)
    *qkv, seen = inputs(rng, 1, 12, heads=2, kv_heads=1, size=4)
    real = np.asarray(seen.lo)[:, :, None, None] != visibility.PADDING
    target = rng.normal(size=qkv[0].shape) * real

    def loss(qkv):
        return jnp.sum(run(*qkv, seen, backend="dense") * target)

    grads, step = jax.grad(loss)(qkv), 1e-6
    for i in range(3):
        nudge = [np.asarray(x, np.float64) for x in qkv]
        direction = rng.normal(size=nudge[i].shape)
        sides = []
        for sign in (1, -1):
            moved = [x + sign * step * direction if j == i else x for j, x in enumerate(nudge)]
            sides.append((brute_force(*moved, seen) * target).sum())
        wanted = (sides[0] - sides[1]) / (2 * step)
        np.testing.assert_allclose((np.asarray(grads[i]) * direction).sum(), wanted, rtol=1e-4)


def test_skipped_blocks_hold_nothing_visible_and_some_are_skipped():
    rng = np.random.default_rng(9)
    rows = [visibility.build([20, 12] * 4, ["causal", "noise"] * 4, [32] * 4) for _ in range(2)]
    seen = Visibility(*(jnp.asarray(np.stack(x)) for x in zip(*rows)))
    active = np.asarray(active_blocks(Ids(*seen[1:], seen.key), 8, 16))
    mask = np.asarray(visibility.dense(seen)).any(0).reshape(16, 8, 8, 16).any((1, 3))
    assert (active >= mask).all() and active.mean() < 0.5
    *_, seen = inputs(rng, 3, 64)
    active = np.asarray(active_blocks(Ids(*seen[1:], seen.key), 8, 16))
    real = np.asarray(seen.lo) != visibility.PADDING
    mask = (np.asarray(visibility.dense(seen)) & real[:, :, None]).any(0)
    assert (active >= mask.reshape(8, 8, 4, 16).any((1, 3))).all()


@pytest.mark.parametrize("backend", ["dense", "chunked"])
def test_two_blocks_of_keys_equal_one(backend):
    q, k, v, seen = inputs(np.random.default_rng(10), 2, 40)
    whole = run(q, k, v, seen, backend=backend, chunk=8)
    cut = [Keys(k[:, s], v[:, s], seen.key[:, s]) for s in (slice(0, 15), slice(15, None))]
    parts = jax.jit(lambda q, cut: attend(q, Queries(*seen[1:]), cut, backend=backend, chunk=8))(
        q, cut
    )
    np.testing.assert_allclose(whole, parts, atol=1e-6)


def test_large_scores_do_not_overflow():
    q, k, v, seen = inputs(np.random.default_rng(11), 1, 30)
    for options in ({"backend": "dense"}, {"backend": "chunked", "chunk": 8}):
        out = run(1e3 * q, k, v, seen, **options)
        assert np.isfinite(out).all() and np.abs(out).max() <= np.abs(v).max() + 1e-5


def test_chunked_memory_is_linear_in_the_row():
    def temp(length):
        shape = jax.ShapeDtypeStruct((1, length, 4, 16), jnp.float32)
        ids = jax.ShapeDtypeStruct((1, length), jnp.int32)

        def loss(q, *ids):
            return run(q, q, q, Visibility(*ids), backend="chunked", chunk=64).sum()

        compiled = jax.jit(jax.grad(loss)).lower(shape, *[ids] * 4).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temp(8192) < 2.6 * temp(4096)
