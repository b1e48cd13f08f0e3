"""All attention backends against brute force on random packings, with gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from unireason_jax.models import flash
from unireason_jax.models.attention import CachedKeys, Keys, Queries, attend
from unireason_jax.models.chunked import Ids, active_blocks
from unireason_jax.models.flash import default_tiles, flash_attention
from unireason_jax.models.flash_gpu import Tilings, default_tilings, gpu_attention, whole_tiles
from unireason_jax.models.flash_gpu_kernels import Kernel
from unireason_jax.models.flash_kernels import Tiles
from unireason_jax.pods import sharding
from unireason_jax.rules import visibility
from unireason_jax.rules.visibility import Visibility


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


def brute_force(q, k, v, seen, target=None):
    """Output, and with a target the gradients of sum(output * target), in float64."""
    mask = np.asarray(visibility.dense(seen))[:, None, None]
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    rows, length, heads, size = q.shape
    grouped = (rows, length, k.shape[2], heads // k.shape[2], size)
    q, scale = q.reshape(grouped), size**-0.5
    scores = np.where(mask, np.einsum("btkgh,bskh->bkgts", q, k) * scale, -np.inf)
    weights = np.exp(scores - np.max(scores, axis=-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    out = np.einsum("bkgts,bskh->btkgh", weights, v)
    if target is None:
        return out.reshape(rows, length, heads, size)
    ct = np.asarray(target, np.float64).reshape(grouped)
    d_weights = np.einsum("btkgh,bskh->bkgts", ct, v)
    d_scores = weights * (d_weights - (weights * d_weights).sum(-1, keepdims=True)) * scale
    dq = np.einsum("bkgts,bskh->btkgh", d_scores, k).reshape(rows, length, heads, size)
    dk = np.einsum("bkgts,btkgh->bskh", d_scores, q)
    return out.reshape(rows, length, heads, size), (
        dq,
        dk,
        np.einsum("bkgts,btkgh->bskh", weights, ct),
    )


@functools.partial(jax.jit, static_argnames=("backend", "chunk"))
def run(q, k, v, seen, backend, chunk=8):
    """`attend` within the row; "tiles" and "gpu" are flash with tiles far smaller than the row.

    The kernels for GPU are compiled where there is one (`UNIREASON_TEST_PLATFORM=cuda`).
    """
    ids = Ids(*seen[1:], seen.key)
    if backend == "tiles":
        return flash_attention(q, k, v, ids, Tiles(chunk, 16), True)
    if backend.startswith("gpu"):
        small = Tilings(*[Kernel(Tiles(*size), 4, 2) for size in ((16, 32), (32, 16), (16, 16))])
        plan = default_tilings(q.dtype) if backend == "gpu default" else small
        return gpu_attention(q, k, v, ids, plan, jax.default_backend() != "gpu")
    return attend(q, Queries(*seen[1:]), Keys(k, v, seen.key), backend=backend, chunk=chunk)


@functools.partial(jax.jit, static_argnames="backend")
def run_and_grads(qkv, seen, target, backend):
    """Output of real queries, and gradients of sum(output * target)."""

    def loss(qkv):
        out = run(*qkv, seen, backend)
        return jnp.sum(out.astype(jnp.float32) * target), out

    grads, out = jax.grad(loss, has_aux=True)(qkv)
    return out, grads


@pytest.mark.parametrize("backend", ["dense", "chunked", "tiles", "gpu"])
@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-5), ("bfloat16", 2e-2)])
def test_fifty_random_packings_equal_brute_force(backend, dtype, bound):
    for seed in range(5):
        rng = np.random.default_rng(seed)
        *qkv, seen = inputs(rng, 10, 45)
        qkv = [x.astype(dtype) for x in qkv]
        real = np.asarray(seen.lo != visibility.PADDING)[:, :, None, None]
        target = jnp.asarray(rng.normal(size=qkv[0].shape) * real, jnp.float32)
        out, grads = run_and_grads(qkv, seen, target, backend)
        wanted, wanted_grads = brute_force(*qkv, seen, target)
        assert np.isfinite(out.astype(jnp.float32)).all()
        pairs = [(out * real, wanted * real), *zip(grads, wanted_grads)]
        for found, right in pairs:
            error = np.abs(np.asarray(found, np.float64) - right).max() / np.abs(right).max()
            assert error <= bound, (seed, error)


def test_lists_that_do_not_fit_together_are_walked_in_turns(monkeypatch):
    rng = np.random.default_rng(0)
    *qkv, seen = inputs(rng, 6, 45, heads=2, kv_heads=1)
    ids, target = Ids(*seen[1:], seen.key), rng.normal(size=qkv[0].shape)

    def out_and_grads():
        def loss(q, k, v):
            out = flash_attention(q, k, v, ids, Tiles(8, 16), True)
            return jnp.sum(out * target), out

        return jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(*qkv)

    whole = out_and_grads()
    pairs = 6 * 3  # of 45 tokens in tiles of 8 queries and 16 keys
    monkeypatch.setattr(flash, "SCALARS", 4 * pairs * 5)
    assert flash.rows_at_once(6, pairs) == 3
    jax.tree.map(np.testing.assert_array_equal, out_and_grads(), whole)
    monkeypatch.setattr(flash, "SCALARS", 4 * pairs - 1)
    with pytest.raises(flash.RowTooLong, match=r"18 pairs of tiles .*--config\.mesh\.context"):
        out_and_grads()


def test_rows_of_a_stage_2_step_that_a_chip_can_take_at_once():
    """1 MiB of scalar memory has room for the lists of four rows of 53,610 tokens, not of six."""
    keys, latents = 53_610, 45_056
    tiles = default_tiles(7, latents, keys)
    pairs = -(-latents // tiles.queries) * -(-keys // tiles.keys)
    assert 5 * 4 * pairs < 1 << 20 < 6 * 4 * pairs
    assert [flash.rows_at_once(rows, pairs) for rows in (1, 4, 5, 6, 8)] == [1, 4, 1, 3, 4]
    for rows in range(1, 20):
        turn = flash.rows_at_once(rows, pairs)
        assert rows % turn == 0 and 4 * turn * pairs < 1 << 20


@pytest.mark.parametrize(("size", "heads", "kv_heads"), [(72, 3, 3), (64, 7, 1), (128, 2, 1)])
@pytest.mark.parametrize(("backend", "length"), [("flash", 40), ("gpu default", 300)])
def test_flash_with_the_head_sizes_of_the_models(size, heads, kv_heads, backend, length):
    rng = np.random.default_rng(size)
    *qkv, seen = inputs(rng, 1, length, heads, kv_heads, size)
    real = np.asarray(seen.lo != visibility.PADDING)[:, :, None, None]
    target = jnp.asarray(rng.normal(size=qkv[0].shape) * real, jnp.float32)
    out, grads = run_and_grads(qkv, seen, target, backend)
    wanted, wanted_grads = brute_force(*qkv, seen, target)
    np.testing.assert_allclose(out * real, wanted * real, atol=3e-6)
    for found, right in zip(grads, wanted_grads):
        np.testing.assert_allclose(found, right, atol=1e-5)


@pytest.mark.parametrize("backend", ["chunked", "flash"])
@pytest.mark.parametrize(
    "sizes", [{"data": 2, "fsdp": 2, "tensor": 2}, {"fsdp": 4, "context": 2}, {"tensor": 8}]
)
def test_devices_share_the_work(backend, sizes):
    rng = np.random.default_rng(12)
    *qkv, seen = inputs(rng, 4, 32)
    target = jnp.asarray(rng.normal(size=qkv[0].shape), jnp.float32)
    alone = run_and_grads(qkv, seen, target, backend)
    mesh = sharding.make_mesh(sizes)
    with jax.set_mesh(mesh):
        row = NamedSharding(mesh, PartitionSpec(("data", "fsdp"), "context"))
        placed = jax.device_put((qkv, seen, target), row)
        spread = run_and_grads(*placed, backend)
    for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(spread)):
        np.testing.assert_allclose(a, b, atol=5e-6)


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


def test_whole_tiles_need_no_mask_and_are_found():
    rng = np.random.default_rng(13)
    row = visibility.build([24, 40] * 2, ["causal", "noise"] * 2, [64] * 2)
    plain = Visibility(*(jnp.asarray(x[None]) for x in row))
    for seen, share in ((plain, 0.25), (inputs(rng, 3, 128)[3], 0.0)):
        whole = np.asarray(whole_tiles(Ids(*seen[1:], seen.key), Tiles(8, 16)))
        mask = np.asarray(visibility.dense(seen)).reshape(-1, 16, 8, 8, 16).all((2, 4))
        assert not (whole & ~mask).any() and whole.mean() >= share


@pytest.mark.parametrize("backend", ["dense", "chunked", "flash"])
def test_cached_keys_and_new_ones_equal_one_block(backend):
    q, k, v, seen = inputs(np.random.default_rng(10), 2, 40)
    whole = run(q, k, v, seen, backend=backend, chunk=8)
    heads_first = (jnp.moveaxis(x[:, :15], 1, 2) for x in (k, v))
    cached = CachedKeys(*heads_first, seen.key[:, :15])
    new = Keys(k[:, 15:], v[:, 15:], seen.key[:, 15:])
    how = {"backend": backend, "chunk": 8}
    parts = jax.jit(lambda *x: attend(x[0], Queries(*seen[1:]), *x[1:], **how))(q, new, cached)
    np.testing.assert_allclose(whole, parts, atol=1e-6)


def test_large_scores_do_not_overflow():
    q, k, v, seen = inputs(np.random.default_rng(11), 1, 30)
    for backend in ("dense", "chunked", "tiles", "gpu"):
        out = run(1e3 * q, k, v, seen, backend)
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


@pytest.mark.parametrize("rows", [1, 4])
def test_few_queries_of_bfloat16_read_a_cache(rows):
    """Of a row at a time and of several: a processor has no product of bfloat16 in every order."""
    q, new = jnp.ones((rows, 1, 4, 16), jnp.bfloat16), jnp.ones((rows, 1, 2, 16), jnp.bfloat16)
    old = jnp.ones((rows, 2, 64, 16), jnp.bfloat16)
    seen = jnp.broadcast_to(jnp.arange(65, dtype=jnp.int32), (rows, 65))
    last = seen[:, 64:]
    queries = Queries(jnp.zeros_like(last), last, jnp.full_like(last, -1))
    cached = CachedKeys(old, 2 * old, seen[:, :64])
    out = jax.jit(attend)(q, queries, Keys(new, 2 * new, last), cached)
    assert out.dtype == jnp.bfloat16 and out.shape == q.shape
    np.testing.assert_allclose(np.asarray(out, np.float32), 2.0)
