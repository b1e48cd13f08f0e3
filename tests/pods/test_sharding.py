"""Mesh sizes, logical specs and the placement of batches, on eight fake devices."""

import dataclasses
import functools
import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from jax.sharding import PartitionSpec as P

from unireason_jax.compilation import topology
from unireason_jax.models import functional
from unireason_jax.models.config import variant
from unireason_jax.pods import batches, sharding

SIZES = {"data": 2, "fsdp": 2, "tensor": 2, "context": 1}


def test_one_axis_takes_what_is_left():
    assert sharding.mesh_sizes({"data": 2, "fsdp": -1}, 8) == (2, 4, 1, 1)
    assert sharding.mesh_sizes({"tensor": 8}, 8) == (1, 1, 8, 1)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"fdsp": 8}, "unknown axis 'fdsp'"),
        ({"data": 3}, "needs 3 devices but there are 8"),
        ({"data": 3, "fsdp": -1}, "need a multiple of 3 devices but there are 8"),
        ({"data": -1, "fsdp": -1}, "at most one may be -1"),
        ({"data": 0}, "must be >= 1"),
    ],
)
def test_wrong_sizes_are_explained(sizes, message):
    with pytest.raises(ValueError, match=message):
        sharding.mesh_sizes(sizes, 8)


KINDS = {"v4": "TPU v4", "v5e": "TPU v5 lite", "v5p": "TPU v5", "v6e": "TPU v6 lite"}
KINDS |= {"tpu7x": "TPU7x", "h100": "NVIDIA H100 80GB HBM3", "h200": "NVIDIA H200"}


@functools.cache
def bytes_of_7b(sizes):
    """What a device of such a mesh keeps of a 7B run: weights, two moments, average, gradients."""
    config = variant("bagel_7b_mot")
    shapes, logical = functional.abstract(config), functional.logical_axes(config)
    total = 0
    for path, leaf in traverse_util.flatten_dict(shapes).items():
        names = traverse_util.flatten_dict(logical)[path]
        spec = sharding.fitted_spec(leaf.shape, names, dict(sizes))
        axes = [a for part in spec if part for a in ((part,) if isinstance(part, str) else part)]
        total += math.prod(leaf.shape) * 4 * 5 // math.prod(dict(sizes)[a] for a in axes)
    return total


@pytest.mark.parametrize("name", sorted(set(sharding.ACCELERATORS) - {"cpu"}))
def test_a_pod_keeps_a_7b_run_and_more_chips_hold_replicas(name):
    """Three quarters of the memory at most: what is left is for activations."""
    assert set(KINDS) == set(sharding.ACCELERATORS) - {"cpu"}
    group = math.prod(sharding.ACCELERATORS[name])
    sizes = sharding.preset(name, group)
    assert sizes["data"] == 1
    chip = topology.chip(types.SimpleNamespace(device_kind=KINDS[name], platform="tpu"))
    assert bytes_of_7b(tuple(sizes.items())) < 0.75 * chip.memory_gib * 2**30
    assert sharding.preset(name, 4 * group) == sizes | {"data": 4}


@pytest.mark.parametrize("devices", [1, 6, 8])
def test_any_number_of_devices_can_be_laid_out(devices):
    for name in sharding.ACCELERATORS:
        mesh = sharding.make_mesh(sharding.preset(name, devices), devices=jax.devices()[:devices])
        assert mesh.size == devices


def test_presets_are_config_values():
    config = {"preset": "cpu", "data": 1, "fsdp": 1, "tensor": 1, "context": 1, "slices": 1}
    assert dict(sharding.configured_mesh(config).shape) == sharding.preset("cpu", 8)
    own = sharding.configured_mesh(config | {"preset": "", "tensor": 8})
    assert dict(own.shape) == {"data": 1, "fsdp": 1, "tensor": 8, "context": 1}
    assert sharding.preset("v5p", 64) == {"data": 4, "fsdp": 16, "tensor": 1, "context": 1}
    with pytest.raises(ValueError, match="did you mean 'v5p'"):
        sharding.preset("v5pp", 8)


def test_mesh_has_auto_axes_in_order():
    mesh = sharding.make_mesh(SIZES)
    assert mesh.axis_names == sharding.AXES
    assert set(mesh.axis_types) == {jax.sharding.AxisType.Auto}
    assert batches.row_parts(mesh) == 4


@dataclasses.dataclass(frozen=True)
class Chip:
    """What the layout of a multislice mesh looks at."""

    id: int
    slice_index: int
    process_index: int
    platform: str = "cpu"
    device_kind: str = "cpu"


def test_only_the_data_axis_crosses_slices():
    chips = [Chip(i, i // 4, i // 4) for i in range(8)]
    grid = sharding.device_grid((2, 2, 2, 1), 2, chips)
    slices = np.vectorize(lambda chip: chip.slice_index, otypes=[int])(grid)
    assert grid.shape == (2, 2, 2, 1)
    assert (slices[0] == slices[0].flat[0]).all() and (slices[1] != slices[0]).all()


@dataclasses.dataclass(frozen=True)
class TorusChip:
    """What the layout of a mesh within a slice looks at."""

    id: int
    coords: tuple[int, int, int]
    core_on_chip: int = 0
    process_index: int = 0
    platform: str = "tpu"
    device_kind: str = "TPU v6 lite"


def test_a_dimension_of_the_torus_may_be_shared_by_two_axes():
    chips = [TorusChip(i, (i // 16, i % 16, 0)) for i in range(256)]
    sizes = sharding.preset("v6e", 256)
    grid = sharding.device_grid(tuple(sizes[axis] for axis in sharding.AXES), 1, chips)
    assert grid.shape == (4, 32, 1, 2) and set(grid.flat) == set(chips)
    for group in grid.reshape(-1, 2):  # devices that share a row are neighbours
        assert any(len({chip.coords[axis] for chip in group}) == 1 for axis in (0, 1))


def test_hosts_with_gpus_are_not_slices():
    """GPUs of several nodes call each node a slice; one mesh spans them all the same."""
    chips = [Chip(i, i // 8, i // 8, platform="gpu", device_kind="H200") for i in range(64)]
    assert sharding.slice_count(chips) == 1
    for name in ("h100", "h200"):
        for nodes in (1, 2, 4, 8):
            some = chips[: 8 * nodes]
            sizes = sharding.preset(name, len(some), sharding.slice_count(some))
            grid = sharding.device_grid(tuple(sizes[a] for a in sharding.AXES), 1, some)
            assert set(grid.flat) == set(some)


@pytest.mark.parametrize("name", ["v4", "v5e", "v5p", "v6e", "tpu7x"])
def test_a_part_of_the_width_is_whole_tiles(name):
    """Where it is not, XLA sums whole gradients instead of scattering them."""
    for chips in (16, 64, 256, 1024):
        sizes = sharding.preset(name, chips)
        assert variant("bagel_7b_mot").llm.width % (8 * sizes["fsdp"] * sizes["context"]) == 0


@pytest.mark.parametrize("slices", [1, 2, 4, 8])
@pytest.mark.parametrize("name", ["v4", "v5e", "v5p", "v6e", "tpu7x"])
def test_presets_keep_all_but_data_within_a_slice(name, slices):
    for chips in (4, 8, 16, 32, 64):
        sizes = sharding.preset(name, slices * chips, slices)
        assert np.prod(list(sizes.values())) == slices * chips
        assert sizes["data"] % slices == 0
        assert chips % (sizes["fsdp"] * sizes["tensor"] * sizes["context"]) == 0


def test_slices_are_found_by_the_devices():
    chips = [Chip(i, i // 4, i // 4, platform="tpu") for i in range(8)]
    assert sharding.slice_count(chips) == 2
    assert sharding.slice_count(chips[:4]) == 1
    with pytest.raises(ValueError, match="8 devices cannot form 3 equal slices"):
        sharding.preset("v5p", 8, 3)


def test_slices_must_divide_the_data_axis():
    chips = [Chip(i, i // 4, i // 4, platform="tpu") for i in range(8)]
    with pytest.raises(ValueError, match=r"form 2 slices; set --config\.mesh\.slices=0"):
        sharding.device_grid((2, 4, 1, 1), 1, chips)
    with pytest.raises(ValueError, match="only the data axis may cross"):
        sharding.make_mesh({"data": 2, "fsdp": 4}, slices=3)


def test_spec_and_its_fit():
    assert sharding.spec("batch", None, "mlp") == P(("data", "fsdp"), None, "tensor")
    with pytest.raises(KeyError, match="no rule for logical axis 'wings'"):
        sharding.spec("wings")
    # 3 key heads do not divide by tensor=2; 6 rows divide by data=2 but not by data x fsdp = 4.
    assert sharding.fitted_spec((4, 3), ("embed", "kv_heads"), SIZES) == P("fsdp", None)
    assert sharding.fitted_spec((6, 8), ("batch", None), SIZES) == P("data", None)
    # One mesh axis shards one dimension only.
    assert sharding.fitted_spec((8, 8), ("mlp", "vocab"), SIZES) == P("tensor", None)
    assert sharding.fitted_spec((0, 8), ("embed", None), SIZES) == P(None, None)
    with pytest.raises(ValueError, match="does not match logical axes"):
        sharding.fitted_spec((8,), ("mlp", "vocab"), SIZES)


def test_constrain_shards_inside_a_mesh_and_is_nothing_outside():
    x = jnp.arange(32.0).reshape(8, 4)
    pin = jax.jit(lambda x: sharding.constrain(x, "batch", "mlp"))
    np.testing.assert_array_equal(pin(x), x)
    with jax.set_mesh(sharding.make_mesh(SIZES)):
        y = jax.jit(lambda x: sharding.constrain(x, "batch", "mlp"))(x)
    assert y.sharding.spec == P(("data", "fsdp"), "tensor")
    np.testing.assert_array_equal(y, x)


def test_a_gathered_parameter_has_a_gradient_where_it_is_stored():
    table = jnp.arange(32.0).reshape(8, 4)
    stored, used = ("vocab", "embed"), ("vocab", None)

    def loss(table):
        return jnp.sum(sharding.gathered(table, stored, used) ** 2)

    with jax.set_mesh(sharding.make_mesh(SIZES)):
        grad = jax.jit(jax.grad(loss))(table)
    assert grad.sharding.spec == P("tensor", "fsdp")
    np.testing.assert_array_equal(grad, 2 * table)


def test_cluster_detection():
    assert sharding.initialize_distributed({}) == 1
    assert not sharding._cluster_found({"SLURM_JOB_ID": "7"})
    assert sharding._cluster_found({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4"})
    assert sharding._cluster_found({"TPU_WORKER_HOSTNAMES": "a,b"})
    assert not sharding._cluster_found({"TPU_WORKER_HOSTNAMES": "a"})
    assert sharding._cluster_found({"MEGASCALE_NUM_SLICES": "2"})
    with pytest.raises(ValueError, match="JAX_NUM_PROCESSES and JAX_PROCESS_ID is not"):
        sharding.initialize_distributed({"JAX_COORDINATOR_ADDRESS": "localhost:1"})


def test_a_cloud_tpu_vm_is_joined_although_its_environment_says_nothing(monkeypatch):
    joined = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *_, **__: joined.append(True))
    monkeypatch.setattr(sharding.GceTpuCluster, "is_env_present", lambda: True)
    sharding.initialize_distributed({"JAX_PLATFORMS": "cpu"})
    assert not joined
    sharding.initialize_distributed({})
    assert joined == [True]

    def nobody_answers():
        raise ConnectionError("metadata")

    monkeypatch.setattr(sharding.GceTpuCluster, "is_env_present", nobody_answers)
    sharding.initialize_distributed({})
    assert joined == [True]
