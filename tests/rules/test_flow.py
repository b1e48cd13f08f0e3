"""Flow formulas against float64 NumPy and the recorded scalars of the official sampler."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unireason_jax.rules import flow


def slow_guide(v, u, w, a, b, renorm, lowest):
    """The formulas for one sample, in float64, as the sampler's documentation states them."""

    def clamp(x):
        return np.clip(x, lowest, 1.0)

    def norm(x, axis):
        return np.sqrt((x**2).sum(axis=axis, keepdims=True))

    if a <= 1:
        return v
    r = u + a * (v - u)
    if renorm == "text_channel":
        r = r * clamp(norm(v, -1) / (norm(r, -1) + 1e-8))
        return w + b * (r - w) if b > 1 else r
    r = w + b * (r - w) if b > 1 else r
    axis = None if renorm == "global" else -1
    return r if renorm == "none" else r * clamp(norm(v, axis) / (norm(r, axis) + 1e-8))


@pytest.mark.parametrize("renorm", flow.RENORMS)
@pytest.mark.parametrize("lowest", [0.0, 0.7])
def test_guide_equals_the_slow_formula_row_by_row(renorm, lowest):
    rng = np.random.default_rng(0)
    v, u, w = rng.normal(size=(3, 4, 5, 6))
    text, image = np.array([4.0, 1.0, 2.5, 3.0]), np.array([2.0, 2.0, 1.0, 0.5])
    found = flow.guide(
        *(jnp.asarray(x, jnp.float32) for x in (v, u, w)),
        text_scale=jnp.asarray(text),
        image_scale=jnp.asarray(image),
        renorm=renorm,
        renorm_min=lowest,
    )
    rows = zip(v, u, w, text, image)
    wanted = np.stack([slow_guide(*row, renorm, lowest) for row in rows])
    np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=2e-6)


def test_guide_without_an_image_branch_is_guide_with_image_scale_one():
    v, u, w = jnp.asarray(np.random.default_rng(1).normal(size=(3, 2, 5, 6)), jnp.float32)
    one = flow.guide(v, u, text_scale=3.0)
    two = flow.guide(v, u, w, text_scale=3.0, image_scale=1.0)
    np.testing.assert_array_equal(one, two)


def test_guidance_of_a_row_does_not_depend_on_its_batch():
    v, u = jnp.asarray(np.random.default_rng(2).normal(size=(2, 3, 5, 6)), jnp.float32)
    alone = flow.guide(v[1:2], u[1:2], text_scale=4.0, renorm="global")
    among = flow.guide(v, u, text_scale=4.0, renorm="global")[1:2]
    np.testing.assert_allclose(alone, among, rtol=1e-6)


def test_unknown_renorm_is_named():
    x = jnp.zeros((1, 1, 1))
    with pytest.raises(ValueError, match="'local'"):
        flow.guide(x, x, text_scale=2.0, renorm="local")


@pytest.mark.parametrize(
    ("s", "first", "last", "guided"),
    [
        (3.0, [1, 0.993103, 0.986014], [0.113208, 0.058824, 0], 41),
        (4.0, [1, 0.994819, 0.989474], [0.145455, 0.076923, 0], 42),
        (1.0, [1, 48 / 49, 47 / 49], [2 / 49, 1 / 49, 0], 30),
    ],
)
def test_euler_grid_is_the_recorded_one(s, first, last, guided):
    grid = flow.euler_grid(50, s)
    assert grid.dtype == np.float32 and len(grid) == 50
    np.testing.assert_allclose(grid[:3], first, atol=1e-6)
    np.testing.assert_allclose(grid[-3:], last, atol=1e-6)
    assert (grid[:-1] > 0.4).sum() == guided


def test_euler_integration_of_the_true_velocity_reaches_the_data():
    x0, noise = np.random.default_rng(3).normal(size=(2, 7, 4))
    grid, x = flow.euler_grid(10, 3.0), noise
    for here, there in itertools.pairwise(grid):
        x = x - flow.velocity(x0, noise) * (here - there)
    np.testing.assert_allclose(x, x0, atol=1e-6)


def test_timesteps_of_clean_tokens_are_exactly_zero():
    logits = np.array([-np.inf, -1.0, 0.0, 2.0])
    found = flow.timesteps(jnp.asarray(logits, jnp.float32), 4.0)
    t = 1 / (1 + np.exp(-logits))
    np.testing.assert_allclose(found, 4 * t / (1 + 3 * t), rtol=1e-6)
    assert found[0] == 0.0


def test_interpolation_and_its_derivative():
    rng = np.random.default_rng(4)
    x0, noise, t = rng.normal(size=(2, 3, 4)), rng.normal(size=(2, 3, 4)), rng.uniform(size=(2, 3))
    found = flow.interpolate(x0, noise, t)
    for b in range(2):
        for i in range(3):
            wanted = (1 - t[b, i]) * x0[b, i] + t[b, i] * noise[b, i]
            np.testing.assert_allclose(found[b, i], wanted)
    later = flow.interpolate(x0, noise, t + 1e-3)
    np.testing.assert_allclose((later - found) / 1e-3, flow.velocity(x0, noise), rtol=1e-6)


def test_token_noise_depends_on_seed_and_place_only():
    seeds = jnp.asarray([[7, 7, 9], [9, 7, 7]], jnp.uint32)
    places = jnp.asarray([[0, 1, 5], [5, 1, 0]], jnp.int32)
    noise = flow.token_noise(seeds, places, 8)
    np.testing.assert_array_equal(noise[0], noise[1, ::-1])
    assert len(np.unique(np.asarray(noise[0]).round(6))) == 24
    jitted = jax.jit(flow.token_noise, static_argnums=2)(seeds, places, 8)
    np.testing.assert_array_equal(noise, jitted)


def test_token_noise_is_standard_normal():
    seeds = jnp.arange(40, dtype=jnp.uint32)[:, None].repeat(50, 1)
    noise = np.asarray(flow.token_noise(seeds, jnp.arange(50)[None].repeat(40, 0), 16))
    assert abs(noise.mean()) < 0.02 and abs(noise.std() - 1) < 0.02
    neighbours = np.corrcoef(noise[:, :-1].reshape(-1), noise[:, 1:].reshape(-1))[0, 1]
    assert abs(neighbours) < 0.02
