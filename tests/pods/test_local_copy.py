"""Copies of weights on a process's own devices; `tests/test_rl.py` makes them in two processes."""

import jax
import numpy as np
from jax.sharding import PartitionSpec

from unireason_jax.pods import sharding
from unireason_jax.pods.local_copy import local_copy, local_mesh


def test_a_copy_is_whole_and_spread_over_the_processes_own_devices():
    mesh = sharding.make_mesh({"data": 2, "tensor": 2, "context": 2})
    logical = {"kernel": ("embed", "mlp"), "scale": (None,)}
    tree = {"kernel": np.arange(64.0).reshape(16, 4), "scale": np.arange(3.0)}
    placed = jax.device_put(tree, sharding.shardings(mesh, tree, logical))
    found = local_copy(placed, logical, mesh, 6)
    for name, leaf in found.items():
        np.testing.assert_array_equal(leaf, tree[name])
        assert leaf.sharding.mesh == local_mesh(mesh, 6)
    assert dict(local_mesh(mesh, 6).shape) == {"data": 1, "fsdp": 4, "tensor": 2, "context": 1}
    assert found["kernel"].sharding.spec == PartitionSpec("fsdp", "tensor")
