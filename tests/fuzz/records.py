"""Rows of every format, sound and spoilt, through `prepare`: kept or in quarantine, none lost.

Every format is written as JSON lines, as a JSON array, as CSV and as parquet. Among its rows are
some that are sound; the others have odd values in odd places, and in the files of text some have
spoilt bytes. Then whole files are spoilt: archives, tables and parquet, byte by byte.
"""

import base64
import csv
import gzip
import io
import json
import os
import random
import tarfile
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet

from tests.data import official_rows
from tests.fuzz.tally import Tally, corrupted, generator
from unireason_jax.data.files.streams import FileRecords, Reading
from unireason_jax.data.sources import ArrayRecordSource
from unireason_jax.data.text.tokenizer import SentencePieceTokenizer, Tokenizer
from unireason_jax.prepare import prepare

FULL, SMALL = 1000, 8
_FILES = 20  # spoilt rows for one spoilt file
_SECONDS = 300
_ODD = (
    None,
    True,
    -1,
    0,
    2**70,
    1e308,
    float("nan"),
    "",
    " ",
    "\0",
    "\ud800",
    "x" * 100_000,
    "<image>" * 50,
    "../a.png",
    "/etc/passwd",
    "/dev/zero",
    "pipe.png",
    "loop.png",
    "outside.png",
    "folder.png",
    "sparse.png",
    "https://example.com/a.png",
    "data:image/png;base64,AAAA",
    "data:,",
    "a.png\0",
    [],
    {},
    [[]],
    [None],
    {"bytes": None, "path": None},
    {"bytes": "AAAA", "path": "a.png"},
    {"path": "../a.png"},
    [{"from": "human"}],
    [{"role": "user", "content": [{"type": "image"}]}],
)


def fuzz(seed: int, size: int, folder: Path, tally: Tally) -> None:
    """`size` spoilt rows of every format in every kind of file."""
    words = SentencePieceTokenizer.train(["a circle"])
    images = _images(folder)
    for name, (row, _) in official_rows.FORMATS.items():
        rng = random.Random(f"{seed}/{name}")
        rows = [row, *(_spoilt(row, rng) for _ in range(size)), row]
        rows = [{"id": f"r{number}", **row} for number, row in enumerate(rows)]
        for kind, write in WRITERS.items():
            path = folder / f"rows.{kind}"
            with tally.trial(f"{name} as {kind}", _SECONDS):
                count = write(path, rows, generator(seed, name, kind))
                kept = _prepared(path, images, name.split()[0], words, count)
                tally.count("kept", kept)
                tally.count("set aside", (count or 0) - kept)
                tally.expect(kept >= 1, f"{name} as {kind}", "nothing was kept")
        for number in range(size // _FILES):
            for kind in WRITERS:
                rng = generator(seed, name, "file", kind, number)
                path = folder / f"file.{kind}"
                with tally.trial(f"{name}, spoilt {kind} {number}", _SECONDS):
                    WRITERS[kind](path, rows[:8], None)
                    path.write_bytes(corrupted(path.read_bytes(), rng))
                    _prepared(path, images, name.split()[0], words, None)
                    tally.count("spoilt file")


def _prepared(path: Path, images: Path, form: str, words: Tokenizer, count: int | None) -> int:
    """Records kept of a file that has `count` of them, where that is known."""
    records = FileRecords((path,), Reading("auto" if form == "csv" else form), images)
    output = path.with_name("out")
    try:
        prepare(records, output, sizes="world", tokenizer=words, overwrite=True)
    except ValueError as error:
        if "no record can be used" not in str(error) and "is empty" not in str(error):
            raise
        kept = 0
    else:
        source = ArrayRecordSource(output)
        kept = len(source)
        for index in range(0, kept, 50):
            assert source[index].segments
    book = output / "quarantine.jsonl"
    entries = [json.loads(line) for line in book.read_text().splitlines()] if book.exists() else []
    bad = sum(entry.get("records", 1) for entry in entries)
    assert count is None or kept + bad == count, f"{kept} kept, {bad} set aside of {count}"
    for entry in entries:
        reason = entry["reason"]
        assert 8 < len(reason) <= 700 and "\n" not in reason, reason
        assert official_rows.IMAGE_PART["content"][:60] not in reason, "base64"
        assert " at 0x" not in reason and "Error: " not in reason[:25], reason
    return kept


def _spoilt(row: dict, rng: random.Random) -> dict:
    """The row with one or two odd values, deep inside or at the top."""
    row = _copied(row)
    for _ in range(rng.choice((1, 1, 2))):
        key = rng.choice([*row, "extra", "task", "id", "licence"])
        where, at = row, key
        while isinstance(where.get(at) if isinstance(where, dict) else where[at], list | dict):
            inner = where[at]
            if not inner or rng.random() < 0.3:
                break
            where = inner
            at = rng.choice(list(inner)) if isinstance(inner, dict) else rng.randrange(len(inner))
        if rng.random() < 0.15 and isinstance(where, dict):
            where.pop(at, None)
        else:
            where[at] = _copied(rng.choice(_ODD))
    return row


def _copied(value):
    if isinstance(value, dict):
        return {key: _copied(one) for key, one in value.items()}
    return [_copied(one) for one in value] if isinstance(value, list) else value


def _as_text(value):
    """What JSON can hold: bytes as data URIs."""
    if isinstance(value, bytes):
        return f"data:image/png;base64,{base64.b64encode(value).decode()}"
    if isinstance(value, dict):
        return {key: _as_text(one) for key, one in value.items()}
    return [_as_text(one) for one in value] if isinstance(value, list) else value


def _lines(path: Path, rows: list[dict], rng: np.random.Generator | None) -> int | None:
    lines = [json.dumps(_as_text(row)).encode() for row in rows]
    if rng:
        lines = [_bitten(line, rng) if n % 5 == 4 else line for n, line in enumerate(lines)]
    path.write_bytes(b"\n".join(lines))
    return len(lines)


def _bitten(line: bytes, rng: np.random.Generator) -> bytes:
    """A line with a few wrong bytes, none of which ends it."""
    line = bytearray(line)
    for place in rng.integers(len(line), size=3):
        line[place] = rng.choice([0, 34, 44, 58, 91, 92, 93, 123, 125, 200, 255])
    return bytes(line)


def _array(path: Path, rows: list[dict], rng: np.random.Generator | None) -> int | None:
    path.write_text(json.dumps([_as_text(row) for row in rows], indent=1 if rng else None))
    return len(rows)


def _packed(path: Path, rows: list[dict], rng: np.random.Generator | None) -> int | None:
    count = _lines(path, rows, rng)
    path.write_bytes(gzip.compress(path.read_bytes(), 1))
    return count


def _table(path: Path, rows: list[dict], rng: np.random.Generator | None) -> int | None:
    names = list(dict.fromkeys(key for row in rows for key in row))
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, names)
    writer.writeheader()
    for row in rows:
        cells = {key: _as_text(value) for key, value in row.items()}
        writer.writerow({k: v if isinstance(v, str) else json.dumps(v) for k, v in cells.items()})
    path.write_bytes(file.getvalue().encode("utf-8", "surrogatepass"))
    return len(rows)


def _parquet(path: Path, rows: list[dict], rng: np.random.Generator | None) -> int | None:
    """Columns of one type each: what does not fit the first row's is null."""
    first = pyarrow.Table.from_pylist(rows[:1]).schema
    columns = {}
    for field in first:
        values = []
        for row in rows:
            try:
                values.append(pyarrow.scalar(row.get(field.name), field.type).as_py())
            except (pyarrow.ArrowException, ValueError, TypeError, OverflowError):
                values.append(None)
        columns[field.name] = pyarrow.array(values, field.type)
    pyarrow.parquet.write_table(pyarrow.table(columns), path, row_group_size=300)
    return len(rows)


def _tar(path: Path, rows: list[dict], rng: np.random.Generator | None) -> int | None:
    with tarfile.open(path, "w") as archive:
        for number, row in enumerate(rows):
            members = {"json": json.dumps(_as_text(row)).encode(), "txt": b"a circle"}
            for ending, data in {**members, "png": official_rows.PNG}.items():
                member = tarfile.TarInfo(f"{number:05}.{ending}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return len(rows)


WRITERS = {
    "jsonl": _lines,
    "json": _array,
    "jsonl.gz": _packed,
    "csv": _table,
    "parquet": _parquet,
    "tar": _tar,
}


def _images(folder: Path) -> Path:
    """Two pictures, and what should never be opened as one."""
    images = folder / "images"
    images.mkdir()
    (images / "a.png").write_bytes(official_rows.png(10))
    (images / "b.png").write_bytes(official_rows.png(20))
    (images / "folder.png").mkdir()
    os.mkfifo(images / "pipe.png")
    (images / "loop.png").symlink_to("loop.png")
    (folder / "secret.png").write_bytes(official_rows.png(30))
    (images / "outside.png").symlink_to(folder / "secret.png")
    with (images / "sparse.png").open("wb") as file:
        file.write(official_rows.png(40))
        file.truncate(8 << 30)
    return images
