"""`unireason bench packing`: fill by stream and speed of the planner on known mixtures."""

import time

from unireason_jax.data.budget_advice import advise_budgets
from unireason_jax.data.packs import plan_packs
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
      Plain numbers: the plan's report, the advice, seconds of CPU time, packs and records a second.

    Raises:
      ValueError: unknown mixture.
    """
    lengths, default = mixtures.mixture(name, records, seed)
    start = time.process_time()
    advice = advise_budgets(lengths, row or default, seed=seed)
    advised = time.process_time()
    plan = plan_packs(lengths, advice.budgets, window=window, seed=seed)
    seconds = time.process_time() - advised
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
    }
