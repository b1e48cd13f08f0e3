"""Step caches: what they compute, that they keep every guidance branch, and rows apart."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.inference import toy
from tests.inference.test_integration import contexts, drawn, noise
from unireason_jax.inference import cache as caches
from unireason_jax.inference import integration
from unireason_jax.inference.settings import FlowSettings
from unireason_jax.inference.step_cache import CACHES, StepCache
from unireason_jax.models import functional

pytestmark = pytest.mark.usefixtures("quick_compile")

CACHED = {
    "taylor": CACHES["taylor"],
    "every third": StepCache(every=3, order=2),
    "repeated": StepCache(order=0),
    "tea": StepCache("tea", order=0, threshold=0.15),
    "tea, foretold": StepCache("tea", order=1, threshold=0.25),
}
ROWS = 2
MEANS = {3: 0.9, 2: 0.1, 1: -0.6}
"""Of the data that a context leads to, by its length: full, without text, without images."""


class Flow:
    """Stands in for a model: its contexts lead to data of other means; counts what is computed."""

    def __init__(self, monkeypatch):
        self.rows = []
        monkeypatch.setattr(integration, "read_noised", self.read)

    def embed_latents(self, x_t, t, positions):
        """Something that changes along the path."""
        return x_t + t[..., None]

    def read(self, model, cache, x, t, positions, counts, markers):
        """The velocity of normal data around a mean that the context's length tells."""
        mean = sum(jnp.where(cache.lengths == n, mean, 0.0) for n, mean in MEANS.items())
        jax.debug.callback(lambda lengths: self.rows.append(np.asarray(lengths)), cache.lengths)
        t, mean = t[:, None, None], mean[:, None, None]
        deviation = ((1 - t) * 0.3) ** 2 + t**2
        return -mean + (t - (1 - t) * 0.09) / deviation * (x - (1 - t) * mean)

    def draw(self, settings, branches=3):
        """The path of two images, and how often each branch was computed."""
        made = caches.empty(toy.config(), ROWS, 1)
        lengths = [jnp.full(ROWS, 3 - n, jnp.int32) for n in range(branches)]
        contexts = tuple(dataclasses.replace(made, lengths=length) for length in lengths)
        self.rows.clear()
        start = jnp.asarray(np.random.default_rng(3).normal(size=(ROWS, 4, 5)), jnp.float32)
        path = drawn(settings, contexts, start, self)
        jax.effects_barrier()
        told = np.concatenate(self.rows)
        return path, [int((told == 3 - n).sum()) // ROWS for n in range(branches)]


def flow_settings(**changes):
    usual = {"timesteps": 25, "shift": 2.0, "text_scale": 3.0, "image_scale": 1.5}
    return FlowSettings(**(usual | {"interval": (0.3, 1.0), "renorm": "none"} | changes))


@pytest.mark.parametrize("cache", CACHED)
def test_every_branch_is_computed_and_guides_in_every_cached_path(monkeypatch, cache):
    model = Flow(monkeypatch)
    exact, passes = model.draw(flow_settings())
    segments = flow_settings().segments()
    assert segments == ((0, 20, True), (20, 24, False)) and passes == [24, 20, 20]
    settings = flow_settings(cache=CACHED[cache])
    cached, passes = model.draw(settings)
    assert passes[1] == passes[2] > 2 and passes[0] < 20 and sum(passes) < 46
    told = settings.forwards(3)
    if settings.cache.rule == "taylor":
        assert sum(passes) == told and cached.passes.tolist() == [told] * ROWS
    else:
        assert told <= int(cached.passes.max()) <= sum(passes)
    without = [
        model.draw(flow_settings(cache=CACHED[cache], image_scale=1.0), branches=2)[0],
        model.draw(flow_settings(cache=CACHED[cache], text_scale=1.0), branches=1)[0],
    ]
    close = float(jnp.abs(cached.latents - exact.latents).max())
    for poorer in without:
        assert float(jnp.abs(poorer.latents - cached.latents).min()) > max(2 * close, 0.1)


@pytest.mark.parametrize("order", [0, 1, 2])
def test_a_polynomial_is_foretold_exactly(monkeypatch, order):
    def read(model, cache, x, t, positions, counts, markers):
        sign = jnp.where(cache.lengths == 3, 1.0, -0.5) * (1 + 2 * t**order)
        return jnp.ones_like(x) * sign[:, None, None]

    model = Flow(monkeypatch)
    monkeypatch.setattr(model, "read", read)
    monkeypatch.setattr(integration, "read_noised", read)
    made = caches.empty(toy.config(), ROWS, 1)
    both = tuple(dataclasses.replace(made, lengths=jnp.full(ROWS, n, jnp.int32)) for n in (3, 2))
    start = jnp.zeros((ROWS, 4, 5))
    settings = flow_settings(image_scale=1.0)
    exact = drawn(settings, both, start, model)
    cached = dataclasses.replace(settings, cache=StepCache(order=order, every=4))
    assert cached.forwards(2) < settings.forwards(2) / 2
    np.testing.assert_allclose(drawn(cached, both, start, model).latents, exact.latents, atol=1e-4)


def test_half_of_the_passes_draw_nearly_the_same(monkeypatch):
    model = Flow(monkeypatch)
    exact, passes = model.draw(flow_settings(timesteps=50))
    errors = {}
    for cache in ("taylor", "taylor2"):
        settings = flow_settings(timesteps=50, cache=cache)
        found, fewer = model.draw(settings)
        assert sum(passes) / sum(fewer) > 1.8
        errors[cache] = float(jnp.abs(found.latents - exact.latents).max())
    repeated = model.draw(flow_settings(timesteps=50, cache=StepCache(order=0)))[0]
    worst = float(jnp.abs(repeated.latents - exact.latents).max())
    assert max(errors.values()) < worst / 3


def test_first_steps_the_last_one_and_where_guidance_begins_compute():
    settings = flow_settings(interval=(0.3, 0.8), cache=StepCache(every=7))
    (_, begins, _), (_, ends, on), _ = settings.segments()
    assert on and 2 < begins < ends
    found = settings.computes()
    assert found[[0, 1, begins, 23]].all() and found.sum() < 8
    assert flow_settings().computes().all()


@functools.partial(jax.jit, static_argnames="settings")
def from_model(params, branches, start, settings):
    return drawn(settings, branches, start, functional.bind(toy.config(), params))


def test_a_row_decides_for_itself():
    cache = StepCache("tea", order=1, threshold=0.25)
    settings = FlowSettings(timesteps=9, interval=(0.0, 1.0), cache=cache)
    start = noise()
    calm = from_model(toy.params(), contexts(), start, settings)
    wild = from_model(
        toy.params(), contexts(), start * jnp.asarray([1.0, 9.0])[:, None, None], settings
    )
    assert int(calm.passes[0]) < 16 and int(wild.passes[1]) != int(calm.passes[1])
    np.testing.assert_array_equal(calm.latents[0], wild.latents[0])
    assert int(calm.passes[0]) == int(wild.passes[0])


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: StepCache("teacache"), "rule 'teacache' is not one of taylor, tea"),
        (lambda: StepCache(order=3), "order must be a whole number from 0 to 2, not 3"),
        (lambda: StepCache(every=True), "every must be a whole number"),
        (lambda: StepCache(threshold=float("nan")), "threshold must be a number >= 0, not nan"),
        (lambda: FlowSettings(cache="fast"), "cache 'fast' is not one of none, taylor"),
        (lambda: FlowSettings(cache=3), "cache 3 is not one of"),
    ],
)
def test_nonsense_is_refused(make, word):
    with pytest.raises(ValueError, match=word):
        make()
