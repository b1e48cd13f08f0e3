"""Where text and picture part: is the plan right, and does the draft show what it says?"""

from collections.abc import Sequence

from unireason_jax.evals.rates import wilson
from unireason_jax.evals.world.report import Section
from unireason_jax.inference.trace import Trace
from unireason_jax.world.language import Plan, parse_plan
from unireason_jax.world.parser import parse, to_objects
from unireason_jax.world.requirements import Requirement
from unireason_jax.world.scenes import CELL
from unireason_jax.world.verifier import check


def section(traces: Sequence[Trace], requirements: Sequence[Requirement]) -> Section:
    """The table of how plans fare, from traces with a plan and a first image."""
    readable, right, looks, cells = [], [], [], []
    for trace, requirement in zip(traces, requirements):
        image = next(step.image for step in trace.steps if step.kind == "image")
        side = image.shape[0] // CELL
        plan = _plan(trace.text_of("plan") or "", side)
        readable.append(plan is not None)
        if plan is None:
            continue
        right.append(check(requirement, plan.objects, side=side).passed)
        seen = to_objects(parse(image).objects, side)
        looks.append(sorted(o.look for o in seen) == sorted(o.look for o in plan.objects))
        cells.append(seen == plan.objects)
    rows = {
        "plan can be read": readable,
        "readable plan gives what the prompt asks for": right,
        "draft shows the planned objects": looks,
        "draft shows them in the planned cells": cells,
    }
    table = tuple((name, (wilson(outcomes),)) for name, outcomes in rows.items())
    note = "The last two say how well the image follows the plan, right or wrong."
    return Section("plans", "Plans and what is drawn from them", ("rate",), table, note)


def _plan(text: str, side: int) -> Plan | None:
    """The plan, or None where it does not follow the grammar."""
    try:
        return parse_plan(text, side)
    except ValueError:
        return None
