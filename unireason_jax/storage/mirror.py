"""Folders that libraries fill which know no buckets: written here, and copied there."""

import tempfile
import time
from pathlib import Path

from unireason_jax.storage import paths

EVERY = 60.0  # seconds between two copies, at least


class Mirror:
    """A local folder to write into, whose files appear in the place that was meant.

    Where that is on a file system, the folder is that very place, and nothing is copied.

    Attributes:
      local: the folder to write into; of a bucket's a temporary one.
      place: the folder that is meant.

    Args:
      place: the folder that is meant.
    """

    def __init__(self, place: Path | paths.Bucket):
        self.place, self._copied, self._last = place, {}, time.monotonic()
        self._kept = None if isinstance(place, Path) else tempfile.TemporaryDirectory()
        self.local = place if self._kept is None else Path(self._kept.name)

    def update(self, every: float = EVERY) -> None:
        """Copies what has changed, unless it was done less than `every` seconds ago."""
        if self._kept is None or time.monotonic() - self._last < every:
            return
        for path in (path for path in self.local.rglob("*") if path.is_file()):
            stamp = (path.stat().st_size, path.stat().st_mtime_ns)
            if self._copied.get(path) != stamp:
                target = self.place / path.relative_to(self.local)
                paths.files(target).put_file(str(path), str(target))
                self._copied[path] = stamp
        self._last = time.monotonic()

    def close(self) -> None:
        """Copies what is left."""
        self.update(every=0.0)
