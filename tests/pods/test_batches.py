"""Which rows a process feeds follows from where its devices stand in the mesh."""

import dataclasses
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from unireason_jax.pods import batches, sharding

SIZES = {"data": 2, "fsdp": 2, "tensor": 2, "context": 1}


@dataclasses.dataclass(frozen=True)
class Chip:
    """A chip of a torus whose hosts hold 2 x 2 of them, as TPU v5e and v6e have it."""

    id: int
    coords: tuple[int, int, int]
    process_index: int
    core_on_chip: int = 0
    slice_index: int = 0
    platform: str = "tpu"
    device_kind: str = "TPU v5 lite"


def torus(rows, columns):
    def host(x, y):
        return (x // 2) * (columns // 2) + y // 2

    places = [(x, y) for x in range(rows) for y in range(columns)]
    return [Chip(i, (x, y, 0), host(x, y)) for i, (x, y) in enumerate(places)]


def laid_out(chips, **sizes):
    """A mesh of chips that are not there: its devices and its shape."""
    shape = tuple(sizes.get(axis, 1) for axis in sharding.AXES)
    grid = sharding.device_grid(shape, 1, chips)
    return SimpleNamespace(devices=grid, shape=dict(zip(sharding.AXES, shape)))


@pytest.mark.parametrize(
    ("side", "sizes"),
    [
        ((4, 4), {"fsdp": 4, "context": 4}),  # a host's chips hold parts of two rows
        ((8, 8), {"data": 2, "fsdp": 8, "context": 4}),
        ((16, 16), {"data": 2, "fsdp": 32, "context": 4}),
        ((16, 16), {"data": 2, "fsdp": 64, "context": 2}),
        ((4, 4), {"fsdp": 16}),
        ((4, 4), {"context": 16}),  # one row over the whole pod
        ((4, 4), {"data": 2, "tensor": 8}),
    ],
)
def test_every_part_is_fed_by_those_who_hold_it_and_by_nobody_else(side, sizes):
    chips = torus(*side)
    mesh = laid_out(chips, **sizes)
    parts = batches.row_parts(mesh)
    shares = batches.parts_by_process(mesh)
    assert set(shares) == {chip.process_index for chip in chips}
    for part, devices in enumerate(mesh.devices.reshape(parts, -1)):
        holders = {chip.process_index for chip in devices}
        assert holders == {process for process, share in shares.items() if part in share}
    rows = 2 * parts
    fed = np.concatenate([batches.local_rows(mesh, rows, process) for process in shares])
    assert set(fed) == set(range(rows))
    assert len({len(batches.local_rows(mesh, rows, process)) for process in shares}) == 1


def test_hosts_that_share_a_row_read_the_same_rows():
    mesh = laid_out(torus(4, 4), fsdp=4, context=4)
    assert batches.row_parts(mesh) == 4
    shares = batches.parts_by_process(mesh)
    together = {process: batches.local_rows(mesh, 8, process).tolist() for process in shares}
    assert all(len(rows) < 8 for rows in together.values())
    for process, share in shares.items():
        for other, theirs in shares.items():
            if share == theirs:
                assert together[process] == together[other]


def test_hosts_with_unequal_shares_are_refused():
    chips = [Chip(i, (i, 0, 0), min(i, 2)) for i in range(4)]
    mesh = SimpleNamespace(
        devices=np.array(chips).reshape(1, 4, 1, 1), shape=dict(zip(sharding.AXES, (1, 4, 1, 1)))
    )
    with pytest.raises(ValueError, match=r"some hosts 1 and others 2 of the 4 parts"):
        batches.parts_by_process(mesh)


def test_a_process_without_a_device_is_refused():
    mesh = laid_out(torus(2, 2), fsdp=4)
    with pytest.raises(ValueError, match="process 7 has no device"):
        batches.row_share(mesh, 7)


def test_global_batch_divides_rows():
    mesh = sharding.make_mesh(SIZES)
    batch = {"ids": np.arange(12, dtype=np.int32).reshape(4, 3), "none": np.zeros((4, 0))}
    placed = batches.global_batch(mesh, batch)
    assert placed["ids"].sharding.spec == P(("data", "fsdp"))
    assert {s.data.shape for s in placed["ids"].addressable_shards} == {(1, 3)}
    np.testing.assert_array_equal(placed["ids"], batch["ids"])
    with pytest.raises(ValueError, match="3 rows cannot be divided"):
        batches.global_batch(mesh, {"ids": np.zeros((3, 2))})


def test_one_process_feeds_all_rows():
    mesh = sharding.make_mesh(SIZES)
    np.testing.assert_array_equal(batches.local_rows(mesh, 8), np.arange(8))
    assert batches.row_share(mesh) == tuple(range(4)) and jax.process_count() == 1


def test_devices_in_the_order_of_a_torus_get_their_own_rows():
    """Rows go where the mesh says, whatever the devices are numbered."""
    order = [0, 1, 4, 5, 2, 3, 6, 7]
    grid = np.array(jax.devices())[order].reshape(1, 4, 1, 2)
    mesh = jax.sharding.Mesh(grid, sharding.AXES)
    batch = {"ids": np.arange(16, dtype=np.int32).reshape(8, 2)}
    placed = batches.global_batch(mesh, batch)["ids"]
    np.testing.assert_array_equal(placed, batch["ids"])
    for shard in placed.addressable_shards:
        part = order.index(shard.device.id) // 2
        np.testing.assert_array_equal(shard.data, batch["ids"][2 * part : 2 * part + 2])
