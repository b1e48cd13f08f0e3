"""Rows are read from any place on, in order, and a broken one fails alone."""

import json

import pyarrow.parquet
import pytest

from unireason_jax.data.files import Broken, Place, find_files, json_text, places, read_rows


def rows_of(count):
    """Rows with nested objects, brackets inside texts, and more bytes than characters."""
    return [
        {"n": i, "text": "}, {ä\n" * (i % 7), "turns": [{"a": 1}, {"a": i}], "c": i / 3}
        for i in range(count)
    ]


def write(path, rows, style):
    if style == "parquet":
        table = pyarrow.Table.from_pylist(rows)
        pyarrow.parquet.write_table(table, path, row_group_size=40)
        return path
    text = {
        "lines": "\n\n".join(map(json.dumps, rows)) + "\n",
        "array": json.dumps(rows, ensure_ascii=False),
        "indented": "\ufeff" + json.dumps(rows, indent=1),
    }[style]
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("style", ["lines", "array", "indented", "parquet"])
def test_rows_are_read_from_any_place_on(style, tmp_path, monkeypatch):
    monkeypatch.setattr(json_text, "_CHUNK", 200)  # bytes: elements cross the chunks
    rows = rows_of(100)
    path = write(tmp_path / ("x.parquet" if style == "parquet" else "x.json"), rows, style)
    found = [place for place, _ in places(path, 1)]
    assert [place.row for place in found] == list(range(100))
    assert list(read_rows(path, found[0], 100)) == rows
    for first, count in ((1, 3), (38, 5), (79, 21), (99, 1)):
        assert list(read_rows(path, found[first], count)) == rows[first : first + count]


@pytest.mark.parametrize("spoil", ["}", '"n"', ":", "]", "text", '{"n": 50'])
def test_an_array_goes_on_behind_a_broken_element_wherever_it_is_read_from(spoil, tmp_path):
    rows = rows_of(100)
    elements = [json.dumps(row) for row in rows]
    elements[50] = elements[50].replace(spoil, "", 1)
    (tmp_path / "x.json").write_text("[" + ", ".join(elements) + "]")
    path = tmp_path / "x.json"
    found = [place for place, _ in places(path)]
    whole = list(read_rows(path, found[0], 200))
    assert [row for row in whole if not isinstance(row, Broken) and "n" in row][-49:] == rows[51:]
    assert sum(row in rows for row in whole if isinstance(row, dict)) == 99
    for first in range(45, 56):
        assert list(read_rows(path, found[first], 10)) == whole[first : first + 10]


@pytest.mark.parametrize(
    ("text", "good", "bad"),
    [
        ("", 0, 0),
        ("[]", 0, 0),
        ("[ ]\n", 0, 0),
        ('[{"a": 1}, {"a": 2}', 2, 1),
        ('[{"a": 1}, {"a": 2', 1, 2),
        ('[{"a": 1}] trailing', 1, 2),
        ('[1, "x", {"a": 1}]', 1, 2),
        ('{"a": 1}\n[1]\n3\n\n{"a": 2}', 2, 2),
        ("[" * 100_000, 0, 2),
    ],
)
def test_what_is_left_behind_is_said(text, good, bad, tmp_path):
    path = tmp_path / "x.json"
    path.write_text(text)
    found = [row for place, _ in places(path) for row in read_rows(path, place, 1)]
    broken = [row for row in found if isinstance(row, Broken)]
    assert (len(found) - len(broken), len(broken)) == (good, bad)
    assert all(row.reason.startswith("the row is") for row in broken)


def test_a_damaged_row_group_is_one_entry_that_says_how_many_rows(tmp_path):
    rows = [{"n": i, "text": f"{i * 7919:064}" * 20} for i in range(120)]
    path = write(tmp_path / "x.parquet", rows, "parquet")
    chunk = pyarrow.parquet.ParquetFile(path).metadata.row_group(1).column(1)
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    data = bytearray(path.read_bytes())
    data[start : start + 200] = bytes(200)
    path.write_bytes(data)
    found = list(read_rows(path, Place(0, 0), 120))
    (broken,) = [row for row in found if isinstance(row, Broken)]
    assert broken.rows == 40 and "row group 1 cannot be read" in broken.reason
    assert [row for row in found if not isinstance(row, Broken)] == rows[:40] + rows[80:]


def test_inputs_are_files_folders_and_patterns(tmp_path, monkeypatch):
    for name in ("b.jsonl", "a.parquet", "deep/c.json", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    names = ["a.parquet", "b.jsonl", "deep/c.json"]
    assert find_files([tmp_path]) == [tmp_path / name for name in names]
    assert find_files([str(tmp_path / "*.jsonl"), tmp_path / "notes.txt"]) == [
        tmp_path / "b.jsonl",
        tmp_path / "notes.txt",
    ]
    monkeypatch.chdir(tmp_path)
    assert [str(path) for path in find_files(["deep/*.json", "b.jsonl", "b.jsonl"])] == [
        "deep/c.json",
        "b.jsonl",
    ]
    with pytest.raises(FileNotFoundError, match="nowhere does not exist or holds no file"):
        find_files(["nowhere"])


def test_parquet_without_pyarrow_or_parquet_says_so(tmp_path, monkeypatch):
    (tmp_path / "x.parquet").write_text("not parquet")
    with pytest.raises(ValueError, match=r"x\.parquet is not a readable parquet file"):
        list(places(tmp_path / "x.parquet"))
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ValueError, match="install unireason-jax with the extra 'parquet'"):
        list(places(tmp_path / "x.parquet"))
