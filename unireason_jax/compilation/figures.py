"""From an executable to the numbers people decide by: does it fit, what does it cost, what waits.

All numbers are of one device and one step.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from unireason_jax.compilation import traffic
from unireason_jax.compilation.hlo import Program
from unireason_jax.compilation.reference_row import tile_counts
from unireason_jax.compilation.topology import Chip
from unireason_jax.models.config import ModelConfig
from unireason_jax.training import metrics

GIB = 1 << 30
_MATMULS = {"output_kernel": 2, "query_kernel": 3, "key_kernel": 4}  # products over visible tiles
_MEMORY = ("argument", "output", "alias", "temp", "peak_memory")


@dataclasses.dataclass(frozen=True)
class Work:
    """What the step is for.

    Attributes:
      model: the model's shape.
      row: the reference row (see `reference_row`).
      rows: rows of the global batch.
      devices: devices that share it.
      context: devices that share the tokens of a row.
      und_trained: whether the understanding side is trained (else detached).
    """

    model: ModelConfig
    row: Mapping[str, np.ndarray]
    rows: int
    devices: int
    context: int
    und_trained: bool


def memory(analysis: Any, chip: Chip) -> dict[str, float]:
    """GiB by kind, from `Compiled.memory_analysis()`, and the part of the memory left free."""
    sizes = {
        kind.removesuffix("_memory"): getattr(analysis, f"{kind}_in_bytes", 0)
        if kind == "peak_memory"
        else getattr(analysis, f"{kind}_size_in_bytes")
        for kind in _MEMORY
    }
    live = sizes["argument"] + sizes["output"] - sizes["alias"] + sizes["temp"]
    sizes["peak"] = sizes["peak"] or live
    kinds = {f"{kind}_gib": size / GIB for kind, size in sizes.items()}
    return kinds | margin(sizes["peak"], chip)


def margin(peak: float, chip: Chip) -> dict[str, float]:
    """GiB of a peak in bytes, those there are, and the part of them that it leaves free."""
    found = {"peak_gib": peak / GIB}
    if chip.memory_gib:
        found |= {"capacity_gib": chip.memory_gib}
        found["margin"] = 1 - found["peak_gib"] / chip.memory_gib
    return found


def flops(program: Program, work: Work) -> dict[str, Any]:
    """Useful, chosen and compiled floating-point operations, and what the kernels walk.

    Kernels are counted by the tiles they walk in the reference row, matmuls exactly. Devices that
    share a row have unequal parts of it: the ratio is that of all of them, and the step waits for
    the busiest.
    """
    counts = {k: n * work.rows for k, n in metrics.batch_counts(work.row).items()}
    backward = 2.0 if work.und_trained else 0.0
    useful = metrics.train_flops(work.model, counts, und_backward=backward) / work.devices
    kernels, busiest, tiles = _kernel_flops(program, work)
    again = _recomputed(work, counts, flash=kernels > 0) / work.devices
    matmuls = program.matmul_flops()
    return {
        "model": useful,
        "recomputation": again,
        "compiled_matmuls": matmuls,
        "compiled_kernels": kernels,
        "busiest_kernels": busiest,
        "ratio": (matmuls + kernels) / (useful + again),
        "tiles": tiles,
    }


def _kernel_flops(program: Program, work: Work) -> tuple[float, float, list[dict[str, Any]]]:
    """Operations of the attention kernels on the mean and on the busiest device; their tiles."""
    called = program.kernels()
    if not called:
        return 0.0, 0.0, []
    known, mean, busiest = tile_counts(work.row, work.model, work.context), 0.0, 0.0
    groups = {1, work.model.llm.heads // work.model.llm.kv_heads}
    for name, line, inside, runs in called:
        arrays = [inside[o].arrays[0] for o in line.operands if o in inside]
        rows, heads, count, width, size = next(a.shape for a in arrays if len(a.shape) == 5)
        keys = next(a.shape for a in arrays if len(a.shape) == 4 and a.shape[3] == size)[2]
        call = next(
            tiles
            for (queries, length), tiles in known.items()
            if length == keys and count * width in {group * queries for group in groups}
        )
        every = 2.0 * _MATMULS[name] * rows * heads * count * width * keys * size
        mean += runs * every * call["walked"] / call["all"]
        busiest += runs * every * call["most"] / call["all"]
    return mean, busiest, [{"queries": q, "keys": s} | counts for (q, s), counts in known.items()]


def _recomputed(work: Work, counts: Mapping[str, int], *, flash: bool) -> float:
    """Operations that the model's remat policy and the flash backward pass choose to repeat.

    A recomputed layer does not repeat its last product, whose result no gradient needs. The flash
    backward pass computes scores twice, and the gradient of the weights once more than needed.
    """
    model, llm = work.model, work.model.llm
    pairs = 4.0 * counts["pairs"] * llm.heads * llm.head_dim * llm.layers
    again = 1.5 * pairs if flash else 0.0
    if model.remat == "full":
        again += pairs
    if model.remat in ("full", "save_attention"):
        attention = llm.width * llm.head_dim * (2 * llm.heads + 2 * llm.kv_heads)
        layer = attention + 2 * llm.width * llm.mlp
        tokens = counts["latent"]
        if work.und_trained:
            tokens += counts["text"] + counts["vit"]
        again += 2.0 * tokens * layer * llm.layers
    if model.vit and work.und_trained:
        vit, inside = model.vit, 4.0 * counts["vit_pairs"] * model.vit.width * model.vit.layers
        again += 1.5 * inside if flash else 0.0
        again += inside if model.remat == "full" else 0.0
        if model.remat in ("full", "save_attention"):
            weights = 4 * vit.width**2 + vit.width * vit.mlp
            again += 2.0 * counts["vit"] * weights * vit.layers
    return again


def collectives(program: Program) -> dict[str, Any]:
    """GiB on the wire by kind, how much of it nothing overlaps, and the largest ones."""
    every = program.collectives()
    kinds: dict[str, float] = {}
    for c in every:
        label = f"{c.kind} ({'overlapped' if c.overlapped else 'synchronous'})"
        kinds[label] = kinds.get(label, 0.0) + c.wire_bytes * c.runs / GIB
    waiting = sum(c.wire_bytes * c.runs for c in every if not c.overlapped) / GIB
    largest = [
        {
            "kind": c.kind,
            "mib": c.wire_bytes / (1 << 20),
            "runs": c.runs,
            "overlapped": c.overlapped,
        }
        for c in every[:6]
    ]
    return {
        "gib": sum(kinds.values()),
        "synchronous_gib": waiting,
        "by_kind_gib": kinds,
        "largest": largest,
    }


def speed(program: Program, chip: Chip, found: Mapping[str, Any]) -> dict[str, float]:
    """Seconds a program needs at the data sheet's rates; {} if unknown.

    Of a train step with its attention kernels, and the MFU that they allow. What the kernels of
    another program walk depends on data and is left out, as is what loops of unknown length repeat.

    Compute, memory and the collectives that work overlaps are each taken at their peak rate, and
    the longest of them counts. While a synchronous collective runs nothing else does, so these are
    added: `bound_s` is the sum. It is optimistic: no chip multiplies at its peak.
    """
    if not (chip.flops and chip.memory_rate and chip.link_rate):
        return {}
    work, wire = found.get("flops"), found["collectives"]
    kernels = work["busiest_kernels"] if work else 0.0
    waiting = wire["synchronous_gib"]
    parts = {
        "compute_s": (program.matmul_flops() + kernels) / chip.flops,
        "memory_s": traffic.memory_bytes(program) / chip.memory_rate,
        "overlapped_s": (wire["gib"] - waiting) * GIB / chip.link_rate,
    }
    synchronous = waiting * GIB / chip.link_rate
    bound = max(parts.values()) + synchronous
    told = parts | {"synchronous_s": synchronous, "bound_s": bound}
    return told | ({"mfu_bound": work["model"] / chip.flops / bound} if work else {})
