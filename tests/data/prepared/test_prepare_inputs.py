"""`prepare` on what people have: every reason is said, everything counts, nothing is guessed."""

import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.conftest import REPOSITORY
from tests.data import official_rows
from unireason_jax import prepare
from unireason_jax.data.prepared import shards
from unireason_jax.data.prepared.shards import Kept, Refused
from unireason_jax.data.sources import ArrayRecordSource


def write(folder, rows, name="rows.jsonl"):
    (folder / "a.png").write_bytes(official_rows.png(90))
    path = folder / name
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return path


def run(path, *arguments, output="out"):
    output = path.parent / output
    prepare.main(["prepare", f"--input={path}", f"--output={output}", *arguments])
    return output


def quarantine(output):
    return [json.loads(line) for line in (output / "quarantine.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("x.json", '{\n "data": [{"txt": "a", "image_path": "a.png"}]\n}', "one JSON object over"),
        ("x.json", '{"data": [{"txt": "a", "image_path": "a.png"}]}', "unknown fields ['data']"),
        ("x.jsonl", "{'txt': 'a', 'image_path': 'a.png'}", "write JSON with double quotes"),
        ("x.jsonl", '{"task": "t2i", "promt": "a", "image": "a.png"}', "field 'prompt' is missing"),
        ("x.jsonl", '{"file_nam": "a.png", "text": "a"}', "unknown fields"),
        ("x.csv", "words,image\na,a.png\n", "beside it; unknown fields ['words']"),
        (
            "x.csv",
            "text,image\n,a.png\n",
            "an image without words: give 'text' or 'caption' beside it",
        ),
        ("x.csv", "a red thing,a.png\n", "has one line, which must be its header"),
        ("x.jsonl", '{"text": "\\u001b[31m\\ud800", "image": "a.png"}', "half of a character"),
        ("x.jsonl", '{"text": "a", "image": "\\ud800\\u001b.png"}', r"\ud800\x1b.png"),
        ("x.txt", "a red thing", "read are JSON lines, a JSON array"),
        ("x.parquet", "not parquet", "not a readable parquet file"),
    ],
)
def test_inputs_of_which_nothing_can_be_used_say_why(name, text, reason, tmp_path):
    path = write(tmp_path, [text], name)
    with pytest.raises(SystemExit) as error:
        run(path)
    assert reason in str(error.value) and "every reason is in" in str(error.value)
    assert "1 x " in str(error.value) and len(str(error.value).splitlines()) == 1
    (entry,) = quarantine(tmp_path / "out")
    assert reason in entry["reason"] and not (tmp_path / "out" / "manifest.json").exists()


def test_first_reasons_come_with_counts_and_many_are_loud(tmp_path, capsys):
    good = {"txt": "a circle", "image_path": "a.png"}
    rows = [good] * 10 + [{**good, "txt": None}] * 5 + [{**good, "image_path": "no.png"}] * 2
    path = write(tmp_path, rows)
    output = run(path, "--sizes=world")
    printed = capsys.readouterr().out
    assert "WARNING: 41% of the input cannot be used: 7 records" in printed
    assert "5 x field 'txt' is None; give a text; 2 x image" in printed
    assert "the first rows are of the format 'unireason'" in printed
    assert len(quarantine(output)) == 7
    again = tmp_path / "again"
    with pytest.raises(SystemExit, match=r"41.2% of the records cannot be used: 5 x .*max_bad"):
        run(path, "--sizes=world", "--max_bad=0.2", output=again)
    assert not (again / "manifest.json").exists() and len(quarantine(again)) == 7
    run(path, "--sizes=world", "--max_bad=0.5", output=again)
    assert ArrayRecordSource(again).manifest["records"] == 10


def test_what_is_kept_and_set_aside_must_make_up_what_was_counted(tmp_path):
    for found in ([Kept(b"x", (1, 0, 0))], [Refused("a", "b", "c", 5)], []):
        folder = tmp_path / f"{len(found)}{found[:1]}"[:9]
        shards.begin(folder, {}, overwrite=True)
        with pytest.raises(ValueError, match="records were read where 3 were counted before"):
            shards.build(folder, [(0, 3)], lambda _, found=found: found, about="test")
        assert not list((folder / "unfinished").glob("[0-9]*"))
    lost = [Kept(b"x", (1, 0, 0)), Refused("a", "b", "c", 2)]
    shards.begin(tmp_path / "whole", {})
    shards.build(tmp_path / "whole", [(0, 3)], lambda _: lost, about="test")
    manifest = shards.finish(tmp_path / "whole", [3], {})
    assert (manifest["records"], manifest["quarantined"]) == (1, 2)
    assert quarantine(tmp_path / "whole")[0]["records"] == 2


def test_photographs_do_not_get_the_worlds_sizes_unless_asked_for(tmp_path):
    rows = [{"task": "t2i", "prompt": "a circle", "image": "a.png"}]
    path = write(tmp_path, rows)
    assert ArrayRecordSource(run(path)).manifest["sizes"] == "bagel"
    asked = run(path, "--sizes=world", output="asked")
    assert ArrayRecordSource(asked).manifest["sizes"] == "world"


def test_photographs_can_be_kept_upright(tmp_path, capsys):
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.random.default_rng(0).integers(0, 256, (32, 64, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", exif=exif)
    path = write(tmp_path, [{"text": "a", "image": "p.jpg"}, {"text": "a", "image": "a.png"}])
    (tmp_path / "p.jpg").write_bytes(file.getvalue())
    for upright, size in ((False, (64, 32)), (True, (32, 64))):
        output = run(path, f"--upright={upright}", "--sizes=world", output=f"{upright}")
        told = "1 records have pictures that EXIF turns; --upright keeps them turned"
        assert (told in capsys.readouterr().out) is not upright
        source = ArrayRecordSource(output)
        with Image.open(io.BytesIO(source[0].segments[1].image)) as image:
            assert image.size == size
        assert source[1].segments[1].image == (tmp_path / "a.png").read_bytes()
    assert source.lengths()[0, 2] == 4 * 8


def test_one_long_caption_is_named(tmp_path, capsys):
    rows = [{"id": f"r{n}", "text": "a red thing", "image": "a.png"} for n in range(30)]
    rows[3] = {**rows[3], "id": "the long one", "text": "thing " * 3000}
    run(write(tmp_path, rows), "--sizes=world")
    assert "is so long for record 'the long one' (3,00" in capsys.readouterr().out


def test_workers_work_by_the_command(tmp_path):
    path = write(tmp_path, [{"txt": "a circle", "image_path": "a.png"}] * 30)
    command = [sys.executable, "-m", "unireason_jax", "prepare", f"--input={path}"]
    command += [f"--output={tmp_path / 'out'}", "--workers=1", "--shard_records=20"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "30 records (30 t2i) in 2 shards" in done.stdout
