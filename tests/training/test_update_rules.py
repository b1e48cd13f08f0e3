"""Every update rule learns, keeps what it says, is sharded like its weights, and is saved whole."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unireason_jax.pods import sharding
from unireason_jax.training import checkpoint, low_bit_moments, optim, state
from unireason_jax.training.checkpoint import Checkpoints

LOGICAL = {
    "stack": {"blocks": {"und": {"up": {"kernel": ("layers", "embed", "mlp")}}}},
    "head": {"bias": ("mlp",)},
}
SHAPES = {"stack": {"blocks": {"und": {"up": {"kernel": (2, 128, 128)}}}}, "head": {"bias": (64,)}}
WAYS = {
    "float32": ({}, 8.0),
    "bfloat16": ({"mu_dtype": "bfloat16", "nu_dtype": "bfloat16"}, 4.0),
    "int8": ({"mu_dtype": "int8", "nu_dtype": "int8"}, 2.07),
    "adafactor": ({"name": "adafactor"}, 0.05),
    "muon": ({"name": "muon", "lr": 0.04}, 4.03),
}
COUNT = 2 * 128 * 128 + 64


def start(spread=0.0):
    draw = np.random.default_rng(0).normal
    is_shape = lambda s: isinstance(s, tuple)  # noqa: E731
    return jax.tree.map(
        lambda s: jnp.asarray(spread * draw(size=s), jnp.float32), SHAPES, is_leaf=is_shape
    )


def make(**options):
    fixed = {"lr": 0.02, "ema": 0.0, "clip_norm": 0.0, "spike_window": 4, "eps": 1e-8}
    return optim.make_optimizer(optim.OptimConfig(**fixed | options), LOGICAL)


@functools.partial(jax.jit, static_argnames=("ways", "steps"))
def learned(target, ways, steps=150):
    """Weights after so many updates towards a target, and the state."""
    optimizer = make(**dict(ways))

    def update(carry, _):
        params, opt_state = carry
        grads = jax.tree.map(jnp.subtract, params, target)
        params, opt_state, _, _ = optimizer.update(
            trainable=params, opt_state=opt_state, ema={}, grads=grads, loss=jnp.float32(1)
        )
        return (params, opt_state), None

    params = start()
    return jax.lax.scan(update, (params, optimizer.init(params)), length=steps)[0]


@pytest.mark.parametrize("way", WAYS)
def test_every_rule_learns_and_keeps_what_it_says(way):
    options, bytes_each = WAYS[way]
    target = start(spread=0.5)
    params, opt_state = learned(target, tuple(options.items()))
    for found, wanted in zip(jax.tree.leaves(params), jax.tree.leaves(target)):
        error = float(jnp.linalg.norm(found - wanted) / jnp.linalg.norm(wanted))
        assert error < (0.2 if way == "muon" else 0.05), way
    kept = sum(leaf.nbytes for leaf in jax.tree.leaves(opt_state.inner)) / COUNT
    assert abs(kept - bytes_each) < 0.05 * bytes_each + 0.03


def test_moments_of_a_byte_move_weights_as_those_of_four():
    target, found = start(spread=0.5), []
    for way in ("float32", "int8"):
        found.append(learned(target, tuple(WAYS[way][0].items()), steps=10)[0])
    one, two = (jnp.concatenate([x.ravel() for x in jax.tree.leaves(tree)]) for tree in found)
    assert float(jnp.linalg.norm(one - two) / jnp.linalg.norm(one)) < 0.03


def test_a_second_moment_never_becomes_zero():
    nu = {"w": jnp.asarray([[1.0, 1e-12, 0.0], [0.0, 0.0, 0.0]])}
    found = low_bit_moments.unpack(low_bit_moments.pack(nu, "int8", signed=False), signed=False)[
        "w"
    ]
    assert found[0, 1] > 0 and found[0, 2] == 0 and not np.any(found[1])


@pytest.mark.parametrize("way", ["int8", "adafactor", "muon"])
def test_states_are_sharded_and_saved_whole(way, tmp_path):
    optimizer = make(**WAYS[way][0])
    mesh = sharding.make_mesh({"fsdp": 8})
    abstract = state.abstract_state(jax.eval_shape(start), optimizer)
    places = state.state_shardings(mesh, abstract, LOGICAL)
    made = state.initialize(start, optimizer, places)
    large = [x for x in jax.tree.leaves(made.opt_state) if x.size >= 2 * 128 * 128]
    assert all(not x.sharding.is_fully_replicated for x in large)
    made = jax.tree.map(lambda x: x + jnp.ones((), x.dtype), made)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, made, {})
    loaded, _ = checkpoint.load_state(tmp_path, state.with_shardings(abstract, places))
    for one, two in zip(jax.tree.leaves(made), jax.tree.leaves(loaded), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"name": "lion"}, "optim.name is 'lion'; choose adamw, adafactor, muon"),
        ({"nu_dtype": "fp8"}, "optim.nu_dtype is 'fp8'; choose float32, bfloat16, int8"),
        ({"name": "muon", "mu_dtype": "int8"}, "optim.mu_dtype=int8 is for optim.name=adamw"),
    ],
)
def test_what_does_not_exist_is_refused(options, told):
    with pytest.raises(ValueError, match=told):
        optim.OptimConfig(**options)
