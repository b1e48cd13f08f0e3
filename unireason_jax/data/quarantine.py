"""The book of records that cannot be used: each with its reason, none dropped silently."""

import collections
import json
import os
import re
from pathlib import Path

_LONGEST = 600  # characters of a reason
_DATA = re.compile(r"[A-Za-z0-9+/=]{200,}")
_DETAIL = re.compile(r"(?<!field )'[^']*'|\d+")
_KINDS = 3  # reasons that a summary names


def brief(reason: str) -> str:
    """A reason in one line, cut, and without base64."""
    line = _DATA.sub(lambda data: f"<{len(data[0]):,} characters>", " ".join(reason.split()))
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
    """Records that failed, each once, kept in memory and as JSON lines in `path`.

    Several processes may share the file: every entry is one appended write. What the file already
    holds is read first, so that a resumed run does not repeat it.

    Args:
      path: file to append to; None only counts.
    """

    def __init__(self, path: str | Path | None = None):
        self.path = Path(path) if path else None
        self.reasons: dict[tuple[str, str], str] = {}
        if self.path and self.path.exists():
            for line in self.path.read_text("utf-8").splitlines():
                try:
                    entry = json.loads(line)
                except ValueError:
                    continue  # the last write of a machine that went down
                self.reasons[entry["source"], entry["record"]] = entry["reason"]

    def __len__(self) -> int:
        return len(self.reasons)

    def add(self, source: str, record: str, reason: str) -> None:
        """Notes record `record` of `source` with the reason; a second time changes nothing."""
        reason = brief(reason)
        if (source, record) in self.reasons:
            return
        self.reasons[source, record] = reason
        if self.path:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            line = json.dumps({"source": source, "record": record, "reason": reason})
            file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                os.write(file, f"{line}\n".encode())
            finally:
                os.close(file)

    def summary(self) -> str:
        """One line: how many records of which sources, and where to read why."""
        if not self.reasons:
            return "no record quarantined"
        counts = collections.Counter(source for source, _ in self.reasons)
        shares = ", ".join(f"{count} of {source}" for source, count in sorted(counts.items()))
        where = f"; reasons in {self.path}" if self.path else ""
        return f"{len(self.reasons)} records quarantined ({shares}){where}"
