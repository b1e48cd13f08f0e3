"""`unireason bench packing`: fill by stream and speed of the planner on known mixtures."""

import os
import resource
import time

import numpy as np

from unireason_jax.data import worker_processes
from unireason_jax.data.packing.budget_advice import advise_budgets
from unireason_jax.data.packing.packs import plan_packs
from unireason_jax.speed import mixtures


def run(
    name: str, *, records: int, row: int | None = None, window: int = 512, seed: int = 0
) -> dict:
    """Advises budgets for a mixture, plans all its records, and reports both.

    Args:
      name: "quickstart", "world" or "stage2" (see `mixtures`).
      records: number of records.
      row: wished tokens of a row; by default the mixture's own.
      window: open records of the planner.
      seed: of lengths and plan.

    Returns:
      Plain numbers: the plan's report, the advice, seconds of CPU time (of planning with all its
      processes), packs and records a second of it, seconds on the clock, and the peak of memory in
      MiB: of this process before and after planning, and of the largest one that packs blocks.

    Raises:
      ValueError: unknown mixture.
    """
    lengths, default = mixtures.mixture(name, records, seed)
    lengths = lengths.astype(np.int32)  # as `data.packing.lengths.measure` gives them
    start = time.process_time()
    advice = advise_budgets(lengths, row or default, seed=seed)
    advised, before, began = time.process_time(), _peak(resource.RUSAGE_SELF), time.monotonic()
    processes, used = worker_processes.processors(), sum(os.times()[:4])
    how = {"window": window, "seed": seed, "processes": processes, "quiet": False}
    plan = plan_packs(lengths, advice.budgets, **how)
    seconds, wall = sum(os.times()[:4]) - used, time.monotonic() - began
    return {
        "bench": "packing",
        "mixture": name,
        "wished_tokens": row or default,
        "row_tokens": advice.budgets.total,
        "advice": str(advice),
        **plan.report(),
        "advise_cpu_s": advised - start,
        "plan_cpu_s": seconds,
        "packs_per_s": len(plan) / seconds,
        "records_per_s": records / seconds,
        "processes": processes,
        "plan_wall_s": wall,
        "peak_mib_before": before,
        "peak_mib": _peak(resource.RUSAGE_SELF),
        "peak_mib_of_a_block": _peak(resource.RUSAGE_CHILDREN),
    }


def _peak(who: int) -> float:
    """MiB that this process, or the largest of its ended ones, has had resident at most."""
    return resource.getrusage(who).ru_maxrss / 1024
