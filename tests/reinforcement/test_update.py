"""What an update must be: exact at the start, blind to packing, still where nothing is better."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.inference import toy as model
from tests.reinforcement import toy
from unireason_jax.data.rows import Budgets
from unireason_jax.models import functional
from unireason_jax.pods import sharding
from unireason_jax.reinforcement import update
from unireason_jax.training import optim
from unireason_jax.training import state as states

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_compile")]


@functools.cache
def optimizer():
    """Adam with an epsilon so large that it moves along the gradient."""
    config = optim.OptimConfig(lr=0.1, eps=1.0, clip_norm=0, ema=0)
    return optim.make_optimizer(config, functional.logical_axes(model.config()))


@functools.cache
def program():
    return jax.jit(
        functools.partial(
            update.update,
            model=model.config(),
            policy=toy.POLICY,
            optimizer=optimizer(),
            vocab=toy.VOCAB,
            chunk=64,
        )
    )


def step(stack, count, *, reference=None, recorded=None):
    """(parameters after, what was recorded, metrics) of one update of the dwarf."""
    state = states.new_state(model.params(), optimizer())
    is_first = jnp.bool_(recorded is None)
    recorded = update.nothing_recorded(stack) if recorded is None else recorded
    reference = model.params() if reference is None else reference
    given = state, reference, stack, jnp.int32(count), recorded, is_first
    state, recorded, told = program()(*given)
    return state.params, recorded, {name: float(x) for name, x in told.items()}


def close(one, other, atol=2e-6):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other)):
        np.testing.assert_allclose(a, b, atol=atol)


def test_the_ratio_is_one_to_the_last_bit():
    """At once; and again, with the same weights, against what the first update recorded."""
    stack, count = toy.pack()
    _, recorded, told = step(stack, count)
    assert np.asarray(recorded.text).any() and np.asarray(recorded.moves).any()
    _, repeated, again = step(stack, count, recorded=recorded)
    # The weights sum to one, so a mean of exact ones is that sum.
    for name in ("text", "flow"):
        assert told[f"ratio/{name}"] == again[f"ratio/{name}"] == pytest.approx(1, abs=2e-6)
        assert again[f"clipped/{name}"] == 0 and told[f"mismatch/{name}"] < 1e-5
    for first, second in zip(recorded, repeated):
        np.testing.assert_array_equal(first, second)
    assert again["loss"] == told["loss"]
    moved = update.Recorded(recorded.text - 0.5, recorded.moves)
    assert step(stack, count, recorded=moved)[2]["clipped/text"] > 0.9


def test_equal_rewards_move_nothing_at_the_reference():
    stack, count = toy.pack(advantages=np.zeros(6, np.float32))
    _, _, told = step(stack, count)
    assert told["grad_norm"] == 0
    moved = toy.pack()
    assert step(*moved)[2]["grad_norm"] > 1e-4


def test_the_distance_to_a_reference_has_a_gradient():
    stack, count = toy.pack(advantages=np.zeros(6, np.float32))
    other = jax.tree.map(lambda x: x * 1.05, model.params())
    _, _, told = step(stack, count, reference=other)
    assert told["kl/text"] > 0 and told["kl/velocity"] > 0 and told["grad_norm"] > 1e-5


def test_order_packing_and_padding_change_nothing():
    wanted, _, told = step(*toy.pack())
    others = (
        toy.pack(order=[4, 1, 5, 0, 3, 2]),
        toy.pack(budgets=Budgets(230, 90, 200), per=4),
    )
    for stack, count in others:
        found, _, again = step(stack, count)
        close(found, wanted)
        for name in ("loss/text", "loss/flow", "entropy", "grad_norm"):
            assert again[name] == pytest.approx(told[name], abs=1e-5, rel=1e-4)


def test_two_devices_take_the_step_of_one():
    stack, count = toy.pack()
    wanted, _, _ = step(stack, count)
    mesh = sharding.make_mesh({"data": 2}, devices=jax.devices()[:2])
    with jax.set_mesh(mesh):
        found, _, _ = step(*toy.pack(devices=2))
    close(found, wanted)
