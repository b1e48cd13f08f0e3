"""From scored images to a report: the formulas' numbers, intervals, and what is missing."""

import collections
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unireason_jax.evals.published.base import Scored, Scores, Suite, by_group
from unireason_jax.evals.world.report import Section
from unireason_jax.storage import atomic

RESAMPLES = 500


def intervals(suite: Suite, scored: Sequence[Scored], *, seed: int = 0) -> dict[str, list[float]]:
    """95 % intervals of all numbers: items are drawn anew within their groups."""
    rng = np.random.default_rng(seed)
    groups = [
        list(by_group(images, lambda item: item.id).values())
        for images in by_group(scored, suite.group).values()
    ]
    found: dict[str, list[float]] = collections.defaultdict(list)
    for _ in range(RESAMPLES):
        drawn = [
            image
            for items in groups
            for pick in rng.integers(0, len(items), len(items))
            for image in items[pick]
        ]
        for name, value in suite.aggregate(drawn).items():
            found[name].append(value)
    return {n: [float(x) for x in np.nanpercentile(v, [2.5, 97.5])] for n, v in found.items()}


def report(
    suite: Suite,
    scored: Sequence[Scored],
    missing: Mapping[str, str],
    facts: Mapping[str, Any],
    folder: Path,
    sections: Sequence[Section] = (),
) -> Scores:
    """Writes report.md and report.json; returns the numbers, empty where nothing was scored.

    `sections` are further tables that come after the scores.
    """
    numbers = suite.aggregate(scored) if scored else {}
    spread = intervals(suite, scored) if scored else {}
    total = len(scored) + len(missing)
    reasons = collections.Counter(reason.split(":")[0] for reason in missing.values())
    protocol = facts.get("protocol", "")
    coverage = {"images": total, "scored": len(scored), "missing": dict(reasons.most_common())}
    values = {
        "suite": suite.name,
        "facts": dict(facts),
        "coverage": coverage,
        "scores": {
            n: {"value": v, "interval": spread[n], "protocol": protocol} for n, v in numbers.items()
        },
        "protocol": protocol,
        "missing": dict(missing),
    }
    if sections:
        values["sections"] = {section.name: section.to_dict() for section in sections}
    text = json.dumps(values, indent=1, ensure_ascii=False)
    atomic.write_text(folder / "report.json", text + "\n")
    lines = [f"# {suite.name}", ""]
    lines += [f"- {name}: {value}" for name, value in facts.items()]
    lines.append(f"- official judge: {suite.official_judge}")
    lines += [f"- note: {suite.about}"] if suite.about else []
    lines.append(f"- coverage: {len(scored)} of {total} images have all their scores")
    for reason, count in reasons.most_common():
        place, said = next(x for x in missing.items() if x[1].split(":")[0] == reason)
        lines.append(f"- missing, {reason}: {count}, the first {place}{said.removeprefix(reason)}")
    if missing:
        lines.append("- missing images are left out of every mean; they count as nothing, not 0")
    if numbers:
        lines += ["", "| | score | 95 % interval | protocol |", "| --- | --- | --- | --- |"]
    for name, value in numbers.items():
        low, high = spread[name]
        lines.append(f"| {name} | {value:.3f} | {low:.3f} to {high:.3f} | {protocol} |")
    lines += ["", *(section.markdown() for section in sections)]
    atomic.write_text(folder / "report.md", "\n".join(lines))
    return numbers
