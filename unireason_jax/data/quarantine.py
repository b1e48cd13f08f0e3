"""The book of records that cannot be used: each with its reason, none dropped silently."""

import collections
import json
import re
from collections.abc import Iterable
from pathlib import Path

from unireason_jax.data.records import without_data
from unireason_jax.storage import lines, paths

Entry = tuple[str, str, str]
"""Source, record and reason."""

_LONGEST = 600  # characters of a reason
_DETAIL = re.compile(r"(?<!field )'[^']*'|\d+")
_KINDS = 3  # reasons that a summary names


def brief(reason: str) -> str:
    """A reason in one line that every terminal can show, cut, and without base64."""
    line = without_data(" ".join(reason.split()))
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}..."


class Reasons:
    """How often records were set aside for which kind of reason; each with its first example."""

    def __init__(self):
        self._counts: collections.Counter[str] = collections.Counter()
        self._first: dict[str, str] = {}

    def add(self, reason: str, records: int = 1) -> None:
        """Counts a reason of some records; names and numbers in it make no other kind."""
        kind = _DETAIL.sub("", reason)
        self._counts[kind] += records
        self._first.setdefault(kind, reason)

    def __str__(self) -> str:
        named = [f"{n:,} x {self._first[kind]}" for kind, n in self._counts.most_common(_KINDS)]
        more = len(self._counts) - len(named)
        return "; ".join(named + ([f"and {more} other reasons"] if more else []))


class Quarantine:
    """Records that failed, each once, kept in memory and as JSON lines.

    Each process of a job writes what it has found into a file of its own: `path`, or that of its
    number beside it (quarantine.1.jsonl). What the files hold is read first, so that a resumed run
    repeats nothing, whatever the number of its processes.

    Args:
      path: file of the first process; None only counts.
      process, processes: which of how many this is.
      fresh: nothing is resumed; what the files hold is of other runs, and goes.
    """

    def __init__(
        self,
        path: str | Path | None = None,
        *,
        process: int = 0,
        processes: int = 1,
        fresh: bool = False,
    ):
        self.path = paths.of(path) if path else None
        self.reasons: dict[tuple[str, str], str] = {}
        self._news: list[Entry] = []
        if self.path is None:
            return
        parts = {
            number: self.path.with_suffix(f".{number}{self.path.suffix}")
            for number in map(_number, self.path.parent.glob(f"{self.path.stem}.*"))
            if number is not None
        } | {0: self.path}
        if not fresh:
            for _, part in sorted(parts.items()):
                self.know(_read(part))
        for number, part in parts.items():
            if fresh and (number == process or (process == 0 and number >= processes)):
                lines.remove(part)
        if process:
            self.path = self.path.with_suffix(f".{process}{self.path.suffix}")

    def __len__(self) -> int:
        return len(self.reasons)

    def add(self, source: str, record: str, reason: str) -> None:
        """Notes record `record` of `source` with the reason; a second time changes nothing."""
        reason = brief(reason)
        if (source, record) in self.reasons:
            return
        self.reasons[source, record] = reason
        self._news.append((source, record, reason))
        if self.path:
            row = {"source": source, "record": record, "reason": reason}
            lines.append(self.path, json.dumps(row) + "\n")

    def know(self, entries: Iterable[Entry]) -> None:
        """Counts what others have found and written."""
        for source, record, reason in entries:
            self.reasons.setdefault((source, record), reason)

    def news(self) -> list[Entry]:
        """What was added since the last call, for the other processes to know."""
        news, self._news = self._news, []
        return news

    def entries(self) -> list[Entry]:
        """All of it."""
        return [(*key, reason) for key, reason in self.reasons.items()]

    def summary(self) -> str:
        """One line: how many records of which sources, and where to read why."""
        if not self.reasons:
            return "no record quarantined"
        counts = collections.Counter(source for source, _ in self.reasons)
        shares = ", ".join(f"{count} of {source}" for source, count in sorted(counts.items()))
        where = f"; reasons in {self.path}" if self.path else ""
        return f"{len(self.reasons)} records quarantined ({shares}){where}"


def _number(path: Path) -> int | None:
    """Whose part a file is: quarantine.3.jsonl is that of process 3."""
    words = path.name.split(".")
    return int(words[-2]) if len(words) == 3 and words[-2].isdigit() else None


def _read(path: Path) -> list[Entry]:
    """The entries of a file; lines that a process was writing when it ended are left out."""
    found = []
    for line in lines.read(path):
        try:
            row = json.loads(line)
            found.append((row["source"], row["record"], row["reason"]))
        except (ValueError, KeyError, TypeError):
            continue
    return found
