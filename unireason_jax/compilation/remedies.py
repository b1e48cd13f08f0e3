"""What makes a train step that does not fit smaller: the flags, and what it would then take.

Nothing is compiled again. Of the peak that the compiler told, what a run keeps (weights, moments,
average, gradients) is known exactly for every config; the rest is taken to grow with the tokens
that a device handles at once.
"""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from unireason_jax.pods import batches, sharding
from unireason_jax.run import memory_options
from unireason_jax.run.run import Run

Overrides = Mapping[str, Any]
_MOMENTS = (
    {},
    {"optim.mu_dtype": "bfloat16"},
    {"optim.mu_dtype": "int8", "optim.nu_dtype": "int8"},
)
_PARTS = (1, 2, 4, 8, 16)


def remedies(run: Run, peak: float, capacity: float) -> list[dict[str, Any]]:
    """The smallest changes by which a train step fits, the one that costs least first.

    Args:
      run: the run whose step does not fit.
      peak: bytes of a device that it needs.
      capacity: bytes of a device that there are.

    Returns:
      {"overrides": by key of the config, "gib": estimate of the new peak}: each of microbatches,
      rows, moments and context that is enough by itself; or what they do together, the fewest
      and smallest changes that are enough; or nothing.
    """
    activations = max(0.0, peak - kept(run)) / rows_at_once(run)

    def fitting(ways: Iterator[Overrides]) -> Iterator[dict[str, Any]]:
        for overrides in ways:
            try:
                changed = memory_options.changed(run, overrides)
                size = kept(changed) + activations * rows_at_once(changed)
            except ValueError:  # rows, devices or moments that cannot be divided or kept like that
                continue
            if size <= capacity:
                yield {"overrides": dict(overrides), "gib": size / (1 << 30)}

    alone = [next(fitting(ways), None) for ways in _alone(run)]
    found = [way for way in alone if way]
    return found or list(itertools.islice(fitting(_together(run)), 1))


def flags(overrides: Overrides) -> str:
    """Overrides as they are written on a command line."""
    return " ".join(f"--config.{key}={value}" for key, value in overrides.items())


def kept(run: Run) -> int:
    """Bytes of a device that the model and its optimizer take, with sums of gradients."""
    sizes = memory_options.sizes(run)
    return sum(sizes.values()) + (run.microbatches > 1) * sizes["gradients"]


def rows_at_once(run: Run) -> float:
    """Rows that a device handles at once; a part of one where devices share it."""
    parts = batches.row_parts(run.mesh) * run.microbatches
    return run.config.data.rows / parts / run.mesh.shape["context"]


def _alone(run: Run) -> list[Iterator[Overrides]]:
    """One way after another, by its kind."""
    parts, rows = batches.row_parts(run.mesh) * run.microbatches, run.config.data.rows
    fewer = sorted((n for n in range(parts, rows, parts) if rows % n == 0), reverse=True)
    return [
        (_microbatches(run, n) for n in _PARTS[1:]),
        ({"data.rows": n} for n in fewer),
        iter(_MOMENTS[1:]),
        (_context(run, n) | _microbatches(run, n) for n in _PARTS[1:]),
    ]


def _together(run: Run) -> Iterator[Overrides]:
    """All ways, those with few and small changes first."""
    places = itertools.product(range(len(_PARTS)), range(len(_MOMENTS)), range(len(_PARTS)))
    for context, moments, micro in sorted(places, key=sum):
        shared = _context(run, _PARTS[context]) if context else {}
        yield shared | _MOMENTS[moments] | (_microbatches(run, _PARTS[micro]) if micro else {})


def _microbatches(run: Run, times: int) -> Overrides:
    return {"train.microbatches": run.microbatches * times}


def _context(run: Run, times: int) -> Overrides:
    """So many times the devices share a row; the shards of the weights stay as small as they are.

    Where they cannot, sizes that do not fit the devices.
    """
    sizes = {axis: run.mesh.shape[axis] for axis in sharding.AXES}
    sizes |= {"context": sizes["context"] * times, "fsdp": sizes["fsdp"] // times}
    return {"mesh.preset": ""} | {f"mesh.{axis}": size for axis, size in sizes.items()}
