"""Stochastic flow steps: the published formulas' values, and the properties they must have."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unireason_jax.rules import flow, stochastic_steps

X = np.array([0.5, -1.25, 2, 0.125])
V = np.array([-0.75, 0.5, 1.5, -0.25])
EPS = np.array([1, -0.5, 0.25, -2])


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize(
    ("t", "t_next", "level", "cap", "std", "mean"),
    [
        (1.0, 0.975, 0.7, 0.975, 0.7, [0.39625, -0.95625, 1.4725, 0.100625]),
        (1.0, 54 / 55, 1.0, 0.95, 0.603022689156, [0.4227272727, -1.031818182, 1.609090909, None]),
        (0.5, 0.4, 0.8, 0.95, 0.252982212813, [0.567, -1.236, 1.674, 0.15]),
    ],
)
def test_values_computed_by_hand(t, t_next, level, cap, std, mean):
    found, deviation = stochastic_steps.sde_step(X, V, t, t_next, level=level, cap=cap)
    assert deviation == pytest.approx(std, rel=1e-11)
    for ours, theirs in zip(found, mean):
        assert theirs is None or ours == pytest.approx(theirs, rel=1e-9)
    x_next = found + deviation * EPS
    assert stochastic_steps.log_prob(x_next, found, deviation) == pytest.approx(-0.6640625)


def test_without_noise_it_is_the_euler_step_and_has_no_log_probability():
    grid = flow.euler_grid(15, 3.0).astype(np.float64)
    for t, t_next in itertools.pairwise(grid):
        mean, std = stochastic_steps.sde_step(X, V, t, t_next, level=0.0)
        np.testing.assert_allclose(mean, X - (t - t_next) * V, atol=1e-14)
        assert std == 0

    def probability(v):
        mean, std = stochastic_steps.sde_step(X, v, 0.5, 0.4, level=0.0)
        return stochastic_steps.log_prob(X, mean, std)

    value, slope = jax.value_and_grad(probability)(jnp.asarray(V))
    assert value == 0 and np.all(np.asarray(slope) == 0)


def test_marginals_are_kept_to_second_order():
    """Gaussian data and its exact velocity: the error of the variance falls with h squared."""
    spread, t, level = 0.7, 0.6, 0.7
    a, b = (1 - t) * spread, t
    variance = a**2 + b**2
    slope = (b - (1 - t) * spread**2) / variance  # v = slope x
    errors = []
    for h in (0.02, 0.01, 0.005):
        x = np.array([np.sqrt(variance)])
        mean, std = stochastic_steps.sde_step(x, slope * x, t, t - h, level=level)
        wanted = ((1 - t + h) * spread) ** 2 + (t - h) ** 2
        errors.append(float(mean[0] ** 2 + std**2 - wanted))
    np.testing.assert_allclose(errors, [-5.29231e-5, -1.32308e-5, -3.30770e-6], rtol=1e-5)


def test_replay_under_other_weights():
    moved = V + np.array([0.02, -0.01, 0, 0.04])
    old, std = stochastic_steps.sde_step(X, V, 0.5, 0.4, level=0.8)
    new, _ = stochastic_steps.sde_step(X, moved, 0.5, 0.4, level=0.8)
    x_next = old + std * EPS
    assert stochastic_steps.log_prob(x_next, new, std) == pytest.approx(-0.656959548183)
    centred = stochastic_steps.centred_log_ratio(x_next, new, old, std)
    assert centred == pytest.approx(float(np.mean(EPS * (new - old))), rel=1e-9)
    assert stochastic_steps.transition_kl(new, old, std) == pytest.approx(7.1465625e-5)
    assert stochastic_steps.velocity_penalty(moved, V) == pytest.approx(5.25e-4)
    pull = jax.grad(lambda v: stochastic_steps.velocity_penalty(v, V))(jnp.asarray(moved))
    assert np.all(np.asarray(pull) * (moved - V) >= 0) and np.any(np.asarray(pull) != 0)


def test_the_gradient_of_the_policy_at_ratio_one():
    old, std = stochastic_steps.sde_step(X, V, 0.5, 0.4, level=0.8)
    x_next = old + std * EPS
    recorded = stochastic_steps.log_prob(x_next, old, std)

    def loss(v):
        mean, deviation = stochastic_steps.sde_step(X, v, 0.5, 0.4, level=0.8)
        ratio = jnp.exp(stochastic_steps.log_prob(x_next, mean, deviation) - recorded)
        return -1.5 * ratio

    wanted = [0.1956659302, -0.09783296511, 0.04891648256, -0.3913318604]
    np.testing.assert_allclose(jax.grad(loss)(jnp.asarray(V)), wanted, rtol=1e-9)


def test_latents_of_a_batch_do_not_mix():
    """Every image has its own times; the result is that of each alone."""
    times, nexts = np.array([1.0, 0.5]), np.array([0.9, 0.4])
    both, stds = stochastic_steps.sde_step(
        np.stack([X, X[::-1]]), np.stack([V, V[::-1]]), times, nexts, level=0.7
    )
    alone, std = stochastic_steps.sde_step(X[::-1], V[::-1], 0.5, 0.4, level=0.7)
    np.testing.assert_array_equal(both[1], alone)
    assert stds[1] == std
