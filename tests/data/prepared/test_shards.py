"""Shards are the same whatever happens while they are made: workers, kill -9, other settings."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from unireason_jax import prepare
from unireason_jax.data.prepared import shards
from unireason_jax.data.prepared.shards import Kept, Refused

ROWS = 1500
_WORLD = ("--sizes=world", "--style=plain")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Rows of which every seventh is broken, in two files, and their images."""
    folder = tmp_path_factory.mktemp("rows")
    rng = np.random.default_rng(0)
    for number in range(4):
        pixels = rng.integers(0, 256, (32, 32, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    rows = [
        {"id": f"r{i}", "txt": f"circle {i % 90}", "image_path": f"{i % 4 if i % 7 else 9}.png"}
        for i in range(ROWS)
    ]
    (folder / "a.jsonl").write_text("\n".join(map(json.dumps, rows[:1000])))
    (folder / "b.json").write_text(json.dumps(rows[1000:]))
    return folder


def arguments(folder, output, *more):
    inputs = f"--input={folder / 'a.jsonl'},{folder / 'b.json'}"
    return ["prepare", inputs, f"--output={output}", "--shard_records=100", *_WORLD, *more]


def contents(output):
    """Hash of every file of a folder."""
    return {
        str(path.relative_to(output)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in output.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    output = tmp_path_factory.mktemp("out") / "whole"
    prepare.main(arguments(folder, output))
    return contents(output)


def test_the_manifest_describes_every_shard(folder, tmp_path):
    prepare.main(arguments(folder, tmp_path, "--licence=CC0"))
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["records"] == sum(shard["records"] for shard in manifest["shards"]) == 1285
    assert manifest["quarantined"] == 215 and manifest["counts"]["licence CC0"] == 1285
    for shard in manifest["shards"]:
        data = (tmp_path / shard["file"]).read_bytes()
        assert shard["sha256"] == hashlib.sha256(data).hexdigest() and shard["bytes"] == len(data)
    table = np.load(tmp_path / "lengths.npy")
    assert manifest["statistics"]["text"]["mean"] == pytest.approx(table[:, 0].mean())
    assert manifest["statistics"]["latent"]["max"] == table[:, 2].max() == 16
    names = {path.name for path in tmp_path.iterdir()}
    assert not any("part" in name or "unfinished" in name for name in names)


def test_the_report_advises_budgets(folder, tmp_path, capsys):
    prepare.main(arguments(folder, tmp_path, "--row_tokens=300"))
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "advice" in line]
    assert "row of 3" in line or "row of 2" in line
    assert "und:gen" in line and "text" in line and "fill" in line


def test_workers_do_not_change_a_byte(folder, whole, tmp_path):
    prepare.main(arguments(folder, tmp_path / "out", "--workers=2"))
    assert contents(tmp_path / "out") == whole


def test_killed_and_started_again_the_shards_are_the_same(folder, whole, tmp_path):
    output = tmp_path / "out"
    command = [sys.executable, "-m", "unireason_jax.prepare", *arguments(folder, output)[1:]]
    run = subprocess.Popen([*command, "--workers=1"], stderr=subprocess.DEVNULL)
    while not (output / "unfinished" / "00002.json").exists():
        assert run.poll() is None, "ended before it could be killed"
        time.sleep(0.005)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    assert not (output / "manifest.json").exists()
    done = {path: path.stat().st_mtime_ns for path in output.glob("records-0000[0-2].array_record")}
    with pytest.raises(SystemExit, match="interrupted run with other inputs or settings"):
        prepare.main(arguments(folder, output, "--style=unireason"))
    prepare.main(arguments(folder, output))
    assert contents(output) == whole
    assert len(done) == 3 and all(path.stat().st_mtime_ns == when for path, when in done.items())


def test_an_interrupted_folder_can_be_started_anew(tmp_path):
    def stops(task):
        yield Kept(b"x" * task, (1, 0, 0))
        if task == 3:
            raise KeyboardInterrupt

    request, tasks = {"n": 1}, [(2, 1), (3, 1)]
    assert not shards.begin(tmp_path, request)
    with pytest.raises(KeyboardInterrupt):
        shards.build(tmp_path, tasks, stops, about="test")
    assert shards.begin(tmp_path, request)
    with pytest.raises(FileExistsError, match="give --overwrite to start anew"):
        shards.begin(tmp_path, {"n": 2})
    assert not shards.begin(tmp_path, {"n": 2}, overwrite=True)
    assert not list(tmp_path.glob("records-*"))


def test_shards_without_a_record_are_left_out(tmp_path):
    shards.begin(tmp_path, {})
    tasks = [(number, 1) for number in range(3)]

    def job(task):
        yield Refused("file", f"{task}: x", "no") if task != 1 else Kept(b"data", (1, 2, 3), ("a",))

    shards.build(tmp_path, tasks, job, about="test")
    manifest = shards.finish(tmp_path, [rows for _, rows in tasks], {})
    assert [shard["file"] for shard in manifest["shards"]] == ["records-00001.array_record"]
    assert manifest["quarantined"] == 2 and manifest["tokens"] == {"text": 1, "vit": 2, "latent": 3}


def _dies(task):
    os._exit(9)


def test_a_worker_that_dies_is_an_error_with_a_remedy(tmp_path):
    shards.begin(tmp_path, {})
    with pytest.raises(RuntimeError, match="run the same command again"):
        shards.build(tmp_path, [(0, 1)], _dies, workers=1, about="test")


def made(folder, numbers=range(3)):
    """A folder whose shards are made but not finished."""
    assert not shards.begin(folder, {"n": 1})
    tasks = [(number, 1) for number in numbers]
    shards.build(folder, tasks, lambda task: [Kept(b"x" * 9, (1, 0, 0))], about="test")
    return tasks


@pytest.mark.parametrize(
    "damage, told",
    [
        (lambda f: (f / "records-00001.array_record").unlink(), "records-00001.array_record is"),
        (lambda f: (f / "unfinished" / "00002.json").unlink(), "the note of shard 2 is missing"),
        (lambda f: (f / "records-00007.array_record").write_bytes(b"x"), "00007.* was not planned"),
        (lambda f: os.truncate(f / "records-00000.array_record", 5), "has 5 bytes instead of"),
    ],
)
def test_what_is_there_is_compared_with_what_was_planned(tmp_path, damage, told):
    tasks = made(tmp_path)
    damage(tmp_path)
    with pytest.raises(RuntimeError, match=told):
        shards.finish(tmp_path, [rows for _, rows in tasks], {})
    assert not (tmp_path / "manifest.json").exists()


def test_a_run_killed_behind_its_manifest_goes_on_and_leaves_nothing(tmp_path, monkeypatch):
    tasks = made(tmp_path)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shards, "_end", killed)
        shards.finish(tmp_path, [rows for _, rows in tasks], {})
    (tmp_path / ".records-00001.part.array_record").write_bytes(b"half")
    assert shards.begin(tmp_path, {"n": 1})
    shards.finish(tmp_path, [rows for _, rows in tasks], {})
    names = ["lengths.npy", "manifest.json", "quarantine.jsonl"]
    assert sorted(p.name for p in tmp_path.glob("[!r]*")) == names
    with pytest.raises(FileExistsError, match="already holds"):
        shards.begin(tmp_path, {"n": 1})
