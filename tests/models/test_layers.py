"""Each small formula against a slow float64 version, and the recorded scalars."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unireason_jax.models import layers


def slow_table(side, width):
    """The fixed 2-D table, cell by cell: column half, then row half; sines, then cosines."""
    table = np.zeros((side * side, width))
    quarter = width // 4
    for row in range(side):
        for column in range(side):
            for half, place in enumerate((column, row)):
                for i in range(quarter):
                    angle = place * 10000.0 ** (-i / quarter)
                    at = half * 2 * quarter + i
                    table[row * side + column, at] = np.sin(angle)
                    table[row * side + column, at + quarter] = np.cos(angle)
    return table


def test_sincos_table_equals_the_slow_one():
    found = layers.sincos_positions(jnp.arange(25).reshape(5, 5), 5, 16)
    np.testing.assert_allclose(found.reshape(25, 16), slow_table(5, 16), atol=1e-7)


def test_sincos_table_has_the_recorded_values():
    rows = layers.sincos_positions(jnp.asarray([1, 64, 64 * 3 + 5]), 64, 3584)
    np.testing.assert_allclose(rows[0, :3], [0.84147098, 0.83590154, 0.83030297], atol=1e-7)
    np.testing.assert_array_equal(rows[1, :3], 0)
    at = np.array([0, 1, 895, 896, 1791, 1792, 1793, 2687, 2688, 3583])
    wanted = [-0.958924275, -0.972169303, 5.05166e-4, 0.283662185, 0.999999872]
    wanted += [0.141120008, 0.171422035, 3.03100e-4, -0.989992497, 0.999999954]
    np.testing.assert_allclose(rows[2, at], wanted, atol=1e-7)


def test_timestep_features_have_the_recorded_values():
    half, zero = layers.timestep_features(jnp.asarray([0.5, 0.0]))
    at = np.array([0, 1, 2, 127, 128, 129, 130, 255])
    wanted = [0.87758255, 0.89369327, 0.90771854, 1.0]
    wanted += [0.47942555, 0.44867843, 0.41957963, 5.373038e-5]
    np.testing.assert_allclose(half[at], wanted, atol=1e-7)
    assert zero.sum() == 128


def test_timestep_features_equal_the_slow_ones():
    times = np.array([[0.0, 0.013, 0.25], [0.7, 0.999, 1.0]])
    found = np.asarray(layers.timestep_features(jnp.asarray(times, jnp.float32), 12))
    for at in np.ndindex(times.shape):
        for i in range(6):
            angle = times[at] * 10000.0 ** (-i / 6)
            wanted = [np.cos(angle), np.sin(angle)]
            np.testing.assert_allclose(found[at][[i, i + 6]], wanted, atol=1e-6)


def test_rotation_equals_the_slow_one():
    rng = np.random.default_rng(0)
    x, positions = rng.normal(size=(2, 3, 4, 8)), rng.integers(0, 3000, (2, 3))
    turn = layers.rotary(jnp.asarray(positions, jnp.int32), 8, 1e6)
    found = layers.rotate(jnp.asarray(x, jnp.float32), *turn)
    wanted = np.zeros_like(x)
    for i in range(4):
        angle = (positions * 1e6 ** (-2 * i / 8))[:, :, None]
        a, b = x[..., i], x[..., i + 4]
        wanted[..., i] = a * np.cos(angle) - b * np.sin(angle)
        wanted[..., i + 4] = b * np.cos(angle) + a * np.sin(angle)
    np.testing.assert_allclose(found, wanted, atol=2e-4)


def test_rotation_of_query_and_key_depends_on_their_distance():
    q, k = jnp.asarray(np.random.default_rng(1).normal(size=(2, 1, 1, 1, 16)), jnp.float32)

    def score(i, j):
        def at(p):
            return layers.rotary(jnp.asarray([[p]], jnp.int32), 16, 1e4)

        return jnp.sum(layers.rotate(q, *at(i)) * layers.rotate(k, *at(j)))

    np.testing.assert_allclose(score(5, 2), score(105, 102), rtol=1e-4)
    assert abs(score(5, 2) - score(5, 3)) > 1e-3


@pytest.mark.parametrize("cls", [layers.RMSNorm, layers.LayerNorm])
def test_norms_equal_the_slow_ones(cls):
    rng = np.random.default_rng(2)
    x, scale = rng.normal(2, 3, size=(4, 6)), rng.normal(size=6)
    norm = cls(6, axis="embed", eps=1e-2)
    norm.scale[...] = jnp.asarray(scale, jnp.float32)
    centred = x - x.mean(-1, keepdims=True) if cls is layers.LayerNorm else x
    wanted = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-2) * scale
    found = norm(jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    assert norm(jnp.asarray(x, jnp.bfloat16)).dtype == jnp.float32


@pytest.mark.parametrize(("inputs", "outputs"), [((6,), (2, 3)), ((2, 3), (6,)), ((6,), (5,))])
def test_projection_and_its_gradient(inputs, outputs):
    rng = np.random.default_rng(3)
    x = jnp.asarray(rng.normal(size=(2, 4, *inputs)), jnp.float32)
    axes = ("embed",) * (len(inputs) + len(outputs))
    layer = layers.Projection(inputs, outputs, axes=axes, dtype="float32", bias=True)
    kernel = jnp.asarray(rng.normal(size=layer.kernel.shape), jnp.float32)
    layer.kernel[...] = kernel

    def plain(x, kernel):
        axes = tuple(range(2, x.ndim)), tuple(range(len(inputs)))
        return jnp.tensordot(x, kernel, axes)

    np.testing.assert_allclose(layer(x), plain(x, kernel), atol=1e-6)

    def ours(x, w):
        return jnp.sum(jnp.sin(layers.project(x, w, len(inputs), ("float32",) * 2)))

    def theirs(x, w):
        return jnp.sum(jnp.sin(plain(x, w)))

    found, wanted = (jax.grad(f, argnums=(0, 1))(x, kernel) for f in (ours, theirs))
    for a, b in zip(found, wanted):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_bfloat16_projection_keeps_float32_parameters_and_gradients():
    layer = layers.Projection((8,), (4,), axes=("embed", "mlp"), dtype="bfloat16")
    x = jnp.asarray(np.random.default_rng(4).normal(size=(3, 5, 8)), jnp.float32)
    assert layer(x).dtype == jnp.bfloat16 and layer(x, "float32").dtype == jnp.float32
    dx, dw = jax.grad(
        lambda x, w: jnp.sum(layers.project(x, w, 1, ("bfloat16",) * 2).astype(jnp.float32)),
        argnums=(0, 1),
    )(x, layer.kernel[...])
    assert dx.dtype == dw.dtype == jnp.float32
    rounded = np.asarray(x.astype(jnp.bfloat16), np.float64)
    wanted = np.repeat(rounded.sum((0, 1))[:, None], 4, 1)
    np.testing.assert_allclose(dw, wanted, rtol=1e-6, atol=1e-6)
