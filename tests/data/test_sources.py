"""Sources: random access, the same everywhere, and a reason for every row that is unusable."""

import json
import pickle
import subprocess
import sys

import numpy as np
import pyarrow.parquet
import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image

from unireason_jax.data.bagel.tokens import SampleSpec, lengths, tokenize
from unireason_jax.data.files.streams import IndexedRecords, Reading
from unireason_jax.data.image_sizes import SIZES, SizeCodec
from unireason_jax.data.prepared import serialization
from unireason_jax.data.quarantine import Quarantine
from unireason_jax.data.records import Record, RecordError, Segment
from unireason_jax.data.sources import ArrayRecordSource, JsonSource, WorldSource, open_source
from unireason_jax.data.templates import Style
from unireason_jax.data.text.tokenizer import Qwen2Tokenizer, SentencePieceTokenizer
from unireason_jax.prepare import prepare
from unireason_jax.world import tasks

WEIGHTS = {"t2i": 2.0, "refine_t2i": 1.0, "vqa": 1.0}


def same(one, other):
    """Records are equal, pictures included."""
    assert one.id == other.id and len(one.segments) == len(other.segments)
    for mine, yours in zip(one.segments, other.segments):
        for field in ("kind", "role", "text", "loss", "und", "gen", "next", "drop", "tag"):
            assert getattr(mine, field) == getattr(yours, field)
        np.testing.assert_array_equal(mine.image, yours.image)
    return True


# ------------------------------------------------------------------ the embedded world


def test_world_records_are_pure_functions_of_seed_and_index():
    source = WorldSource(3, 40, WEIGHTS)
    again = pickle.loads(pickle.dumps(source))
    assert len(source) == 40 and repr(source) == repr(again)
    for index in (39, 0, 17):
        assert same(source[index], again[index])
    assert WorldSource(4, 40, WEIGHTS)[5].id != source[5].id
    assert pickle.dumps(again) == pickle.dumps(source)  # also after it was used


def test_world_tasks_keep_their_shares_in_any_stretch():
    source = WorldSource(0, 10_000, WEIGHTS)
    for start in (0, 777, 9_000):
        chosen = [source.task(index) for index in range(start, start + 400)]
        for task, share in (("t2i", 0.5), ("refine_t2i", 0.25), ("vqa", 0.25)):
            assert abs(chosen.count(task) / 400 - share) < 0.01


def test_outlines_have_the_lengths_of_the_records():
    source = WorldSource(0, 60, dict.fromkeys(tasks.TASKS, 1.0))
    records = [source[index] for index in range(60)]
    tokenizer = SentencePieceTokenizer.train(
        s.content for record in records for s in record.segments if s.kind == "text"
    )
    spec = SampleSpec(tokenizer, SizeCodec(8, 24), latent_patch=1, vit_patch=8)
    for index, record in enumerate(records):
        measured = lengths(source.outline(index), spec)
        assert measured == lengths(record, spec)
        assert measured == tokenize(record, spec, np.random.default_rng(index)).lengths


def test_held_out_prompts_differ():
    seen = {WorldSource(0, 300, {"t2i": 1})[i].segments[0].text for i in range(300)}
    kept = {WorldSource(0, 100, {"t2i": 1}, held_out=True)[i].segments[0].text for i in range(100)}
    assert not seen & kept


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 10, {"t3i": 1.0}), "unknown world task 't3i'"),
        ((0, 0, WEIGHTS), "is empty; give a size >= 1"),
        ((0, 10, {}), "is empty"),
        ((0, 10, {"t2i": 0.0}), "weights > 0"),
    ],
)
def test_impossible_worlds_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        WorldSource(*arguments)
    with pytest.raises(IndexError, match="record 7 of 7"):
        WorldSource(0, 7, WEIGHTS)[7]


# ------------------------------------------------------------------ JSON files


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    Image.fromarray(np.full((32, 32, 3), 90, np.uint8)).save(tmp_path / "images" / "a.png")
    return tmp_path


def rows(folder, text, name="rows.jsonl"):
    (folder / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return JsonSource(folder / name, folder / "images")


GOOD = {"task": "t2i", "prompt": "a circle", "image": "a.png"}


@pytest.mark.parametrize("style", ["lines", "array", "windows", "marked"])
def test_json_lines_and_arrays_are_the_same_source(folder, style):
    found = [{**GOOD, "id": f"r{i}"} for i in range(3)]
    lines = "\n".join(map(json.dumps, found))
    text = {
        "lines": lines + "\n",
        "array": json.dumps(found, indent=1),
        "windows": "\r\n\r\n".join(map(json.dumps, found)) + "\r\n",
        "marked": b"\xef\xbb\xbf" + lines.encode(),
    }[style]
    source = rows(folder, text)
    assert [source[i].id for i in range(len(source))] == ["r0", "r1", "r2"]
    image = source[1].segments[-1].image
    assert image == folder / "images" / "a.png"
    again = pickle.loads(pickle.dumps(source))
    assert repr(again) == repr(source) and again[2].id == "r2"


def test_rows_without_an_id_are_named_after_file_and_line(folder):
    source = rows(folder, json.dumps(GOOD) + "\n" + json.dumps({**GOOD, "id": "named"}))
    assert [source[0].id, source[1].id] == ["rows.jsonl:1", "named"]


def test_a_broken_line_fails_alone_and_by_number(folder):
    source = rows(folder, json.dumps(GOOD) + '\n{"task": "t2i", \n[1, 2]\n')
    assert source[0].segments
    with pytest.raises(RecordError, match=r"record 'rows\.jsonl:2': the row is not JSON"):
        source[1]
    with pytest.raises(RecordError, match=r"record 'rows\.jsonl:3': the row is a list"):
        source[2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty; there is nothing to read"),
        (" \n\n", "is empty"),
        ("[]", "is empty; there is nothing to read"),
        (json.dumps(GOOD, indent=2), "one JSON object over several lines"),
    ],
)
def test_files_without_rows_are_refused(folder, text, message):
    with pytest.raises(ValueError, match=message.replace("[", r"\[")):
        rows(folder, text)


def test_missing_places_are_named(folder):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        JsonSource(folder / "nowhere.jsonl")
    with pytest.raises(FileNotFoundError, match="pictures"):
        rows(folder, json.dumps(GOOD))
        JsonSource(folder / "rows.jsonl", folder / "pictures")


def test_contents_are_part_of_the_name(folder):
    one = repr(rows(folder, json.dumps(GOOD)))
    assert repr(rows(folder, json.dumps({**GOOD, "prompt": "a square"}))) != one
    other = Reading(style=Style(reference=True))
    assert repr(JsonSource(folder / "rows.jsonl", folder / "images", other)) != one


def test_every_broken_official_file_yields_or_says_why(data_goldens):
    """The official loaders crash, spin or train on nonsense; here it is a record or a reason."""
    spec = SampleSpec(Qwen2Tokenizer.load(data_goldens / "tokenizer"), **SIZES["unireason"])
    cases = json.loads((data_goldens / "records" / "broken" / "cases.json").read_text())
    cases = [case for case in cases if case["file"].endswith((".json", ".jsonl"))]
    outcomes = {"usable": 0, "record": 0, "file": 0}
    for case in cases:
        try:
            source = JsonSource(data_goldens / case["file"], data_goldens / "images")
        except ValueError as error:
            assert case["file"].rsplit("/", 1)[1] in str(error)
            outcomes["file"] += 1
            continue
        for index in range(len(source)):
            try:
                tokenize(source[index], spec, np.random.default_rng(0))
                outcomes["usable"] += 1
            except RecordError as error:
                assert error.reason
                outcomes["record"] += 1
    assert len(cases) > 80
    assert outcomes["record"] > 60 and outcomes["usable"] > 10 and outcomes["file"] >= 3


# ------------------------------------------------------------------ parquet and ArrayRecord


def test_parquet_rows_are_read_by_group_and_survive_pickling(folder):
    rows = [{"id": f"r{i}", "txt": "a circle", "image_path": "images/a.png"} for i in range(25)]
    table = pyarrow.Table.from_pylist(rows)
    pyarrow.parquet.write_table(table, folder / "rows.parquet", row_group_size=10)
    source = open_source(folder / "rows.parquet")
    assert len(source) == 25 and [source[i].id for i in (24, 0, 10, 9)] == [
        "r24",
        "r0",
        "r10",
        "r9",
    ]
    again = pickle.loads(pickle.dumps(source))
    assert repr(again) == repr(source) and again[19].segments[-1].image == folder / "images/a.png"
    pyarrow.parquet.write_table(table.slice(0, 0), folder / "none.parquet")
    with pytest.raises(ValueError, match=r"none\.parquet is empty"):
        open_source(folder / "none.parquet")


def test_array_records_of_others_are_read_without_a_manifest(folder):
    record = WorldSource(0, 1, {"t2i": 1})[0]
    entries = [
        json.dumps({**GOOD, "id": "row"}).encode(),
        serialization.to_bytes(record),
        b"{broken",
    ]
    (folder / "theirs").mkdir()
    for name, data in (("x.array_record-00000-of-2", entries[:1]), ("x.array_record-1", entries)):
        writer = ArrayRecordWriter(str(folder / "theirs" / name), "group_size:1")
        for entry in data:
            writer.write(entry)
        writer.close()
    source = open_source(folder / "theirs")
    assert [source[0].id, source[1].id] == ["row", "row"] and same(source[2], record)
    with pytest.raises(RecordError, match="record 'theirs:4': the row is not JSON"):
        source[3]
    assert repr(pickle.loads(pickle.dumps(source))) == repr(source)
    assert len(open_source(folder / "theirs" / "x.array_record-1")) == 3


# ------------------------------------------------------------------ shards


def test_stored_records_come_back_equal():
    record = WorldSource(0, 9, {"refine_t2i": 1})[3]
    assert same(serialization.from_bytes(serialization.to_bytes(record)), record)
    flags = Record(
        "flags",
        (
            Segment("text", "plan", tag="think", loss="text", next="image", weight=0.5),
            Segment("image", "x", image=b"encoded", und=True, drop=True),
        ),
        source="s",
        licence="CC0",
        metadata={"tag": "a"},
    )
    back = serialization.from_bytes(serialization.to_bytes(flags))
    assert back == flags


def test_storage_refuses_what_it_cannot_keep():
    path = Record("p", (Segment("image", "x", image="a.png", und=True),))
    with pytest.raises(RecordError, match=r"record 'p', segment 0: image a\.png is a path"):
        serialization.to_bytes(path)
    odd = Record("m", (Segment("text", "x", text="a"),), metadata={"scene": object()})
    with pytest.raises(RecordError, match="field 'metadata' cannot be stored"):
        serialization.to_bytes(odd)
    with pytest.raises(ValueError, match="not a stored record"):
        serialization.from_bytes(b"PNG....")
    data = serialization.to_bytes(WorldSource(0, 1, {"t2i": 1})[0])
    with pytest.raises(ValueError, match="is cut off"):
        serialization.from_bytes(data[:-5])


def test_prepared_folders_read_like_their_source(tmp_path):
    source = WorldSource(1, 30, WEIGHTS)
    prepare(IndexedRecords(source), tmp_path / "out", sizes="world", shard_records=12)
    shards = ArrayRecordSource(tmp_path / "out")
    assert len(shards) == 30 and len(shards.manifest["shards"]) > 1
    for index in (29, 0, 13):
        assert same(shards[index], source[index])
    again = pickle.loads(pickle.dumps(shards))
    assert same(again[7], source[7]) and repr(again) == repr(shards)
    assert shards.lengths().shape == (30, 3) and shards.lengths().all(0).any()
    with pytest.raises(IndexError):
        shards[30]


def test_incomplete_folders_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no manifest\.json; run `unireason prepare`"):
        ArrayRecordSource(tmp_path)
    prepare(IndexedRecords(WorldSource(1, 5, WEIGHTS)), tmp_path / "out", sizes="world")
    manifest = tmp_path / "out" / "manifest.json"
    wrong = json.loads(manifest.read_text()) | {"records": 6}
    manifest.write_text(json.dumps(wrong))
    with pytest.raises(ValueError, match="holds 5 records but its manifest says 6"):
        ArrayRecordSource(tmp_path / "out")
    next((tmp_path / "out").glob("*.array_record")).unlink()
    with pytest.raises(FileNotFoundError, match="lacks its shard records-00000"):
        ArrayRecordSource(tmp_path / "out")


# ------------------------------------------------------------------ quarantine


def test_quarantine_counts_each_record_once_and_survives_a_restart(tmp_path):
    book = Quarantine(tmp_path / "logs" / "q.jsonl")
    book.add("files", "r1", "no image")
    book.add("files", "r1", "no image")
    book.add("world", "r2", "too long\nby far")
    assert len(book) == 2
    assert book.summary().startswith("2 records quarantined (1 of files, 1 of world); reasons in")
    assert str(tmp_path / "logs" / "q.jsonl") in book.summary()
    with (tmp_path / "logs" / "q.jsonl").open("a") as file:
        file.write('{"source": "fi\n')  # a torn write
    again = Quarantine(tmp_path / "logs" / "q.jsonl")
    again.add("files", "r1", "no image")
    again.add("files", "r3", "unreadable")
    lines = (tmp_path / "logs" / "q.jsonl").read_text().splitlines()
    assert [json.loads(lines[i])["record"] for i in (0, 1, 3)] == ["r1", "r2", "r3"]
    assert len(lines) == 4
    assert Quarantine().summary() == "no record quarantined"


def test_processes_share_one_quarantine_file(tmp_path):
    code = (
        "import sys; from unireason_jax.data.quarantine import Quarantine\n"
        "book = Quarantine(sys.argv[1])\n"
        "for i in range(200): book.add('s', f'{sys.argv[2]}-{i}', 'x' * 300)\n"
    )
    path = tmp_path / "q.jsonl"
    runs = [
        subprocess.Popen([sys.executable, "-c", code, str(path), str(number)]) for number in (0, 1)
    ]
    assert [run.wait() for run in runs] == [0, 0]
    names = [json.loads(line)["record"] for line in path.read_text().splitlines()]
    assert sorted(names) == sorted(f"{n}-{i}" for n in (0, 1) for i in range(200))
