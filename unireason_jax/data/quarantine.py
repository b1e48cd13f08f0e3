"""The book of records that cannot be used: each with its reason, none dropped silently."""

import collections
import json
import os
from pathlib import Path


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
