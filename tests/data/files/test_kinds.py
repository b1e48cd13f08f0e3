"""Files are told by their content, and every kind is read from any row on."""

import csv
import gzip
import io
import json
import os
import re
import tarfile
import tracemalloc

import pyarrow.parquet
import pytest

from tests.data import official_rows
from unireason_jax.data import files
from unireason_jax.data.files import (
    base,
    find_files,
    kind_of,
    parquet,
    places,
    read_rows,
    table,
    tar,
)
from unireason_jax.data.files.base import Broken
from unireason_jax.data.files.streams import FileRecords, Reading, in_shards
from unireason_jax.data.sources import open_source

ROW = {"prompt": "a red circle", "image": "a.png"}


def every_row(path, **options):
    found = list(places(path))
    rows = sum(count for _, count in found)
    return list(read_rows(path, found[0][0], rows, **options)) if found else []


def good_and_bad(path):
    rows = every_row(path)
    bad = [row for row in rows if isinstance(row, Broken)]
    return len(rows) - len(bad), sum(row.rows for row in bad)


@pytest.mark.parametrize(
    ("first", "good", "bad"),
    [
        ("[1,2", 20, 1),
        ("[", 20, 1),
        ("[]", 20, 1),
        ("[1]", 20, 1),
        ('["a", "b"]', 20, 1),
        ('[{"a": 1}', 20, 1),
        ("[1,", 20, 1),
        ("[" * 500, 20, 1),
    ],
)
def test_lines_whose_first_begins_with_a_bracket_are_lines(first, good, bad, tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text("\n".join([first, *[json.dumps(ROW)] * 20]))
    assert good_and_bad(path) == (good, bad)
    path.write_text("\r\n".join([first, "", *[json.dumps(ROW)] * 20, ""]))
    assert good_and_bad(path) == (good, bad)


@pytest.mark.parametrize(
    "write",
    [
        json.dumps,
        lambda rows: json.dumps(rows, indent=2),
        lambda rows: "[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n",
        lambda rows: "[" + "\n,".join(map(json.dumps, rows)) + "]",
        lambda rows: "\ufeff\n [" + ", \n".join(map(json.dumps, rows)) + "\n]",
        lambda rows: "[" + json.dumps(rows[0]) + ",\n" + json.dumps(rows[1:])[1:],
    ],
)
def test_arrays_are_arrays_however_they_are_written(write, tmp_path):
    rows = [{**ROW, "turns": [{"a": 1}, {"b": [2]}], "n": n} for n in range(20)]
    path = tmp_path / "x.json"
    path.write_text(write(rows), "utf-8")
    assert every_row(path) == rows


def test_a_line_has_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(base, "LONGEST", 1000)
    path = tmp_path / "x.jsonl"
    path.write_text(f"{json.dumps(ROW)}\n{'x' * 5000}\n{json.dumps(ROW)}\n")
    good, broken, last = every_row(path)
    assert good == last == ROW and broken.reason == "the row has 5,001 bytes; 1,000 are read"


def test_endless_lines_take_no_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(base, "LONGEST", 1 << 22)
    path = tmp_path / "x.jsonl"
    with path.open("wb") as file:
        file.truncate(100 << 20)
    tracemalloc.start()
    assert good_and_bad(path) == (0, 1)
    with path.open("r+b") as file:
        file.write(b'{"')
    assert good_and_bad(path) == (0, 1)
    assert tracemalloc.get_traced_memory()[1] < 4 * base.LONGEST
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{'prompt': 'a'}", "this is Python, write JSON with double quotes"),
        ('{"a": 1, "a": 2}', "the key 'a' is there twice"),
        ('{"a": ' + "9" * 5000 + "}", "limit"),
        ("[" * 100_000 + '{"a": 1}', "recursion|not JSON"),
        ('{"a": ' * 5000, "recursion|not JSON"),
        ("\0\0\0{}", "not JSON"),
        ('{"a": "b', "not JSON"),
        ("17", "the row is a int"),
        ('"text"', "the row is a str"),
    ],
)
def test_odd_lines_are_broken_rows(line, reason, tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text(f"{json.dumps(ROW)}\n{line}\n{json.dumps(ROW)}\n")
    good, broken, last = every_row(path)
    assert good == last == ROW and re.search(reason, broken.reason)


def test_tables_are_read_from_any_row_on(tmp_path):
    rows = [{"prompt": f'a "big"\nred, {n} é', "image": f"{n}.png"} for n in range(50)]
    rows[7]["prompt"] = "[1, 2"
    for name, delimiter in (("x.csv", ","), ("x.tsv", "\t"), ("y.csv", ";")):
        path = tmp_path / name
        with path.open("w", encoding="utf-8-sig", newline="") as file:
            writer = csv.DictWriter(file, ["prompt", "image", "licence"], delimiter=delimiter)
            writer.writeheader()
            writer.writerows(rows)
        found = [place for place, _ in places(path)]
        assert kind_of(path) is table and every_row(path) == rows
        assert list(read_rows(path, found[30], 5)) == rows[30:35]


def test_a_header_without_rows_is_said(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("a red thing,x.png\n")
    for read in (lambda: list(places(path)), lambda: list(read_rows(path, files.Place(0, 0), 1))):
        with pytest.raises(ValueError, match="has one line, which must be its header"):
            read()


def test_spoilt_tables_say_why(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text('prompt,image\na,b.png\na\na,b,c\n"a"x,b\na,c.png\n"open,d.png\n')
    rows = every_row(path)
    assert rows[0] == {"prompt": "a", "image": "b.png"} and rows[4]["image"] == "c.png"
    reasons = [row.reason for row in rows if isinstance(row, Broken)]
    assert [reason[:20] for reason in reasons] == [
        "the row has 1 fields",
        "the row has 3 fields",
        "the row is not CSV: ",
        "the row is not CSV: ",
    ]
    for header in ("a,a\n1,2\n", "a,\n1,2\n"):
        path.write_text(header)
        with pytest.raises(ValueError, match="the first line must name every column once"):
            every_row(path)
    path.write_bytes(b"prompt,image\nhalf \xff,a.png\n")
    with pytest.raises(ValueError, match=r"not UTF-8 \(byte 0xFF\); save"):
        open_source(path)[0]


def write_tar(path, members, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def test_samples_of_archives_become_rows(tmp_path):
    png = official_rows.PNG
    chat = json.dumps({"conversations": official_rows.TURNS, "licence": "CC0"}).encode()
    edit = {"instruction": "add", "input_image": ["in.png"], "output_image": "c.out.png"}
    members = [
        ("d/a.jpg", png),
        ("d/a.txt", b"a red thing\n"),
        ("d/b.png", png),
        ("d/b.json", chat),
        ("d/c.in.png", png),
        ("d/c.out.png", png[:40]),
        ("d/c.json", json.dumps(edit).encode()),
        ("long/" + "n" * 200 + ".txt", b"x"),
    ]
    for path, mode in ((tmp_path / "x.tar", "w"), (tmp_path / "x.tar.gz", "w:gz")):
        write_tar(path, members, mode)
        rows = every_row(path)
        assert kind_of(path) is tar and [row["id"] for row in rows[:3]] == ["d/a", "d/b", "d/c"]
        assert rows[0] == {"id": "d/a", "text": "a red thing", "image": png}
        assert rows[1]["image"] == png and rows[1]["licence"] == "CC0"
        assert rows[2]["input_image"] == [png] and rows[2]["output_image"] == png[:40]
        found = [place for place, _ in places(path)]
        assert list(read_rows(path, found[2], 1)) == [rows[2]]
        source = open_source(path)
        assert [len(source[n].segments) for n in range(3)] == [2, 3, 3]


def test_hostile_archives_lose_only_what_is_behind_the_damage(tmp_path, monkeypatch):
    path = tmp_path / "x.tar"
    write_tar(path, [(f"{n}.txt", b"x" * 600) for n in range(6)])
    data = bytearray(path.read_bytes())
    spoilt = bytearray(data)
    spoilt[3 * 1536 + 100] ^= 255  # a header
    path.write_bytes(spoilt)
    assert good_and_bad(path)[1] == 1 and good_and_bad(path)[0] in (2, 3)
    path.write_bytes(data[: 2 * 1536 + 700])
    assert good_and_bad(path)[1] == 1
    path.write_bytes(data + data)  # joined by `cat`: readers of archives stop at the first end
    assert "behind its end" in every_row(path)[-1].reason
    with tarfile.open(path, "w") as archive:
        info = tarfile.TarInfo("a.png")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(info)
    assert "is a link or a device" in every_row(path)[0].reason
    monkeypatch.setattr(tar, "_LARGEST", 1000)
    write_tar(path, [("a.txt", b"x" * 600), ("a.json", b"x" * 600), ("b.txt", b"x")])
    large, small = every_row(path)
    assert "1,200 bytes; 1,000 are read" in large.reason and small["text"] == "x"


def test_packed_lines_are_read_and_damage_is_said(tmp_path):
    path = tmp_path / "x.jsonl.gz"
    path.write_bytes(gzip.compress(b"\n".join([json.dumps(ROW).encode()] * 5000)))
    assert good_and_bad(path) == (5000, 0)
    path.write_bytes(path.read_bytes()[:-30])
    good, bad = good_and_bad(path)
    assert bad == 1 and good > 0
    for row in (every_row(path)[-1], *read_rows(path, list(places(path))[-1][0], 1)):
        assert "is damaged from here on" in row.reason
    table = tmp_path / "x.csv.gz"
    table.write_bytes(gzip.compress(b"prompt,image\n" + b"a red,a.png\n" * 9000)[:-20])
    good, bad = good_and_bad(table)
    assert bad == 1 and good > 0
    (row,) = read_rows(table, list(places(table))[-1][0], 5)
    assert "is damaged from here on" in row.reason


def test_unknown_kinds_say_what_is_read(tmp_path):
    for name, data in {
        "x.png": official_rows.PNG,
        "x.zip": b"PK\3\4 and so on",
        "x.txt": b"a red thing",
        "x.xlsx": b"PK\3\4",
    }.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match="of a kind that is not read; read are JSON lines"):
            kind_of(tmp_path / name)
    for encoding in ("utf-16", "utf-16-be", "utf-32", "utf-16-le"):
        (tmp_path / "x.jsonl").write_text('{"a": 1}', encoding)
        with pytest.raises(ValueError, match="write it as UTF-8"):
            kind_of(tmp_path / "x.jsonl")
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(ValueError, match="is a pipe or a device"):
        find_files([tmp_path / "pipe.jsonl"])
    assert tmp_path / "pipe.jsonl" not in find_files([tmp_path])


# ------------------------------------------------------------------ parquet


def write_parquet(path, rows, **options):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, **options)
    return path


def test_only_the_columns_of_the_format_are_read(tmp_path):
    rows = [{"image": official_rows.PNG, "text": "a", "huge": "x" * 900, "n": n} for n in range(40)]
    path = write_parquet(tmp_path / "x.parquet", rows, row_group_size=20)
    found = every_row(path, fields=Reading("bagel_t2i").fields)
    assert all(row.keys() == {"image", "text"} for row in found) and len(found) == 40
    chunk = pyarrow.parquet.ParquetFile(path).metadata.row_group(1).column(2)
    data = bytearray(path.read_bytes())
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    data[start : start + 20] = bytes(20)
    path.write_bytes(data)
    for form in ("bagel_t2i", "auto"):
        assert every_row(path, fields=Reading(form).fields) == found
        assert open_source(path, Reading(form))[39].segments[0].text == "a"
    assert any(isinstance(row, Broken) for row in every_row(path))


def test_a_column_that_names_tasks_keeps_all_columns():
    names = ["task", "prompt", "image", "draft"]
    assert Reading("auto").fields(names) is None and Reading("unireason").fields(names) is None
    assert Reading("auto").fields(["text", "image", "url"]) == ["text", "image"]
    assert Reading("auto").fields(["TEXT", "URL"]) is None  # to be named in the reason


@pytest.mark.parametrize(("group", "shard"), [(30, 100), (100, 30), (7, 7), (1, 5)])
def test_shards_follow_row_groups(group, shard, tmp_path):
    rows = [{"text": "a", "image": f"{n}.png"} for n in range(200)]
    path = write_parquet(tmp_path / "x.parquet", rows, row_group_size=group)
    edges = [0]
    for pieces, count in in_shards(FileRecords((path,)), shard):
        assert count <= shard and sum(piece.rows for piece in pieces) == count
        edges.append(edges[-1] + count)
    assert edges[-1] == 200
    torn = [edge for edge in edges if edge % group]
    assert not torn[:-1] if group <= shard else set(range(0, 201, group)) <= set(edges)


def test_reading_stops_within_a_row_group(tmp_path, monkeypatch):
    rows = [{"text": f"{n}"} for n in range(1000)]
    path = write_parquet(tmp_path / "x.parquet", rows)
    converted = []
    whole = parquet._values
    monkeypatch.setattr(
        parquet, "_values", lambda batch: converted.append(len(batch)) or whole(batch)
    )
    found = list(read_rows(path, files.Place(500, 0), 20))
    assert [row["text"] for row in found] == [str(n) for n in range(500, 520)]
    assert sum(converted) == 20


def test_values_of_parquet_that_cannot_be_told_fail_alone(tmp_path):
    text = pyarrow.array([b"good", b"\xff\xfe", b"fine"], pyarrow.binary()).view(pyarrow.string())
    pyarrow.parquet.write_table(pyarrow.table({"text": text}), tmp_path / "x.parquet")
    good, broken, fine = every_row(tmp_path / "x.parquet")
    assert good["text"] == "good" and fine["text"] == "fine"
    assert "has a value that cannot be read" in broken.reason


@pytest.mark.parametrize(
    "column",
    [
        pyarrow.array(["a", "b"]).dictionary_encode(),
        pyarrow.array(["a", "b"], pyarrow.large_string()),
        pyarrow.array([["a"], ["b", None]]),
        pyarrow.array([["a"], ["b"]], pyarrow.large_list(pyarrow.string())),
        pyarrow.array([{"c": "a", "d": None}, {"c": None, "d": "b"}]),
    ],
)
def test_captions_of_any_type_are_read(column, tmp_path):
    image = pyarrow.array([{"bytes": official_rows.PNG, "path": None}] * 2)
    for extra in ({}, {"when": pyarrow.array([0, 1], pyarrow.timestamp("ns"))}):
        columns = pyarrow.table({"image": image, "captions": column, **extra})
        pyarrow.parquet.write_table(columns, tmp_path / "x.parquet")
        source = open_source(tmp_path / "x.parquet")
        assert [source[n].segments[0].text for n in range(2)] == ["a", "b"]
        assert source[1].segments[1].image == official_rows.PNG


def test_parquet_without_rows_or_columns_and_with_empty_groups(tmp_path):
    path = tmp_path / "x.parquet"
    schema = pyarrow.schema([("text", pyarrow.string())])
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        for texts in ([], ["a"], [], ["b", "c"], []):
            writer.write_table(pyarrow.table({"text": texts}, schema))
    assert [row["text"] for row in every_row(path)] == ["a", "b", "c"]
    pyarrow.parquet.write_table(schema.empty_table(), path)
    assert every_row(path) == []
    path.write_bytes(b"PAR1" + bytes(40) + b"PAR1")
    with pytest.raises(ValueError, match="not a readable parquet file"):
        every_row(path)
