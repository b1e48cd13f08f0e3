"""A thousand spoilt records of every format: all quarantined with a reason, all good ones kept."""

import json

import numpy as np
import pyarrow.parquet
import pytest

from tests.data import official_rows
from unireason_jax.data.files.streams import FileRecords, Reading
from unireason_jax.data.sources import ArrayRecordSource, open_source
from unireason_jax.data.text.tokenizer import SentencePieceTokenizer
from unireason_jax.prepare import prepare

BAD, GOOD = 1000, 100


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "a.png").write_bytes(official_rows.png(10))
    (folder / "b.png").write_bytes(official_rows.png(20))
    (folder / "cut.png").write_bytes(official_rows.CUT)
    (folder / "text.png").write_text("not an image")
    return folder


def run(path, images, output, form="auto"):
    """(ids kept, entries of the quarantine)."""
    tokenizer = SentencePieceTokenizer.train(["a circle"])
    records = FileRecords((path,), Reading(form), images)
    prepare(records, output, sizes="world", tokenizer=tokenizer, shard_records=400)
    source = ArrayRecordSource(output)
    book = [json.loads(line) for line in (output / "quarantine.jsonl").read_text().splitlines()]
    assert source.manifest["quarantined"] == len(book)
    assert all(len(entry["reason"]) > 8 for entry in book)
    return [source[i].id for i in range(len(source))], book


def write_parquet(path, rows):
    table = pyarrow.Table.from_pylist(rows)
    pyarrow.parquet.write_table(table, path, row_group_size=300)


@pytest.mark.parametrize("named", [True, False], ids=["named", "auto"])
@pytest.mark.parametrize("name", official_rows.FORMATS)
def test_bad_records_are_quarantined_and_good_ones_kept(name, named, images, tmp_path):
    rows, good = official_rows.rows_of(name, GOOD, BAD if named else BAD // 10)
    path = tmp_path / ("rows.parquet" if name in official_rows.PARQUET else "rows.jsonl")
    if path.suffix == ".parquet":
        write_parquet(path, rows)
    else:
        path.write_text("\n".join(map(json.dumps, rows)))
    kept, book = run(path, images, tmp_path / "out", name.split()[0] if named else "auto")
    assert kept == [row["id"] for row in rows if row["id"] in good]
    bad = [row["id"] for row in rows if row["id"] not in good]
    assert [entry["record"].split(": ")[1] for entry in book] == bad
    source = open_source(path, Reading(name.split()[0]))
    usable = [index for index, row in enumerate(rows) if row["id"] in good]
    assert len(source) == len(rows) and source[usable[-1]].id == rows[usable[-1]]["id"]


@pytest.mark.parametrize("array", [False, True], ids=["lines", "array"])
def test_rows_with_flipped_bytes_fail_alone(array, images, tmp_path):
    """Whatever the bytes: every row of the file is kept or quarantined, untouched rows are kept."""
    rng = np.random.default_rng(0)
    lines, untouched = [], set()
    for i in range(1200):
        row = {"id": f"r{i}", "txt": f"a circle of {i} points", "image_path": "a.png"}
        line = bytearray(json.dumps(row).encode())
        if i % 6:
            for _ in range(rng.integers(1, 4)):
                line[rng.integers(len(line))] = rng.choice([0, 34, 44, 58, 91, 92, 120, 123, 200])
        else:
            untouched.add(f"r{i}")
        lines.append(bytes(line))
    path = tmp_path / "rows.json"
    path.write_bytes(b"[" + b",\n".join(lines) + b"]" if array else b"\n".join(lines))
    kept, book = run(path, images, tmp_path / "out")
    assert untouched <= set(kept) and len(book) > 300
    if not array:
        assert len(kept) + len(book) == len(lines)
