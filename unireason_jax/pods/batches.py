"""Which rows of a batch a process feeds, and how they become global arrays.

Rows are divided over `data` x `fsdp`. Which of these parts a process holds follows from where its
devices stand in the mesh: the four chips of a host may hold whole rows, or halves of two rows whose
other halves are on the next host. Processes that share a row read the same rows.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows of a batch over `data` and `fsdp`; the other dimensions whole."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def row_parts(mesh: Mesh) -> int:
    """Into how many parts the rows of a batch are divided: data x fsdp."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def parts_by_process(mesh: Mesh) -> dict[int, tuple[int, ...]]:
    """The parts of the rows that each process's devices hold, in order.

    Raises:
      ValueError: some processes hold more parts than others.
    """
    held: dict[int, set[int]] = {}
    for part, devices in enumerate(mesh.devices.reshape(row_parts(mesh), -1)):
        for device in devices:
            held.setdefault(device.process_index, set()).add(part)
    counts = {len(parts) for parts in held.values()}
    most = max(counts)
    if len(counts) > 1 or row_parts(mesh) % most:
        raise ValueError(
            f"mesh: {dict(mesh.shape)} gives some hosts {min(counts)} and others {most} of the "
            f"{row_parts(mesh)} parts of the rows; change --config.mesh.context or "
            "--config.mesh.tensor so that every host holds as many."
        )
    return {process: tuple(sorted(parts)) for process, parts in held.items()}


def row_share(mesh: Mesh, process: int | None = None) -> tuple[int, ...]:
    """The parts of the rows that a process feeds; that of this process if None.

    Raises:
      ValueError: see `parts_by_process`; or the process has no device in the mesh.
    """
    process = jax.process_index() if process is None else process
    shares = parts_by_process(mesh)
    if process not in shares:
        raise ValueError(f"mesh: process {process} has no device in it; use all of them.")
    return shares[process]


def local_rows(mesh: Mesh, rows: int, process: int | None = None) -> np.ndarray:
    """Places in a batch of `rows` rows that a process feeds, ascending: int64 [n].

    Raises:
      ValueError: the rows are not a multiple of data x fsdp; see `row_share`.
    """
    each = _rows_of_a_part(mesh, rows)
    share = np.asarray(row_share(mesh, process))
    return (share[:, None] * each + np.arange(each)).ravel()


def global_batch(mesh: Mesh, batch: Mapping[str, Any]) -> dict[str, jax.Array]:
    """This process's rows of a batch as global arrays, rows over `data` x `fsdp`.

    Args:
      mesh: the mesh.
      batch: numpy arrays whose leading rows are those of `local_rows`, in that order.

    Raises:
      ValueError: the rows cannot be divided over the parts that this process holds.
    """
    share, sharding = row_share(mesh), batch_sharding(mesh)
    rows = next(iter(batch.values())).shape[0] * row_parts(mesh) // len(share)
    each = _rows_of_a_part(mesh, rows)
    first = {part * each: place * each for place, part in enumerate(share)}

    def placed(array: np.ndarray) -> jax.Array:
        def of_device(index: tuple[slice, ...]) -> np.ndarray:
            start = first[index[0].start or 0]
            return array[start : start + each]

        return jax.make_array_from_callback((rows, *array.shape[1:]), sharding, of_device)

    return {name: placed(np.asarray(array)) for name, array in batch.items()}


def _rows_of_a_part(mesh: Mesh, rows: int) -> int:
    """Rows of one part of a batch."""
    if rows % row_parts(mesh):
        raise ValueError(
            f"batch: {rows} rows cannot be divided over data x fsdp = {row_parts(mesh)} devices; "
            "set --config.data.rows to a multiple of it."
        )
    return rows // row_parts(mesh)
