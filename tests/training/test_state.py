"""The layout of the state: moments and averages follow their parameter, whatever is frozen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from unireason_jax.pods import sharding
from unireason_jax.training import optim, state

LOGICAL = {
    "scale": ("embed",),
    "und": {"scale": ("layers", "mlp"), "kernel": ("layers", "embed", "mlp")},
    "gen": {"kernel": ("layers", "embed", "mlp")},
}


def init():
    return {
        "scale": jnp.ones((8,)),
        "und": {"scale": jnp.ones((2, 8)), "kernel": jnp.ones((2, 8, 16))},
        "gen": {"kernel": jnp.full((2, 8, 16), 2.0)},
    }


@pytest.mark.parametrize("freeze", [(), ("^gen/",)])
def test_moments_and_average_take_the_sharding_of_their_parameter(freeze):
    config = optim.OptimConfig(freeze=freeze, ema=0.9, mu_dtype="bfloat16")
    optimizer = optim.make_optimizer(config, LOGICAL)
    mesh = sharding.make_mesh({"fsdp": 4, "tensor": 2})
    abstract = state.abstract_state(jax.eval_shape(init), optimizer)
    places = state.state_shardings(mesh, abstract, LOGICAL)
    adam = places.opt_state.inner[1][0]
    for tree in (places.params, places.ema, adam.mu, adam.nu):
        assert tree["scale"].spec == P("fsdp")
        # "scale" is also the tail of "und/scale": the longest path decides.
        assert tree["und"]["scale"].spec == P(None, "tensor")
        assert tree["und"]["kernel"].spec == P(None, "fsdp", "tensor")
        assert ("gen" in tree) == (tree is places.params or not freeze)
    assert places.step.spec == P() and places.opt_state.norms.spec == P()
    assert abstract.opt_state.inner[1][0].mu["scale"].dtype == jnp.bfloat16
    made = state.initialize(init, optimizer, places)
    assert jax.tree.map(lambda x: x.sharding, made) == places
    adopted = state.adopt(jax.device_put(init(), places.params), optimizer, places)
    for a, b in zip(jax.tree.leaves(adopted), jax.tree.leaves(made)):
        np.testing.assert_array_equal(a, b)


def test_bytes_per_device_counts_shards():
    optimizer = optim.make_optimizer(optim.OptimConfig(ema=0.0), LOGICAL)
    mesh = sharding.make_mesh({"fsdp": 4, "tensor": 2})
    abstract = state.abstract_state(jax.eval_shape(init), optimizer)
    places = state.state_shardings(mesh, abstract, LOGICAL)
    floats = 8 // 4 + 2 * 8 // 2 + 2 * (2 * 8 * 16) // 8
    assert state.bytes_per_device(abstract.params, places.params) == 4 * floats
