"""`unireason_jax.train` that also writes down every row of data it trains on.

    python launch/member.py LEDGER <flags of unireason_jax.train>

Process p appends {"position": rows consumed before, "rows": [CRC-32 of each row]} to
LEDGER/<p>.jsonl whenever it draws a batch, so that a drill or a test can tell which data a run has
really seen, over all its restarts. PACE in the environment is a number of seconds that every batch
takes, so that a signal finds the run in its midst.
"""

import json
import os
import sys
import time
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
from absl import app
from jax._src import compiler, distributed

from unireason_jax import train
from unireason_jax.data.pipeline import Pipeline
from unireason_jax.run import overrides
from unireason_jax.run.run import Run


class Recorder:
    """A pipeline whose batches leave their checksums in a file."""

    def __init__(self, pipeline: Pipeline, path: Path):
        self._pipeline, self._path = pipeline, path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._pace = float(os.environ.get("PACE", "0"))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pipeline, name)

    def __next__(self) -> dict[str, np.ndarray]:
        position = self._pipeline.get_state()["next_row"]
        time.sleep(self._pace)
        batch = next(self._pipeline)
        sums = [0] * len(next(iter(batch.values())))
        for name in sorted(batch):
            for row, array in enumerate(batch[name]):
                sums[row] = zlib.crc32(np.ascontiguousarray(array).tobytes(), sums[row])
        with self._path.open("a") as file:  # the newline first: a torn line spoils no other
            file.write("\n" + json.dumps({"position": position, "rows": sums}))
        return batch


def read(ledger: Path) -> list[list[dict[str, Any]]]:
    """The complete lines of every process's file, by process."""
    found = []
    for path in sorted(ledger.glob("*.jsonl"), key=lambda path: int(path.stem)):
        lines = []
        for line in path.read_text().splitlines():
            try:
                lines.append(json.loads(line))
            except json.JSONDecodeError:
                continue  # what a killed process was writing
        found.append(lines)
    return found


def history(ledger: Path) -> dict[int, list[int]]:
    """Checksums of the global batch at every position, as last drawn, in ascending order."""
    batches: dict[int, list[int]] = {}
    for lines in read(ledger):
        for position, rows in {line["position"]: line["rows"] for line in lines}.items():
            batches[position] = sorted(batches.get(position, []) + rows)
    return batches


def cache_in_every_process() -> None:
    """Lets all processes write compiled programs, not only process 0.

    On CPUs every process has a key of its own in the cache, so that the others would compile at
    every restart.
    """
    client = distributed.global_state.client
    compiler.distributed = SimpleNamespace(
        global_state=SimpleNamespace(process_id=0, client=client)
    )


def main() -> None:
    """Trains with a recorded pipeline."""
    ledger = Path(sys.argv.pop(1))

    class RecordedRun(Run):
        """A run whose training batches are written down."""

        def pipeline(self, *, held_out: bool = False, **options: Any) -> Any:
            cache_in_every_process()
            made = super().pipeline(held_out=held_out, **options)
            return made if held_out else Recorder(made, ledger / f"{jax.process_index()}.jsonl")

    train.Run = RecordedRun
    app.run(train.main, flags_parser=overrides.parse_flags)


if __name__ == "__main__":
    main()
