"""Where a run's wall time went, over all its restarts: goodput is the productive part.

    <workdir>/goodput.jsonl     one row at every start, and one at every log line

Kept apart from metrics.jsonl because rows of lost work stay here: steps that a killed process had
done behind the checkpoint that the next one started from are `redone`, not productive.
"""

import json
import time
from collections.abc import Mapping
from typing import Any

import jax
from etils import epath

from unireason_jax.storage import lines

KINDS = ("productive", "redone", "compile", "checkpoint", "eval", "data", "restart")
_LAUNCHED = time.time()  # about when this process began


class Account:
    """Seconds by kind, over all attempts of a run.

    Attributes:
      seconds: by kind: `productive` steps that the run kept, `redone` steps that were lost,
        `compile`, `checkpoint` (what the loop waited for), `eval`, `data` (wait for a batch), and
        `restart`, from the last sign of life of one attempt to the loop of the next.
    """

    def __init__(self):
        self.seconds = dict.fromkeys(KINDS, 0.0)
        self._kept: list[tuple[int, int, float]] = []  # (from step, to step, seconds)
        self._step, self._last = 0, None

    def take(self, row: Mapping[str, Any]) -> None:
        """Books one row; rows come in order of time.

        Args:
          row: a start, {"time": unix seconds, "start": step, "setup": seconds since the process
            began}; or {"time", "step", "phases": seconds by phase since the row before}.
        """
        if "start" in row:
            gap = row["setup"] if self._last is None else max(0.0, row["time"] - self._last)
            self.seconds["restart"] += gap
            self._lose_after(row["start"])
            self._step = row["start"]
        else:
            for phase, spent in row["phases"].items():
                self.seconds["productive" if phase == "step" else phase] += spent
            self._kept.append((self._step, row["step"], row["phases"].get("step", 0.0)))
            self._step = row["step"]
        self._last = row["time"]

    def _lose_after(self, step: int) -> None:
        """Books the steps behind a step as redone; an interval across it in proportion."""
        while self._kept and self._kept[-1][1] > step:
            first, end, spent = self._kept.pop()
            share = max(step - first, 0) / max(end - first, 1)
            if share:
                self._kept.append((first, step, spent * share))
            self.seconds["productive"] -= spent * (1 - share)
            self.seconds["redone"] += spent * (1 - share)


class Ledger:
    """The account of a run, kept by process 0 in <workdir>/goodput.jsonl.

    Args:
      workdir: the run's directory.
      start: the step this attempt goes on from.
    """

    def __init__(self, workdir: epath.PathLike, start: int):
        self._path = epath.Path(workdir) / "goodput.jsonl"
        self._active = jax.process_index() == 0
        self._account = Account()
        if self._active:
            for row in _read(self._path):
                self._account.take(row)
            now = time.time()
            self._add({"time": now, "start": start, "setup": now - _LAUNCHED})

    def _add(self, row: dict[str, Any]) -> None:
        """Appends a row to the file and to the account."""
        self._account.take(row)
        lines.append(self._path, json.dumps(row) + "\n")

    def add(self, step: int, phases: Mapping[str, float]) -> dict[str, float]:
        """Books the seconds by phase since the last call.

        Returns:
          {"goodput/productive": fraction of the run's whole wall time so far, ...}, one of every
          kind that took time; {} on other processes than the first.
        """
        if not self._active:
            return {}
        self._add({"time": time.time(), "step": step, "phases": dict(phases)})
        seconds = self._account.seconds
        total = max(sum(seconds.values()), 1e-9)
        return {f"goodput/{kind}": spent / total for kind, spent in seconds.items() if spent}


def _read(path: epath.Path) -> list[dict[str, Any]]:
    """The rows of an account; lines that a killed process was writing are left out."""
    rows = []
    for line in lines.read(path):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows
