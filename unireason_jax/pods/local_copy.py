"""Copies of global arrays on the devices of each process, for what every process does by itself."""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from unireason_jax.pods import sharding


def local_mesh(mesh: Mesh) -> Mesh:
    """The devices of a mesh that this process holds, all of them on `fsdp`."""
    return _of_process(mesh, jax.process_index())


def local_copy(tree: Any, logical: Any, mesh: Mesh) -> Any:
    """Arrays that all processes hold together as arrays of which each holds a whole copy.

    Every process calls it at once. A copy is spread over the devices of its process.

    Args:
      tree: a nested dict of arrays on the mesh.
      logical: the same nested dict with logical names, as for `sharding.shardings`.
      mesh: of all processes, each with as many devices.

    Returns:
      The same nested dict on `local_mesh`.
    """
    grids = [_of_process(mesh, number).devices for number in range(jax.process_count())]
    hosts = Mesh(np.concatenate(grids), mesh.axis_names, axis_types=mesh.axis_types)
    here = local_mesh(mesh)
    # No weight is divided over `data`, along which the processes lie.
    copied = jax.device_put(tree, sharding.shardings(hosts, tree, logical))

    def own(leaf: jax.Array) -> jax.Array:
        parts = [shard.data for shard in leaf.addressable_shards]
        place = NamedSharding(here, leaf.sharding.spec)
        return jax.make_array_from_single_device_arrays(leaf.shape, place, parts)

    return jax.tree.map(own, copied)


def _of_process(mesh: Mesh, process: int) -> Mesh:
    held = [device for device in mesh.devices.flat if device.process_index == process]
    return sharding.make_mesh(devices=sorted(held, key=lambda device: device.id))
