"""What a comparison of data found: exact checks counted by kind, and deviations with reasons."""

import dataclasses
from typing import Any

import numpy as np


@dataclasses.dataclass
class Check:
    """One kind of check.

    Attributes:
      compared: how often it was made.
      failed: how often it did not hold.
      first: where it failed first.
    """

    compared: int = 0
    failed: int = 0
    first: str = ""


class Tally:
    """Checks by kind, deliberate deviations by reason, and what was left out."""

    def __init__(self):
        self.checks: dict[str, Check] = {}
        self.deviations: dict[str, int] = {}
        self.excluded: dict[str, int] = {}

    def equal(self, kind: str, where: str, found: Any, wanted: Any, *, level: float = 0) -> bool:
        """Compares two arrays; they may differ by `level` at most.

        Args:
          kind: the row of the table it is counted in.
          where: record, pack or file, for the message.
          found: our value.
          wanted: the recorded one.
          level: largest absolute difference.
        """
        found, wanted = np.asarray(found), np.asarray(wanted)
        if found.shape != wanted.shape:
            problem = f"{where}: shape {list(found.shape)} instead of {list(wanted.shape)}"
        elif level and found.size:
            gap = np.abs(found.astype(np.float64) - wanted).max()
            problem = f"{where}: differs by {gap:g}" if gap > level else ""
        else:
            wrong = int(np.sum(found != wanted))
            problem = f"{where}: {wrong} of {found.size} values differ" if wrong else ""
        self.hold(kind, problem)
        return not problem

    def hold(self, kind: str, problem: str = "") -> None:
        """Counts a check, failed where it has a problem."""
        check = self.checks.setdefault(kind, Check())
        check.compared += 1
        if problem:
            check.failed += 1
            check.first = check.first or problem

    def deviation(self, reason: str, count: int = 1) -> None:
        """Counts something that is different on purpose."""
        if count:
            self.deviations[reason] = self.deviations.get(reason, 0) + count

    def exclude(self, reason: str, count: int = 1) -> None:
        """Counts something recorded that is not compared."""
        if count:
            self.excluded[reason] = self.excluded.get(reason, 0) + count

    @property
    def compared(self) -> int:
        """Number of checks made."""
        return sum(check.compared for check in self.checks.values())

    @property
    def failures(self) -> list[str]:
        """Kinds of checks that failed somewhere."""
        return [kind for kind, check in self.checks.items() if check.failed]

    def table(self) -> str:
        """One row a kind of check, then deviations, what was left out, and the verdict."""
        width = max((len(kind) for kind in self.checks), default=20)
        lines = [f"{'check':<{width}}  compared  failed"]
        for kind, check in self.checks.items():
            verdict = f"FAIL  {check.first}" if check.failed else "pass"
            lines.append(f"{kind:<{width}}  {check.compared:>8}  {check.failed:>6}  {verdict}")
        for title, found in (
            ("different on purpose", self.deviations),
            ("not compared", self.excluded),
        ):
            lines += ["", f"{title}:", *(f"  {count:>5}  {text}" for text, count in found.items())]
        bad = len(self.failures)
        verdict = f"FAIL: {bad} of {len(self.checks)} kinds" if bad else "PASS: all"
        return "\n".join([*lines, "", f"{verdict} of {self.compared} exact checks of data"])

    def to_json(self) -> dict[str, Any]:
        """The same as plain values."""
        return {
            "passed": not self.failures,
            "checks": {kind: dataclasses.asdict(check) for kind, check in self.checks.items()},
            "deviations": self.deviations,
            "excluded": self.excluded,
        }
