"""What an evaluation says: tables of rates, as Markdown, JSON, a chart, and strips of pictures."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unireason_jax.evals.rates import Rate
from unireason_jax.inference.trace import Trace
from unireason_jax.pictures.chart import Bar, Bars, bar_chart
from unireason_jax.pictures.strips import contact_sheet
from unireason_jax.storage import atomic, paths

Row = tuple[str, tuple[Rate | None, ...]]
NOTE = (
    "Intervals are 95 %: Wilson's score interval for a single rate, a bootstrap of 2000 resamples "
    "within tags for a mean of tags."
)


@dataclasses.dataclass(frozen=True)
class Section:
    """One table.

    Attributes:
      name: key in report.json.
      title: headline.
      columns: names of the rates of a row.
      rows: a name and its rates; None where a rate does not exist.
      note: what is counted, in a sentence or two.
      chart: also drawn as bars.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    note: str = ""
    chart: bool = False

    def markdown(self) -> str:
        """The table with its headline and note."""
        header = ["", *self.columns, "n"]
        lines = [f"## {self.title}", "", self.note, ""] if self.note else [f"## {self.title}", ""]
        lines += [_line(header), _line(["---"] * len(header))]
        for name, rates in self.rows:
            counts = sorted({rate.count for rate in rates if rate is not None})
            cells = ["-" if rate is None else str(rate) for rate in rates]
            lines.append(_line([name, *cells, " / ".join(map(str, counts))]))
        return "\n".join(lines) + "\n"

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        rows = {
            name: {c: r and r.to_dict() for c, r in zip(self.columns, rates)}
            for name, rates in self.rows
        }
        return {"title": self.title, "note": self.note, "rows": rows}


@dataclasses.dataclass(frozen=True)
class Report:
    """All tables of one evaluation and the traces to show.

    Attributes:
      title: headline of the report.
      facts: what was evaluated and how, in order.
      sections: tables.
      traces: conversations to draw, judged.
      failures: conversations to draw that ended wrong.
      headline: the few numbers that a reader wants first.
      outcomes: verdicts by name and group, in the order of the requests.
    """

    title: str
    facts: Mapping[str, Any]
    sections: tuple[Section, ...]
    traces: tuple[Trace, ...] = ()
    failures: tuple[Trace, ...] = ()
    headline: Mapping[str, Rate] = dataclasses.field(default_factory=dict)
    outcomes: Mapping[str, Mapping[str, Sequence[bool]]] = dataclasses.field(default_factory=dict)

    def markdown(self) -> str:
        """The whole report; it names the pictures that `write` puts beside it."""
        parts = [f"# {self.title}\n"]
        parts.append("\n".join(f"- {name}: {value}" for name, value in self.facts.items()) + "\n")
        if self.headline:
            rows = [_line(["", "rate [95 % interval]", "n"]), _line(["---"] * 3)]
            rows += [_line([k, str(r), str(r.count)]) for k, r in self.headline.items()]
            parts.append("\n".join(rows) + "\n")
        if any(section.chart for section in self.sections):
            parts.append("![rates](chart.png)\n")
        for name in self._strips():
            parts.append(f"![{name}]({name}.png)\n")
        parts += [section.markdown() for section in self.sections]
        return "\n".join([*parts, NOTE, ""])

    def write(self, folder: str | Path) -> Path:
        """Writes report.md, report.json, outcomes.json and the pictures, and one folder per trace.

        Pictures: chart.png, strips.png, failures.png; each only where there is something to draw.
        """
        folder = paths.of(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name, traces in self._strips().items():
            for number, trace in enumerate(traces):
                trace.save(folder / "traces" / f"{name}_{number:02d}_{_file_name(trace.id)}")
            strips = [trace.strip() for trace in traces]
            title = f"{self.title}: {'wrong in the end' if name == 'failures' else 'examples'}"
            with atomic.replacing(folder / f"{name}.png") as part:
                contact_sheet(strips, title=title, columns=3).save(part)
        charts = [_chart(section) for section in self.sections if section.chart]
        if charts:
            with atomic.replacing(folder / "chart.png") as part:
                contact_sheet(charts).save(part)
        values = {
            "title": self.title,
            "facts": dict(self.facts),
            "headline": {name: rate.to_dict() for name, rate in self.headline.items()},
            "sections": {section.name: section.to_dict() for section in self.sections},
        }
        text = json.dumps(values, indent=1, ensure_ascii=False, default=str)
        outcomes = {
            name: {group: [int(x) for x in values] for group, values in groups.items()}
            for name, groups in self.outcomes.items()
        }
        atomic.write_text(folder / "outcomes.json", json.dumps(outcomes) + "\n")
        atomic.write_text(folder / "report.json", text + "\n")
        atomic.write_text(folder / "report.md", self.markdown())
        return folder

    def _strips(self) -> dict[str, tuple[Trace, ...]]:
        """Traces to draw by the name of their picture."""
        named = {"strips": self.traces, "failures": self.failures}
        return {name: traces for name, traces in named.items() if traces}


def _chart(section: Section) -> Any:
    """A section as bars."""
    groups = [Bars(name, tuple(map(_bar, rates))) for name, rates in section.rows]
    return bar_chart(section.title, groups, section.columns)


def _bar(rate: Rate | None) -> Bar | None:
    """A rate as a bar, None where nothing was counted."""
    return Bar(rate.value, rate.low, rate.high) if rate and rate.count else None


def _line(cells: Sequence[str]) -> str:
    """One row of a Markdown table."""
    return "| " + " | ".join(cells) + " |"


def _file_name(name: str) -> str:
    """A name that is safe as a folder."""
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in name)[:60] or "trace"
