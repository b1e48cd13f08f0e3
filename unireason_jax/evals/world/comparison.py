"""What an ablation says: rows with intervals, the order that is expected, and the controls.

Rows were asked the same prompts, so they are compared prompt by prompt. Nothing is hidden: an
order that does not come out is written down as such.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unireason_jax.evals.rates import Rate, mean_difference, mean_over_runs
from unireason_jax.evals.world.exam import Groups
from unireason_jax.evals.world.report import Report, Section
from unireason_jax.pictures.chart import curves
from unireason_jax.pictures.strips import contact_sheet
from unireason_jax.storage import atomic, lines, paths

WAYS = (
    "single draft",
    "refined",
    "best of k, no judge",
    "best of k, exact judge",
    "refined, exact judge takes the best",
    "oracle reflections",
)
Outcomes = Mapping[str, Groups]


@dataclasses.dataclass(frozen=True)
class Claim:
    """One step of the expected order, tested.

    Attributes:
      measure: of a row, e.g. "held-out prompts".
      smaller, larger: names of the rows.
      difference: larger minus smaller, with a paired 95 % interval.
    """

    measure: str
    smaller: str
    larger: str
    difference: Rate

    @property
    def verdict(self) -> str:
        """In words, what the difference shows."""
        if not self.difference.count:
            return "not measured"
        if self.difference.low > 0:
            return "comes out"
        if self.difference.high < 0:
            return "REVERSED"
        if self.difference.value > 0:
            return "right direction, but the interval includes 0"
        return "does NOT come out"

    def __str__(self) -> str:
        return f"{self.measure}: {self.smaller} < {self.larger}"


def read_outcomes(folder: Path) -> Outcomes:
    """The verdicts that `evaluate` wrote into a report's folder.

    Raises:
      FileNotFoundError: there is no report.
    """
    path = paths.of(folder) / "outcomes.json"
    if not path.exists():
        raise FileNotFoundError(f"{path}: no evaluation there; run `unireason evaluate` first.")
    return json.loads(path.read_text("utf-8"))


def answers(runs: Sequence[Outcomes], measure: str, mode: str) -> list[Groups]:
    """Verdicts of every seed for a measure, asked in a mode; empty where it was not evaluated.

    Measures of one mode only, as "edits", are those of the mode "".
    """
    name = f"{measure}, {mode}" if mode else measure
    return [run[name] for run in runs if name in run]


def compare_rows(
    claims: Sequence[tuple[str, str, str]],
    rows: Mapping[str, tuple[Sequence[Outcomes], str]],
) -> list[Claim]:
    """Compares rows prompt by prompt.

    Args:
      claims: (measure, smaller row, larger row).
      rows: by name, the outcomes of every seed and the mode.
    """
    found = []
    for measure, smaller, larger in claims:
        difference = Rate(float("nan"), float("nan"), float("nan"), 0)
        if smaller in rows and larger in rows:
            one, two = (answers(*_at(rows[name], measure)) for name in (larger, smaller))
            if one and two:
                difference = mean_difference(one, two)
        found.append(Claim(measure, smaller, larger, difference))
    return found


def report(
    rows: Mapping[str, tuple[Sequence[Outcomes], str]],
    claims: Sequence[tuple[str, str, str]],
    controls: Sequence[Outcomes],
    facts: Mapping[str, Any],
    *,
    measures: Sequence[str],
    title: str,
    note: str,
) -> Report:
    """Tables of a study.

    Args:
      rows: by name, in the paper's order: outcomes of every seed, and the mode.
      claims: see `compare_rows`.
      controls: outcomes of every seed of the run whose controls are shown.
      facts: how it was run.
      measures: columns of the table; the last one is the headline.
      title: headline of the report.
      note: what holds for all rows.
    """
    tested = compare_rows(claims, rows)
    table = tuple((name, tuple(_rate(row, m) for m in measures)) for name, row in rows.items())
    seeds = max((len(outcomes) for outcomes, _ in rows.values()), default=0)
    note = (
        f"Means of groups (tags, domains) over {seeds} training seed(s); intervals are a bootstrap "
        f"over prompts. {note}"
    )
    sections = [
        Section("rows", "Rows", tuple(measures), table, note, chart=True),
        _order(tested),
        *_seeds(rows, measures[-1]),
        *_controls(controls),
    ]
    held = sum(claim.verdict == "comes out" for claim in tested)
    facts = dict(facts) | {
        "order": f"{held} of {len(tested)} steps come out with an interval above 0: "
        + "; ".join(f"{claim} {claim.verdict}" for claim in tested)
    }
    headline = {name: _rate(row, measures[-1]) for name, row in rows.items()}
    headline = {f"{measures[-1]}, {name}": rate for name, rate in headline.items() if rate}
    return Report(title, facts, tuple(sections), headline=headline)


def draw_curves(metrics: Mapping[str, Path], picture: Path) -> None:
    """Draws the training losses of runs from their metrics.jsonl files."""
    losses = {"loss/flow": "Flow loss", "loss/code": "Cross entropy of codes"}
    losses["loss/ce"] = "Cross entropy"
    rows = {name: [json.loads(line) for line in lines.read(path)] for name, path in metrics.items()}
    charts = []
    for key, title in losses.items():
        drawn = {n: [(x["step"], x[key]) for x in found if key in x] for n, found in rows.items()}
        drawn = {name: line for name, line in drawn.items() if line}
        if drawn or key == "loss/ce":  # which all have, before their first line as well
            charts.append(curves(title, drawn))
    with atomic.replacing(picture) as part:
        contact_sheet(charts, columns=2).save(part)


def _at(row: tuple[Sequence[Outcomes], str], measure: str) -> tuple[Sequence[Outcomes], str, str]:
    outcomes, mode = row
    return outcomes, measure, mode


def _rate(row: tuple[Sequence[Outcomes], str], measure: str) -> Rate | None:
    """The rate of a row, None where it was not evaluated."""
    found = answers(*_at(row, measure))
    return mean_over_runs(found) if found else None


def _order(tested: Sequence[Claim]) -> Section:
    """The order test as a table of differences."""
    table = tuple((f"{claim}: {claim.verdict}", (claim.difference,)) for claim in tested)
    note = "Larger minus smaller row, paired by prompt."
    return Section("order", "Does the order come out?", ("difference",), table, note)


def _seeds(rows: Mapping[str, tuple[Sequence[Outcomes], str]], measure: str) -> list[Section]:
    """Rates of a measure by training seed, where there are several."""
    most = max((len(outcomes) for outcomes, _ in rows.values()), default=0)
    if most < 2:
        return []
    table = []
    for name, (outcomes, mode) in rows.items():
        rates = [_rate(([one], mode), measure) for one in outcomes]
        table.append((name, (*rates, *[None] * (most - len(rates)))))
    columns = tuple(f"seed {number}" for number in range(most))
    title = f"{measure.capitalize()} by training seed"
    return [Section("seeds", title, columns, tuple(table))]


def _controls(runs: Sequence[Outcomes]) -> list[Section]:
    """Equal compute, knowledge controls, and the gain of every round."""
    rounds = sorted({int(n.rsplit(" ", 1)[1]) for run in runs for n in run if ", round " in n})
    tables = {
        "Refinement against resampling at equal compute": {
            way: answers(runs, "equal compute", way) for way in WAYS
        },
        "Gain by round": {
            f"after round {n}": answers(runs, "held-out prompts", f"round {n}") for n in rounds
        },
        "Hints and wrong plans": {
            way: answers(runs, "knowledge", way)
            for way in (
                "prompt only",
                "hint instead of prompt",
                "wrong plan given: right",
                "wrong plan given: follows it",
            )
        },
    }
    sections = []
    for title, ways in tables.items():
        table = tuple((way, (mean_over_runs(found),)) for way, found in ways.items() if found)
        if table:
            name = title.lower().replace(" ", "_")
            sections.append(Section(name, title, ("rate",), table, chart=True))
    return sections
