"""What a comparison found: one row a tensor, and the verdict."""

import dataclasses
import fnmatch
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from unireason_jax.models.archive import read_json
from unireason_jax.proof.golden import relative

FORWARD = 1e-5
GRADIENT = 1e-4
MARGIN = 10.0


@dataclasses.dataclass(frozen=True)
class Row:
    """One compared tensor.

    Attributes:
      file: name of the recording.
      name: name of the tensor in it.
      relative: L2 norm of the difference over that of the recording.
      maximum: largest absolute difference.
      own: the recording's own relative deviation, float32 against float64, if it is known.
      limit: what `relative` may be; 0 asks for equality.
      passed: the verdict.
    """

    file: str
    name: str
    relative: float
    maximum: float
    own: float | None
    limit: float
    passed: bool


class Report:
    """Rows, and what was left out and why."""

    def __init__(
        self,
        folder: Path,
        envelope: Mapping[str, float] | None = None,
        *,
        margin: float = MARGIN,
    ):
        """Nothing compared yet.

        Args:
          folder: where the recordings are.
          envelope: limits by "file.tensor"; when given, only these tensors are compared.
          margin: a limit is at least so many of the recording's own deviations; 0: as it is given.
        """
        self.margin = margin
        self.rows: list[Row] = []
        self.excluded: list[tuple[str, str, str]] = []
        self._compared: set[tuple[str, str]] = set()
        self.envelope = envelope
        path = Path(folder) / "tolerances.json"
        self._own = read_json(path).get("files", {}) if path.exists() else {}

    def wants(self, file: str, name: str) -> bool:
        """Whether a tensor is to be compared; checks skip work whose result nobody wants."""
        return self.envelope is None or f"{file}.{name}" in self.envelope

    def add(
        self,
        file: str,
        name: str,
        found: Any,
        wanted: Any,
        *,
        limit: float = FORWARD,
        level: int = 0,
        label: str | None = None,
    ) -> None:
        """Compares a tensor; the limit grows with the recording's own deviation (see `margin`).

        Args:
          file: name of the recording.
          name: name of the tensor in it.
          found: our value.
          wanted: the recorded value.
          limit: largest relative L2 difference; integers must be equal.
          level: instead, by how much each integer may differ.
          label: shown instead of the name, when something derived from the tensor is compared.
        """
        shown = label or name
        if not self.wants(file, name):
            return
        self._compared.add((file, name))
        own = self._own.get(file, {}).get(name, (None, None, None))[2]
        if self.envelope is not None:
            limit = self.envelope[f"{file}.{name}"]
        elif not np.issubdtype(np.asarray(wanted).dtype, np.floating):
            limit = 0.0
        else:
            limit = max(limit, self.margin * (own or 0.0))
        try:
            error = relative(found, wanted)
        except ValueError as mismatch:
            self.rows.append(Row(file, f"{shown}: {mismatch}", np.inf, np.inf, own, limit, False))
            return
        gap = np.abs(np.asarray(found, np.float64) - np.asarray(wanted, np.float64))
        largest = float(gap.max()) if gap.size else 0.0
        good = largest <= level if level else error <= limit
        self.rows.append(Row(file, shown, error, largest, own, limit, bool(good)))

    def check(self, file: str, name: str, holds: bool) -> None:
        """Notes whether something that is no tensor is equal; not with an envelope."""
        if self.envelope is None:
            error = 0.0 if holds else float("inf")
            self.rows.append(Row(file, name, error, error, None, 0.0, holds))

    def exclude(self, file: str, names: str, reason: str) -> None:
        """Notes tensors that are not compared, as file patterns separated by ", "."""
        if self.envelope is None:
            self.excluded.append((file, names, reason))

    def close(self, file: str, tensors: Iterable[str]) -> None:
        """Notes every tensor of a recording that was neither an input, nor compared, nor noted.

        With an envelope, what the official bfloat16 run recorded is what there is to compare: a
        part of it that no check has met fails.
        """
        if self.envelope is not None:
            wanted = {key for key in self.envelope if key.startswith(f"{file}.")}
            for key in sorted(wanted - {f"{f}.{name}" for f, name in self._compared}):
                name = f"{key.removeprefix(f'{file}.')}: not met"
                self.rows.append(Row(file, name, np.inf, np.inf, None, self.envelope[key], False))
            self.excluded.append((file, "all else", "no bfloat16 run of it is recorded"))
            return
        patterns = [p for f, names, _ in self.excluded if f == file for p in names.split(", ")]
        for name in sorted(tensors):
            known = name.startswith("in.") or (file, name) in self._compared
            if not known and not any(fnmatch.fnmatchcase(name, p) for p in patterns):
                self.exclude(file, name, "no check knows this tensor")

    @property
    def failures(self) -> list[Row]:
        """Rows that did not pass."""
        return [row for row in self.rows if not row.passed]

    def table(self) -> str:
        """All rows, what was left out, and a summary by recording."""
        width = max((len(f"{row.file} {row.name}") for row in self.rows), default=20)
        lines = [f"{'tensor':<{width}}  rel L2    max abs   own dev   limit"]
        for row in self.rows:
            own = "-" if row.own is None else f"{row.own:.1e}"
            lines.append(
                f"{row.file + ' ' + row.name:<{width}}  {row.relative:.2e}  {row.maximum:.2e}  "
                f"{own:<8}  {row.limit:.1e}  {'pass' if row.passed else 'FAIL'}"
            )
        lines += ["", "not compared:"]
        lines += [f"  {file} {names}: {reason}" for file, names, reason in self.excluded]
        lines += ["", "worst of each recording:"]
        for file in dict.fromkeys(row.file for row in self.rows):
            mine = [row for row in self.rows if row.file == file]
            worst = max(mine, key=lambda row: row.relative / max(row.limit, 1e-30))
            good = sum(row.passed for row in mine)
            lines.append(
                f"  {file}: {good} of {len(mine)} pass; {worst.name} at {worst.relative:.2e} "
                f"of {worst.limit:.1e}"
            )
        verdict = f"FAIL: {len(self.failures)}" if self.failures else "PASS: all"
        return "\n".join([*lines, f"{verdict} of {len(self.rows)} tensors"])

    def to_json(self) -> str:
        """The same as JSON."""
        value = {
            "passed": not self.failures,
            "rows": [dataclasses.asdict(row) for row in self.rows],
            "excluded": [dict(zip(("file", "tensors", "reason"), x)) for x in self.excluded],
        }
        return json.dumps(value, indent=1)
