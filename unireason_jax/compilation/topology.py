"""Devices by name: a TPU topology without the TPU, or CPU devices.

v5p:2x2x4      one slice of 2 x 2 x 4 chips (a v5p-32: pods are named by TensorCores there)
v5e:8x16*2     two such slices
cpu:8          eight CPU devices
"""

import contextlib
import dataclasses
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
}
_NAME = re.compile(r"(?P<accelerator>[a-z0-9]+):(?P<shape>\d+(x\d+)*)(\*(?P<slices>\d+))?")


class TopologyError(ValueError):
    """A topology that cannot be had, with the remedy."""


def chip(device: jax.Device) -> Chip:
    """The data sheet of a device; unknown fields are None."""
    if device.platform == "cpu":
        return Chip(None)
    kind = next((k for k in sorted(_CHIPS, key=len)[::-1] if device.device_kind.startswith(k)), "")
    return Chip(metrics.peak_flops(device), *_CHIPS.get(kind, ()))


def devices(name: str) -> tuple[Sequence[jax.Device], int]:
    """The devices of a topology, and the number of slices they form.

    Raises:
      TopologyError: the name has the wrong form, the topology does not exist, libtpu is not
        installed, or there are fewer CPU devices.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise TopologyError(
            f"--topology={name}: write accelerator:chips, such as v5p:2x2x4, v5e:8x16*2 or cpu:8."
        )
    slices = int(match["slices"] or 1)
    if match["accelerator"] == "cpu":
        count = int(match["shape"])
        if len(jax.devices("cpu")) < count:
            raise TopologyError(
                f"--topology={name}: there are {len(jax.devices('cpu'))} CPU devices; set "
                f"XLA_FLAGS=--xla_force_host_platform_device_count={count}."
            )
        return jax.devices("cpu")[:count], slices
    return _tpu_devices(f"{match['accelerator']}:{match['shape']}", slices), slices


def _tpu_devices(shape: str, slices: int) -> Sequence[jax.Device]:
    """Devices of a TPU topology, from libtpu."""
    from jax.experimental import topologies

    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # do not look for a cloud machine's metadata
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # nothing is run, so nothing is locked
    more = {"num_slices": slices} if slices > 1 else {}
    try:
        with contextlib.redirect_stderr(None):
            found = topologies.get_topology_desc(platform="tpu", topology_name=shape, **more)
    except RuntimeError as error:
        if "not installed" in str(error) or "libtpu" in str(error):
            raise TopologyError(
                f"--topology={shape}: compiling for TPU needs libtpu; pip install "
                "'unireason-jax[tpu]' (it works on machines without a TPU)."
            ) from None
        raise TopologyError(f"--topology={shape}: {error}") from None
    return found.devices
