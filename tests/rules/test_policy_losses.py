"""Advantages, rewards of trajectories, and clipped losses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unireason_jax.rules import advantages, policy_losses, rewards


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


REWARDS = np.array([1, 0.25, 0.25, 0])


@pytest.mark.parametrize(
    ("scale", "clip", "wanted"),
    [
        ("std", 5, [1.666222341, -0.3332444681, -0.3332444681, -0.9997334044]),
        ("none", 5, [0.625, -0.125, -0.125, -0.375]),
        ("floored_std", 1, [1, -1 / 3, -1 / 3, -1]),
    ],
)
def test_advantages(scale, clip, wanted):
    found = advantages.group_advantages(REWARDS, scale=scale, clip=clip)
    np.testing.assert_allclose(found, wanted, rtol=1e-9)
    both = advantages.group_advantages(np.stack([REWARDS, REWARDS * 0]), scale=scale, clip=clip)
    np.testing.assert_array_equal(both[0], found)
    assert np.all(both[1] == 0)


def test_an_unknown_scale_is_named():
    with pytest.raises(ValueError, match=r"'variance'.*floored_std"):
        advantages.group_advantages(REWARDS, scale="variance", clip=1)


def test_equal_rewards_move_nothing():
    worth = advantages.group_advantages(np.full(4, 0.3), scale="std", clip=5)

    def loss(log_ratio):
        return jnp.mean(policy_losses.clipped_ratio(log_ratio, worth, 0.2))

    assert np.all(np.asarray(jax.grad(loss)(jnp.array([0.1, -0.2, 0.0, 0.4]))) == 0)


def test_malformed_is_never_positive():
    worth = advantages.penalise_malformed(
        np.array([0.9, 0.9, -0.8, 0.0]), np.array([True, False, True, True])
    )
    np.testing.assert_allclose(worth, [-0.5, 0.9, -1, -0.5])


@pytest.mark.parametrize(
    ("scores", "premature", "wanted"),
    [
        ([0.3, 1, 1, 1], False, 1.21),
        ([0.3, 0.36, 0.15, 1], False, 1.186),
        ([0.3, 0.3, 0.3, 0.3], False, 0.3),
        ([0.3, 0.4, 0.5, 1], False, 1.27),
        ([1], False, 1.0),
        ([0.3], True, -0.2),
        ([1, 0.4, 1], False, 0.88),
    ],
)
def test_what_a_trajectory_earns(scores, premature, wanted):
    assert rewards.trajectory_reward(scores, premature=premature) == pytest.approx(wanted)


def test_the_clipped_flow_loss():
    worth = advantages.group_advantages(REWARDS, scale="std", clip=5)
    log_ratio = np.array([0, 2e-5, -3e-5, 5e-5])
    terms = policy_losses.clipped_ratio(log_ratio, worth, 1e-5)
    np.testing.assert_allclose(
        terms, [-1.666222341, 0.3332511331, 0.3332411357, 0.9997833923], rtol=1e-9
    )
    assert jnp.mean(policy_losses.clip_share(log_ratio, 1e-5)) == 0.75


def test_text_is_averaged_over_tokens_or_sequences():
    mask = np.array([[1, 1, 1, 1], [1, 1, 0, 0]])
    new = np.array([[-0.5, -1.2, -0.1, -2], [-0.9, -0.3, 7, 7]])
    old = np.array([[-0.55, -1, -0.1, -2.3], [-0.8, -0.35, -7, 7]])
    reference = np.array([[-0.6, -1.1, -0.15, -2.1], [-1, -0.3, 0, 0]])
    terms = policy_losses.clipped_ratio(new - old, np.array([[1], [-0.75]]), 0.2)
    assert policy_losses.token_mean(terms, mask) == pytest.approx(-0.433820077274)
    assert policy_losses.sequence_mean(terms, mask) == pytest.approx(-0.141979884730)
    apart = policy_losses.k3(new, reference)
    assert policy_losses.token_mean(apart, mask) == pytest.approx(0.00360354477315)
    assert policy_losses.sequence_mean(apart, mask) == pytest.approx(0.00334902333932)


def test_a_token_far_from_the_reference_keeps_a_bounded_gradient():
    assert policy_losses.k3(12.0, 0.0) == pytest.approx(66066.3973844)
    slopes = [jax.grad(policy_losses.k3)(d, 0.0) for d in (10.0, 45.0)]
    assert slopes[0] == pytest.approx(slopes[1]) == pytest.approx(np.exp(10) - 1)
