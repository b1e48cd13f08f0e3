"""Copies of global arrays on the devices of each process, for what every process does by itself."""

import math
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from unireason_jax.pods import sharding


def local_mesh(mesh: Mesh, tensor: int) -> Mesh:
    """The devices of a mesh that this process holds: on `tensor` as many as divide a number.

    The others are on `fsdp`. A token that is written reads every weight: on `tensor` each device
    reads its part, on `fsdp` all weights are gathered for it (launch/README.md, "Reinforcement").

    Args:
      mesh: of all processes.
      tensor: the number, such as the model's key heads.
    """
    return _of_process(mesh, jax.process_index(), tensor)


def local_copy(tree: Any, logical: Any, mesh: Mesh, tensor: int) -> Any:
    """Arrays that all processes hold together as arrays of which each holds a whole copy.

    Every process calls it at once. A copy is spread over the devices of its process.

    Args:
      tree: a nested dict of arrays on the mesh.
      logical: the same nested dict with logical names, as for `sharding.shardings`.
      mesh: of all processes, each with as many devices.
      tensor: as that of `local_mesh`.

    Returns:
      The same nested dict on `local_mesh`.
    """
    grids = [_of_process(mesh, number, tensor).devices for number in range(jax.process_count())]
    hosts = Mesh(np.concatenate(grids), mesh.axis_names, axis_types=mesh.axis_types)
    here = local_mesh(mesh, tensor)
    # No weight is divided over `data`, along which the processes lie.
    copied = jax.device_put(tree, sharding.shardings(hosts, tree, logical))

    def own(leaf: jax.Array) -> jax.Array:
        parts = [shard.data for shard in leaf.addressable_shards]
        place = NamedSharding(here, leaf.sharding.spec)
        return jax.make_array_from_single_device_arrays(leaf.shape, place, parts)

    return jax.tree.map(own, copied)


def _of_process(mesh: Mesh, process: int, tensor: int) -> Mesh:
    held = [device for device in mesh.devices.flat if device.process_index == process]
    sizes = {"fsdp": -1, "tensor": math.gcd(len(held), tensor)}
    return sharding.make_mesh(sizes, devices=sorted(held, key=lambda device: device.id))
