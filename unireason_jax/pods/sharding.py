"""Where every array lives: mesh axes, the table of logical names, and the start of a pod.

The mesh has four axes, outermost first: `data` (replicas; the one axis that may cross slices),
`fsdp` (rows of the batch and shards of the weights), `tensor` (heads, mlp, vocabulary) and
`context` (tokens of one row). Weights and activations carry *logical* names; only this file knows
which mesh axis a name means. Axes are `AxisType.Auto`: the compiler inserts the collectives, and
`constrain` pins the few activations where its choice matters. (What other codes call `pjit` is
`jax.jit` with these shardings.)
"""

import difflib
import functools
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax._src.clusters.cloud_tpu_cluster import GceTpuCluster  # the detection has no public name
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXES = ("data", "fsdp", "tensor", "context")

RULES: dict[str, str | tuple[str, ...] | None] = {
    "batch": ("data", "fsdp"),
    "length": "context",
    "layers": None,
    "embed": ("fsdp", "context"),
    "vocab": "tensor",
    "heads": "tensor",
    "kv_heads": "tensor",
    "head_dim": None,
    "mlp": "tensor",
    "channels": None,
    "patch": None,
}

# Per accelerator: (fsdp at most, tensor, context). Weights, moments and average are spread over
# fsdp x tensor x context devices, and `data` takes the rest of the pod. FSDP over more devices than
# the state needs only makes every gather cross more links, so the group is no larger than a 7B
# model with AdamW and a moving average needs, and its part of a width of 3,584 is whole tiles of 8
# rows: of 28 rows, on 128 devices, XLA makes no reduce-scatter, but sums whole gradients, which
# sends twice as much. Chips too small for a row of 50,000 tokens share one:
# `context` gathers the keys of four heads where `tensor` would sum whole activations (launch/
# README.md, "Rows that do not fit a chip").
ACCELERATORS: dict[str, tuple[int, int, int]] = {
    "cpu": (8, 1, 1),
    "v4": (32, 1, 1),
    "v5e": (16, 1, 4),
    "v5p": (16, 1, 1),
    "v6e": (32, 1, 2),
    "tpu7x": (16, 1, 1),
    "h100": (32, 1, 1),
    "h200": (16, 1, 1),
}


def mesh_sizes(sizes: Mapping[str, int], devices: int) -> tuple[int, ...]:
    """Axis sizes in the order of `AXES`; one axis may be -1 and takes what is left.

    Args:
      sizes: size by axis name; a missing axis is 1.
      devices: number of devices to lay out.

    Raises:
      ValueError: unknown axis, more than one -1, or a product that is not `devices`.
    """
    unknown = sorted(set(sizes) - set(AXES))
    if unknown:
        raise ValueError(f"mesh: unknown axis {unknown[0]!r}; the axes are {', '.join(AXES)}.")
    shape = [int(sizes.get(axis, 1)) for axis in AXES]
    if any(size < 1 and size != -1 for size in shape) or shape.count(-1) > 1:
        raise ValueError(f"mesh: sizes must be >= 1, and at most one may be -1 (got {shape}).")
    known = math.prod(size for size in shape if size != -1)
    if -1 in shape and devices % known:
        raise ValueError(
            f"mesh: the axes that are set need a multiple of {known} devices but there are "
            f"{devices}; change --config.mesh.* (sampling: --mesh)."
        )
    if -1 in shape:
        shape[shape.index(-1)] = devices // known
    if math.prod(shape) != devices:
        wanted = " x ".join(f"{axis}={size}" for axis, size in zip(AXES, shape))
        raise ValueError(
            f"mesh: {wanted} needs {math.prod(shape)} devices but there are {devices}; "
            "change --config.mesh.* (sampling: --mesh), or set one axis to -1 to take what is left."
        )
    return tuple(shape)


def preset(accelerator: str, devices: int, slices: int = 1) -> dict[str, int]:
    """Axis sizes that suit a 7B model on so many devices of an accelerator.

    Args:
      accelerator: a key of `ACCELERATORS`.
      devices: all of them.
      slices: TPU slices that they form; `data` alone crosses slices.

    Raises:
      ValueError: naming the nearest accelerator; or the slices do not divide the devices.
    """
    if accelerator not in ACCELERATORS:
        near = difflib.get_close_matches(accelerator, ACCELERATORS, n=1) or sorted(ACCELERATORS)
        raise ValueError(f"mesh.preset: unknown {accelerator!r}; did you mean {near[0]!r}?")
    if devices % slices:
        raise ValueError(f"mesh: {devices} devices cannot form {slices} equal slices.")
    fsdp, tensor, context = ACCELERATORS[accelerator]
    left = devices // slices
    tensor = math.gcd(tensor, left)
    context = math.gcd(context, left // tensor)
    fsdp = math.gcd(fsdp, left // (tensor * context))
    data = devices // (fsdp * tensor * context)
    return {"data": data, "fsdp": fsdp, "tensor": tensor, "context": context}


def slice_count(devices: Sequence[Any]) -> int:
    """TPU slices that devices form. Hosts with GPUs are not slices, whatever their devices say."""
    tpus = [device for device in devices if device.platform == "tpu"]
    return len({getattr(device, "slice_index", 0) for device in tpus}) or 1


def configured_mesh(config: Mapping[str, Any], devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh of `config.mesh`: the sizes of a preset if it names one, else its own.

    Args:
      config: "preset", the axes' sizes, and "slices" (0: as many as the devices form).
      devices: the devices to use; all of them by default.
    """
    devices = jax.devices() if devices is None else devices
    slices = config["slices"] or slice_count(devices)
    sizes = {axis: config[axis] for axis in AXES}
    if config["preset"]:
        sizes = preset(config["preset"], len(devices), slices)
    return make_mesh(sizes, slices=slices, devices=devices)


def make_mesh(
    sizes: Mapping[str, int] | None = None,
    *,
    slices: int = 0,
    devices: Iterable[jax.Device] | None = None,
) -> Mesh:
    """A four-axis mesh over all devices.

    Args:
      sizes: size by axis name, one may be -1; None puts every device on `fsdp`.
      slices: number of TPU slices that the `data` axis spans; it must divide `data`. 0: as many as
        the devices form.
      devices: the devices to use; all of them by default.
    """
    devices = list(jax.devices() if devices is None else devices)
    shape = mesh_sizes({"fsdp": -1} if sizes is None else sizes, len(devices))
    types = (AxisType.Auto,) * len(AXES)
    grid = device_grid(shape, slices or slice_count(devices), devices)
    return Mesh(grid, AXES, axis_types=types)


def device_grid(shape: tuple[int, ...], slices: int, devices: Sequence[Any]) -> np.ndarray:
    """Devices by mesh position, slices along `data` and nothing else.

    A dimension of the chips' torus may be shared by two axes: context 2 x fsdp 32 on 16 x 16 chips.

    Args:
      shape: sizes in the order of `AXES`.
      slices: number of slices.
      devices: devices that know their `slice_index` if there is more than one slice.

    Raises:
      ValueError: the slices do not divide the data axis, or one was expected and there are more.
    """
    if slices == 1:
        if (found := slice_count(devices)) > 1:
            raise ValueError(
                f"mesh: the devices form {found} slices; set --config.mesh.slices=0 (or {found})."
            )
        return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    if shape[0] % slices:
        raise ValueError(
            f"mesh: data={shape[0]} must be a multiple of slices={slices}: "
            "only the data axis may cross the slow network."
        )
    inner = (shape[0] // slices, *shape[1:])
    outer = (slices, *(1,) * (len(AXES) - 1))
    return mesh_utils.create_hybrid_device_mesh(
        inner, outer, devices=devices, allow_split_physical_axes=True
    )


def spec(*logical: str | None) -> PartitionSpec:
    """PartitionSpec of a tuple of logical names (None: not sharded). KeyError on a new name."""
    return PartitionSpec(*(None if name is None else _rule(name) for name in logical))


def fitted_spec(
    shape: tuple[int, ...], logical: tuple[str | None, ...], sizes: Mapping[str, int]
) -> PartitionSpec:
    """Like `spec`, without the mesh axes that do not divide the dimension they would shard.

    A mesh axis is used once: the first dimension that asks for it gets it. So a table always
    yields a legal sharding (4 key heads on tensor=8 are replicated, not an error).

    Args:
      shape: the array's shape; same length as `logical`.
      logical: one logical name or None per dimension.
      sizes: mesh axis sizes by name.
    """
    if len(shape) != len(logical):
        raise ValueError(f"sharding: shape {shape} does not match logical axes {logical}.")
    used: set[str] = set()
    parts = []
    for size, name in zip(shape, logical):
        rule = _rule(name) if name else None
        axes, kept, product = (rule,) if isinstance(rule, str) else rule or (), [], 1
        for axis in axes:
            width = sizes.get(axis, 1)
            if axis not in used and width > 1 and size and size % (product * width) == 0:
                kept.append(axis)
                product *= width
        used.update(kept)
        parts.append(tuple(kept) if len(kept) > 1 else kept[0] if kept else None)
    return PartitionSpec(*parts)


def shardings(mesh: Mesh, shapes: Any, logical: Any) -> Any:
    """NamedSharding of every leaf of a tree.

    Args:
      mesh: the mesh.
      shapes: a nested dict of arrays or ShapeDtypeStruct.
      logical: the same nested dict with a tuple of logical names (or None) per leaf.
    """
    return jax.tree.map(
        lambda leaf, names: NamedSharding(mesh, fitted_spec(leaf.shape, names, mesh.shape)),
        shapes,
        logical,
    )


def constrain(x: jax.Array, *logical: str | None) -> jax.Array:
    """Pins the sharding of an activation by logical names; does nothing outside a mesh.

    The mesh is the one of `jax.set_mesh`. On a mesh of one device, and where an axis does not
    divide its dimension, nothing is constrained.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return x
    wanted = fitted_spec(x.shape, logical, mesh.shape)
    return jax.lax.with_sharding_constraint(x, wanted)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def gathered(
    x: jax.Array, stored: tuple[str | None, ...], used: tuple[str | None, ...]
) -> jax.Array:
    """A parameter laid out for its use; its gradient is reduced straight to where it is stored.

    `constrain` alone would lay the gradient out like the use, so every device would get all of it.

    Args:
      x: a parameter.
      stored: logical names of its dimensions.
      used: logical names while it is used.
    """
    return constrain(x, *used)


gathered.defvjp(
    lambda x, stored, used: (constrain(x, *used), None),
    lambda stored, used, _, ct: (constrain(ct, *stored),),
)


def platform() -> str:
    """What the program that is being traced will run on: that of the mesh, if one is set."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return device.platform if device else jax.default_backend()


def divides() -> bool:
    """Whether `per_device` reaches every device: a mesh is set, or there is one device only."""
    return not jax.sharding.get_abstract_mesh().empty or jax.device_count() == 1


def per_device(
    function: Callable[..., jax.Array],
    arrays: Sequence[jax.Array],
    logical: Sequence[tuple[str | None, ...]],
) -> jax.Array:
    """Calls a function on every device with its own part of the arrays.

    For what the compiler cannot divide by itself: kernels, and loops whose length depends on the
    data. Outside a mesh, and on a mesh of one device, the function gets the whole arrays.

    Args:
      function: of as many arrays; its result is divided like the first one.
      arrays: the arguments.
      logical: logical names of each argument; a dimension without one is gathered whole.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return function(*arrays)
    specs = tuple(fitted_spec(x.shape, names, mesh.shape) for x, names in zip(arrays, logical))
    return jax.shard_map(function, in_specs=specs, out_specs=specs[0], check_vma=False)(*arrays)


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of an array that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def initialize_distributed(environment: Mapping[str, str] | None = None) -> int:
    """Joins the processes of a pod; call it before anything touches a device.

    Recognised, in this order:
      * `JAX_COORDINATOR_ADDRESS` with `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID` (any cluster, or
        several processes on one machine);
      * SLURM with more than one task, GKE with more than one TPU worker or slice, and any Cloud TPU
        VM, whose metadata name the other workers (all found by JAX itself);
      * otherwise a single process.
    `UNIREASON_JOIN_SECONDS` is how long a process waits for the others to join (JAX's 300 without).

    Args:
      environment: environment variables; the process's own by default.

    Returns:
      The number of processes.

    Raises:
      ValueError: a coordinator address without the two other variables.
    """
    env = os.environ if environment is None else environment
    address = env.get("JAX_COORDINATOR_ADDRESS")
    patience = {"initialization_timeout": int(env.get("UNIREASON_JOIN_SECONDS", "300"))}
    if address:
        missing = [n for n in ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID") if not env.get(n)]
        if missing:
            raise ValueError(
                f"JAX_COORDINATOR_ADDRESS is set but {' and '.join(missing)} is not; set all "
                "three, or none to run as one process."
            )
        jax.distributed.initialize(
            address, int(env["JAX_NUM_PROCESSES"]), int(env["JAX_PROCESS_ID"]), **patience
        )
    elif _cluster_found(env) or _on_cloud_tpu_vm(env):
        jax.distributed.initialize(**patience)
    return jax.process_count()


def _cluster_found(env: Mapping[str, str]) -> bool:
    """Whether the environment says SLURM or Cloud TPU with more than one process."""
    slurm = "SLURM_JOB_ID" in env and int(env.get("SLURM_NTASKS", "1")) > 1
    workers = "," in env.get("TPU_WORKER_HOSTNAMES", "")
    slices = int(env.get("MEGASCALE_NUM_SLICES", "1")) > 1
    return slurm or workers or slices


def _on_cloud_tpu_vm(env: Mapping[str, str]) -> bool:
    """Whether this is a Cloud TPU VM; its environment alone does not say that it is part of a pod.

    Other machines with a TPU (notebooks) have no such metadata and run as one process.
    """
    if env.get("JAX_PLATFORMS", "tpu").startswith("cpu"):
        return False
    try:
        return GceTpuCluster.is_env_present()
    except OSError:  # nobody answers for metadata
        return False


def _rule(name: str) -> str | tuple[str, ...] | None:
    """The mesh axes of one logical name."""
    if name not in RULES:
        raise KeyError(f"sharding: no rule for logical axis {name!r}; add it to sharding.RULES.")
    return RULES[name]
