"""Files of every kind, spoilt byte by byte: the rows that are read make up those that were counted.

Rows are read twice, whole and in two parts, and must be the same: so shards and an interrupted run
see what was counted.
"""

from pathlib import Path

from tests.data import official_rows
from tests.fuzz.records import WRITERS
from tests.fuzz.tally import Tally, corrupted, generator
from unireason_jax.data import files
from unireason_jax.data.files.base import Broken

FULL, SMALL = 1000, 60
_ROWS = 40


def fuzz(seed: int, size: int, folder: Path, tally: Tally) -> None:
    """`size` spoilt files of every kind."""
    png = official_rows.png(10)
    rows = [{"id": f"r{n}", "image": png, "text": "a circle " * (n % 9 + 1)} for n in range(_ROWS)]
    for kind, write in WRITERS.items():
        whole = folder / f"whole.{kind}"
        write(whole, rows, None)
        data, path = whole.read_bytes(), folder / f"x.{kind}"
        for number in range(size):
            path.write_bytes(corrupted(data, generator(seed, kind, number)))
            with tally.trial(f"{kind} {number}"):
                tally.count(_outcome(path))


def _outcome(path: Path) -> str:
    try:
        places = list(files.places(path, 16))
    except ValueError as error:
        assert path.name in str(error) and "\n" not in str(error), error
        return "refused"
    if not places:
        assert not path.read_bytes().strip(), "nothing is said of what is there"
        return "empty"
    found = list(files.read_rows(path, places[0][0], sum(rows for _, rows in places)))
    half = len(places) // 2
    parts = [places[:half], places[half:]]
    again = [
        row
        for part in parts
        if part
        for row in files.read_rows(path, part[0][0], sum(rows for _, rows in part))
    ]
    planned = sum(rows for _, rows in places)
    assert _count(found) == planned, f"{_count(found)} rows of {planned}"
    assert _count(again) == planned, f"{_count(again)} rows of {planned} in two parts"
    good = [row for row in found if not isinstance(row, Broken)]
    assert good == [row for row in again if not isinstance(row, Broken)], "parts differ"
    assert all(0 < len(row.reason) < 700 for row in found if isinstance(row, Broken))
    return "whole" if len(good) == _ROWS else "in part"


def _count(rows: list) -> int:
    return sum(row.rows if isinstance(row, Broken) else 1 for row in rows)
