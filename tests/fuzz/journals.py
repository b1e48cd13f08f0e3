"""Journals of paid work, spoilt: what is whole is kept, what is not is made again."""

import contextlib
import io
from pathlib import Path

from tests.fuzz.tally import Tally, corrupted, generator
from unireason_jax.storage.journal import Journal

FULL, SMALL = 2000, 100
SETTINGS = {"model": "judge", "seed": 3}


def fuzz(seed: int, size: int, folder: Path, tally: Tally) -> None:
    """`size` corruptions of a journal of eight rows, which is then finished."""
    path = folder / "journal.jsonl"
    rows = {f"k{i}": {"key": f"k{i}", "answer": f"yes {i}", "cost": i / 8} for i in range(8)}
    Journal(path, SETTINGS).add(rows.values())
    data = path.read_bytes()
    for trial in range(size):
        path.write_bytes(corrupted(data, generator(seed, "journals", trial)))
        name = f"trial {trial}"
        with tally.trial(name), contextlib.redirect_stdout(io.StringIO()):
            try:
                journal = Journal(path, SETTINGS)
            except ValueError as error:
                told = str(error)
                tally.expect(str(path) in told and "\n" not in told, name, f"told {told!r}")
                tally.count("refused")
                continue
            wrong = {key: row for key, row in journal.rows.items() if rows.get(key) != row}
            tally.expect(not wrong, name, f"rows that nobody wrote: {wrong}")
            journal.add(row for key, row in rows.items() if key not in journal)
            tally.expect(Journal(path, SETTINGS).rows == rows, name, "it cannot be finished")
            tally.count("finished")
