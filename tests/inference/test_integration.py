"""Solvers: Euler to the bit, the others to second order on a flow whose end is known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.inference import toy
from unireason_jax.inference import cache as caches
from unireason_jax.inference import integration
from unireason_jax.inference.engine import Engine
from unireason_jax.inference.settings import FlowSettings
from unireason_jax.models import functional
from unireason_jax.rules import flow

pytestmark = pytest.mark.usefixtures("quick_compile")
MARKERS = Engine(toy.config(), None, toy.spec()).markers
MEAN, DEVIATION = 0.7, 0.3
"""Of data whose flow is known: a point stays as many deviations from the mean as at t = 1."""


def known(model, cache, x, t, positions, counts, markers):
    """The velocity of normal data: the mean's, and the deviation's share of x."""
    t = t[:, None, None]
    deviation = jnp.sqrt(((1 - t) * DEVIATION) ** 2 + t**2)
    growth = (t - (1 - t) * DEVIATION**2) / deviation**2
    return -MEAN + growth * (x - (1 - t) * MEAN)


def drawn(settings, branches, noise, model=None):
    rows, tokens = noise.shape[:2]
    positions = jnp.broadcast_to(jnp.arange(tokens, dtype=jnp.int32), (rows, tokens))
    counts = jnp.full(rows, tokens, jnp.int32)
    scales = tuple(jnp.full(rows, scale, jnp.float32) for scale in settings.scales)
    arrays = branches, noise, positions, counts, scales
    return integration.integrate(model, *arrays, markers=MARKERS, settings=settings)


@functools.partial(jax.jit, static_argnames="settings")
def from_model(params, branches, noise, settings):
    return drawn(settings, branches, noise, functional.bind(toy.config(), params))


def contexts(rows=2):
    """A context of a few words, and one without any."""
    ids = jnp.asarray(np.random.default_rng(0).integers(20, 60, (rows, 8)), jnp.int32)
    counts = jnp.arange(rows, dtype=jnp.int32) + 4
    model = functional.bind(toy.config(), toy.params())
    full = caches.append_text(model, caches.empty(toy.config(), rows, 64), ids, counts)[0]
    return full, caches.empty(toy.config(), rows, 64)


def noise(rows=2, tokens=9):
    shape = rows, tokens, toy.config().latent.features
    return jnp.asarray(np.random.default_rng(1).normal(size=shape), jnp.float32)


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("ab2", 2)])
def test_the_error_falls_by_two_to_the_order_when_steps_double(monkeypatch, solver, order, shift):
    monkeypatch.setattr(integration, "read_noised", known)
    start = jnp.asarray([[[1.0]], [[-0.4]], [[2.0]]])
    errors = {}
    for steps in (64, 128):
        for name in (solver, "dpmpp_2m"):
            settings = FlowSettings(timesteps=steps + 1, shift=shift, text_scale=1.0, solver=name)
            found = drawn(settings, (caches.empty(toy.config(), 3, 1),), start)[0]
            errors[name, steps] = float(jnp.abs(found - MEAN - DEVIATION * start).max())
    assert errors[solver, 64] / errors[solver, 128] == pytest.approx(2.0**order, rel=0.2)
    assert errors["dpmpp_2m", 128] < errors.get(("euler", 128), 1.0) / 4


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("ab2", 2), ("dpmpp_2m", 2)])
def test_the_order_holds_with_steps_of_any_length(solver, order):
    start, errors = np.array([1.0, -0.4, 2.0]), []

    def exact(t):
        return (1 - t) * MEAN + np.sqrt(((1 - t) * DEVIATION) ** 2 + t**2) * start

    for steps in (64, 128, 256):
        times = 0.05 + 0.9 * flow.shift(np.linspace(1, 0, steps + 1), 4.0)
        weights, x, before = flow.look_back(solver, times), exact(times[0]), 0.0
        for t, following, weight in zip(times, times[1:], weights):
            v = np.asarray(known(*[None] * 2, x[:, None, None], jnp.full(3, t), *[None] * 3))
            v = v.astype(np.float64).ravel()
            now = flow.remembered(solver, x, v, t)
            x, before = x - (v + weight * (now - before)) * (t - following), now
        errors.append(np.abs(x - exact(times[-1])).max())
    np.testing.assert_allclose(np.divide(errors[:-1], errors[1:]), 2.0**order, rtol=0.15)


def test_euler_is_the_plain_loop_to_the_bit():
    settings = FlowSettings(timesteps=6, interval=(0.7, 1.0))

    @jax.jit
    def plain(params, branches, x):
        model, times = functional.bind(toy.config(), params), jnp.asarray(settings.times())
        rows, tokens = x.shape[:2]
        places = jnp.broadcast_to(jnp.arange(tokens, dtype=jnp.int32), (rows, tokens))
        counts, scale = jnp.full(rows, tokens, jnp.int32), jnp.full(rows, 4.0)
        both = caches.concat_rows(list(branches))
        for first, last, on in settings.segments():

            def step(x, pair, on=on):
                copies, cache = (2, both) if on else (1, branches[0])
                arrays = [jnp.concatenate([array] * copies) for array in (x, places, counts)]
                times = jnp.full(cache.rows, pair[0])
                v = caches.read_noised(model, cache, arrays[0], times, *arrays[1:], MARKERS)
                v = flow.guide(*jnp.split(v, 2), text_scale=scale) if on else v
                return x - v * (pair[0] - pair[1]), None

            pairs = jnp.stack([times[first:last], times[first + 1 : last + 1]], axis=1)
            x, _ = jax.lax.scan(step, x, pairs)
        return x

    assert settings.segments() == ((0, 3, True), (3, 5, False))
    found = from_model(toy.params(), contexts(), noise(), settings)[0]
    np.testing.assert_array_equal(found, plain(toy.params(), contexts(), noise()))


def test_solvers_look_back_at_steps_of_any_length():
    times = np.array([1.0, 0.9, 0.6, 0.5, 0.0])
    np.testing.assert_allclose(flow.look_back("ab2", times), [0, 1.5, 1 / 6, 2.5], rtol=1e-6)
    weights = flow.look_back("dpmpp_2m", times)
    odds = np.log((1 - times[1:4]) / times[1:4])
    ratio = (odds[2] - odds[1]) / (odds[1] - odds[0])
    np.testing.assert_allclose(weights, [0, 0, -ratio / 2 / 0.6, 0], rtol=1e-6)
    assert not flow.look_back("euler", times).any() and not flow.look_back("ab2", times[:2]).any()
