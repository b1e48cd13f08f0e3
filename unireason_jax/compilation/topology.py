"""Devices by name: a TPU topology without the TPU, GPUs without one, or CPU devices.

v5p:2x2x4      one slice of 2 x 2 x 4 chips (a v5p-32: pods are named by TensorCores there)
v5e:8x16*2     two such slices
h100:8         eight GPUs of a machine; a100, h200 and l40s (48 GB) as well
h100:16        two such machines
cpu:8          eight CPU devices

A chip is one device (of a v4 too, whose two cores work as one), of a tpu7x two.
"""

import contextlib
import dataclasses
import importlib.metadata
import math
import os
import re
from collections.abc import Sequence

import jax

from unireason_jax.training import metrics


@dataclasses.dataclass(frozen=True)
class Chip:
    """What one JAX device can do, from the vendors' data sheets; decimal units.

    Attributes:
      flops: dense bf16 FLOP/s, None when not known.
      memory_gib: high-bandwidth memory, GiB.
      memory_rate: bytes/s of that memory.
      link_rate: bytes/s that leave the device over the fast network, all links together.
    """

    flops: float | None
    memory_gib: float | None = None
    memory_rate: float | None = None
    link_rate: float | None = None


# By JAX's device kind: memory that programs may use (GiB), memory bytes/s, network bytes/s one way.
_CHIPS = {
    "TPU v4": (30.75, 1.228e12, 3.0e11),
    "TPU v5 lite": (15.75, 8.19e11, 2.0e11),
    "TPU v5": (95.74, 2.765e12, 6.0e11),
    "TPU v6 lite": (31.25, 1.64e12, 4.0e11),
    "TPU7x": (94.75, 3.69e12, 3.0e11),
    "NVIDIA A100-SXM4-80GB": (79.2, 2.039e12, 3.0e11),
    "NVIDIA H100 80GB HBM3": (79.2, 3.35e12, 4.5e11),
    "NVIDIA H200": (139.8, 4.8e12, 4.5e11),
    "NVIDIA L40S": (44.4, 8.64e11, 3.2e10),
}
# What the compiler is told of a GPU: device kind; compute capability, cores, shared memory of a
# core and of a program, level-two cache (bytes), clock (GHz); from the vendor's tables.
_GPUS = {
    "a100": ("NVIDIA A100-SXM4-80GB", "8.0", 108, 167_936, 166_912, 41_943_040, 1.41),
    "h100": ("NVIDIA H100 80GB HBM3", "9.0", 132, 233_472, 232_448, 52_428_800, 1.98),
    "h200": ("NVIDIA H200", "9.0", 132, 233_472, 232_448, 62_914_560, 1.98),
    "l40s": ("NVIDIA L40S", "8.9", 142, 102_400, 101_376, 100_663_296, 2.52),
}
_TARGET = """
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: {threads}
  shared_memory_per_block: 49152 shared_memory_per_core: {core_memory}
  shared_memory_per_block_optin: {program_memory} core_count: {cores} fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  memory_bandwidth: {rate} device_memory_size: {size} l2_cache_size: {cache}
  clock_rate_ghz: {clock} cuda_compute_capability {{ major: {major} minor: {minor} }}
}}
platform_name: "CUDA" device_description_str: "{kind}"
dnn_version_info {{ major: 9 minor: 10 }} runtime_version {{ major: 13 }}
"""
_COUNT = r"[1-9]\d*"
_NAME = re.compile(
    rf"(?P<accelerator>\w+):(?P<shape>{_COUNT}(x{_COUNT})*)(\*(?P<slices>{_COUNT}))?"
)
# Chips of the slices of flat and of deep tori; deep ones have all multiples of 4 x 4 x 4, too.
_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_DEEP = ("2x2x1", "2x2x2", "2x2x4", "2x4x4")
_TPUS = {"v4": _DEEP, "v5e": _FLAT, "v5p": _DEEP, "v6e": _FLAT, "tpu7x": _DEEP}
_MACHINE = 8  # GPUs of one


class TopologyError(ValueError):
    """A topology that cannot be had, with the remedy."""


def chip(device: jax.Device) -> Chip:
    """The data sheet of a device; unknown fields are None."""
    if device.platform == "cpu":
        return Chip(None)
    kind = next((k for k in sorted(_CHIPS, key=len)[::-1] if device.device_kind.startswith(k)), "")
    return Chip(metrics.peak_flops(device), *_CHIPS.get(kind, ()))


def is_gpu(device: jax.Device) -> bool:
    """Whether a device is a GPU; their programs call libraries whose work cannot be counted."""
    return device.platform in ("cuda", "gpu")


def devices(name: str) -> tuple[Sequence[jax.Device], int]:
    """The devices of a topology, and the number of slices they form.

    Raises:
      TopologyError: the name has the wrong form, the topology does not exist, libtpu is not
        installed, or there are fewer CPU devices.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise TopologyError(f"--topology={name}: write accelerator:chips. {_known()}")
    accelerator, shape, slices = match["accelerator"], match["shape"], int(match["slices"] or 1)
    if accelerator in _TPUS:
        return _tpu_devices(accelerator, shape, slices), slices
    if accelerator != "cpu" and accelerator not in _GPUS:
        raise TopologyError(f"--topology={name}: there is no {accelerator}. {_known()}")
    if slices > 1 or not shape.isdigit():
        of = "CPU devices" if accelerator == "cpu" else "GPUs"
        raise TopologyError(
            f"--topology={name}: of {of} write their number, such as {accelerator}:8."
        )
    count = int(shape)
    if accelerator in _GPUS:
        return _gpu_devices(accelerator, count), 1
    if len(jax.devices("cpu")) < count:
        raise TopologyError(
            f"--topology={name}: there are {len(jax.devices('cpu'))} CPU devices; set "
            f"XLA_FLAGS=--xla_force_host_platform_device_count={count}."
        )
    return jax.devices("cpu")[:count], 1


def be_a_host(where: str) -> None:
    """Before JAX starts: only the CPU is used here, with enough devices for a cpu topology."""
    jax.config.update("jax_platforms", "cpu")
    if match := re.fullmatch(r"cpu:(\d+)", where):
        with contextlib.suppress(RuntimeError):  # JAX has started already
            jax.config.update("jax_num_cpu_devices", int(match[1]))


def compiler(device: jax.Device) -> dict[str, str]:
    """What has compiled for a device: versions of jax and of its compiler, and what it was told."""
    found = {"jax": jax.__version__}
    if device.platform == "tpu":
        return found | {
            "libtpu": _version("libtpu"),
            "flags": os.environ.get("LIBTPU_INIT_ARGS", ""),
        }
    if is_gpu(device):
        found["cuda plugin"] = _version("jax-cuda13-plugin")
    return found | {"flags": os.environ.get("XLA_FLAGS", "")}


def _version(package: str) -> str:
    """The version of an installed package."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not of a package"


def _known() -> str:
    """The topologies that there are."""
    kinds = [
        f"{', '.join(name for name in _TPUS if _TPUS[name] is shapes)} with {_listed(shapes)}"
        for shapes in (_FLAT, _DEEP)
    ]
    return (
        f"TPU slices: {'; '.join(kinds)} chips, such as v5p:2x2x4 (v5p:2x2x4*2: two such slices). "
        f"GPUs: {', '.join(_GPUS)} with their number, such as h100:8. CPU devices: cpu:8."
    )


def _listed(shapes: Sequence[str]) -> str:
    """Shapes of slices, in words."""
    return ", ".join(shapes) + (" and multiples of 4x4x4" if shapes is _DEEP else "")


def _is_slice(accelerator: str, chips: Sequence[int]) -> bool:
    """Whether so many chips by dimension, in any order, are a slice of an accelerator."""
    listed = [sorted(map(int, shape.split("x"))) for shape in _TPUS[accelerator]]
    cubes = len(chips) == 3 and len(listed[0]) == 3 and not any(size % 4 for size in chips)
    return sorted(chips) in listed or cubes


def _tpu_devices(accelerator: str, shape: str, slices: int) -> Sequence[jax.Device]:
    """Devices of a TPU topology, from libtpu."""
    from jax.experimental import topologies

    chips = [int(size) for size in shape.split("x")]
    if not _is_slice(accelerator, chips):
        raise TopologyError(
            f"--topology={accelerator}:{shape}: there is no such slice; those of {accelerator} "
            f"have {_listed(_TPUS[accelerator])} chips."
        )
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # do not look for a cloud machine's metadata
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # nothing is run, so nothing is locked
    more = {"num_slices": slices} if slices > 1 else {}
    if accelerator == "v4":
        more["chip_config_name"] = "megacore"
    if math.prod(chips) in (1, 8) and len(chips) == 2:  # all of them at one host
        more["chips_per_host_bounds"] = (*chips, 1)
    try:
        with contextlib.redirect_stderr(None):
            found = topologies.get_topology_desc(
                platform="tpu", topology_name=f"{accelerator}:{shape}", **more
            )
    except RuntimeError as error:
        if "not installed" in str(error) or "libtpu" in str(error):
            raise TopologyError(
                f"--topology={accelerator}:{shape}: compiling for TPU needs libtpu; pip install "
                "'unireason-jax[tpu]' (it works on machines without a TPU)."
            ) from None
        raise TopologyError(f"--topology={accelerator}:{shape}: {error}") from None
    return found.devices


def _gpu_devices(name: str, count: int) -> Sequence[jax.Device]:
    """GPUs of machines of eight, or some of one, as JAX's CUDA plugin compiles for them without."""
    from jax.experimental import topologies

    kind, capability, cores, core_memory, program_memory, cache, clock = _GPUS[name]
    major, minor = capability.split(".")
    memory, rate = _CHIPS[kind][:2]
    target = _TARGET.format(
        kind=kind,
        major=major,
        minor=minor,
        threads=1536 if capability == "8.9" else 2048,
        cores=cores,
        core_memory=core_memory,
        program_memory=program_memory,
        cache=cache,
        clock=clock,
        rate=int(rate),
        size=int(memory * (1 << 30)),
    )
    machines = max(1, count // _MACHINE)
    if count % machines or count // machines > _MACHINE:
        raise TopologyError(
            f"--topology={name}:{count}: more than {_MACHINE} are whole machines of {_MACHINE}, "
            f"such as {name}:{2 * _MACHINE}."
        )
    shape = {"topology": f"1x{machines}x{count // machines}", "target_config": target}
    try:
        return topologies.get_topology_desc(platform="cuda", topology_name="", **shape).devices
    except NotImplementedError:
        raise TopologyError(
            f"--topology={name}:{count}: compiling for GPUs needs JAX's CUDA plugin; pip install "
            "'unireason-jax[cuda]' (it works on machines without a GPU)."
        ) from None
