"""Paths, logs, locks and arrays in a bucket, over the real protocol."""

import contextlib
import json
import os
import pickle
import subprocess
import sys
import time

import numpy as np
import pytest

from unireason_jax.storage import arrays, atomic, lines, lock, paths
from unireason_jax.storage.journal import Journal
from unireason_jax.storage.mirror import Mirror

HOLDER = """
import sys
from unireason_jax.storage import lock
lock._Bucket.settles = 0.1
with lock.hold(sys.argv[1], "unireason train"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_path_behaves_as_one_of_a_file_system(place, tmp_path):
    for folder in (paths.of(place), paths.of(str(tmp_path))):
        file = folder / "a" / "b.txt"
        assert not file.exists() and not file.is_file() and not (folder / "a").is_dir()
        file.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_text(file, "ä\n")
        assert file.read_text() == file.read_text("utf-8") == file.open().read() == "ä\n"
        assert file.is_file() and not file.is_dir() and file.parent.is_dir()
        assert (file.stat().st_size, file.suffix, file.stem) == (3, ".txt", "b")
        assert [path.name for path in folder.rglob("*.txt")] == ["b.txt"]
        assert [path.name for path in folder.iterdir()] == ["a"]
        assert list(folder.glob("a/*.txt")) == [file] == [pickle.loads(pickle.dumps(file))]
        with file.open("w", encoding="utf-8") as stream:
            stream.write("new")
        assert file.read_bytes() == b"new"
        with pytest.raises(FileNotFoundError):
            (folder / "none").read_bytes()
        with pytest.raises(FileNotFoundError):
            (folder / "none").open("rb")
        file.unlink()
        file.unlink(missing_ok=True)
        paths.remove_tree(folder / "a")
        assert not (folder / "a").exists()


def test_a_text_that_names_no_bucket_is_refused_in_one_line(monkeypatch):
    with pytest.raises(ValueError, match=r"^https://x/y: addresses of this kind are not read"):
        paths.of("https://x/y")
    monkeypatch.setattr(paths.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"^gs://b/x: gs:// needs the package gcsfs; .*'gcs'"):
        paths.of("gs://b/x")


def test_what_is_replaced_is_whole_or_not_there(place):
    file = paths.of(place) / "array.npy"
    with atomic.replacing(file) as part:
        np.save(part, np.arange(5))
    assert arrays.read(file).tolist() == [0, 1, 2, 3, 4]
    with contextlib.suppress(KeyError), atomic.replacing(file) as part:
        np.save(part, np.zeros(2))
        raise KeyError
    assert arrays.read(file).tolist() == [0, 1, 2, 3, 4]
    file.write_bytes(b"junk")
    with pytest.raises(ValueError, match=f"{place}/array.npy: damaged"):
        arrays.read(file)


def test_a_log_is_parts_by_start_and_joined_when_read(place, monkeypatch):
    log = f"{place}/metrics.jsonl"
    assert list(lines.read(log)) == []
    lines.append(log, "one\n")
    lines.append(log, "two\n")
    lines._parts.clear()  # another process
    lines.append(log, "three\n")
    monkeypatch.setattr(lines, "LARGEST", 8)
    lines.append(log, "four\n")
    lines.append(log, "five\n")
    assert list(lines.read(log)) == ["one", "two", "three", "four", "five"]
    parts = sorted(path.name for path in paths.of(place).rglob("*"))
    assert parts == ["00001.jsonl", "00002.jsonl", "00003.jsonl"]
    lines.remove(log)
    assert list(lines.read(log)) == []


def test_a_log_that_was_copied_from_a_bucket_goes_on(place, tmp_path):
    lines.append(f"{place}/log.jsonl", "one\n")
    paths.copy_tree(place, tmp_path)
    lines.append(tmp_path / "log.jsonl", "two\n")
    assert list(lines.read(tmp_path / "log.jsonl")) == ["one", "two"]
    paths.copy_tree(tmp_path, f"{place}-back")
    lines.append(f"{place}-back/log.jsonl", "three\n")
    assert list(lines.read(f"{place}-back/log.jsonl")) == ["one", "two", "three"]


def test_a_journal_goes_on_and_refuses_other_settings(place):
    path = f"{place}/journal.jsonl"
    Journal(path, {"a": 1}).add([{"key": "x", "value": 1}])
    Journal(path, {"a": 1}).add([{"key": "y", "value": 2}])
    assert {key: row["value"] for key, row in Journal(path, {"a": 1}).rows.items()} == {
        "x": 1,
        "y": 2,
    }
    with pytest.raises(ValueError, match="belongs to"):
        Journal(path, {"a": 2})


def test_a_folder_that_a_library_fills_is_copied(place):
    mirror = Mirror(paths.of(place) / "events")
    (mirror.local / "deep").mkdir()
    (mirror.local / "deep" / "file").write_text("one")
    mirror.update()
    assert not (paths.of(place) / "events").exists()  # not so soon
    mirror.close()
    assert (paths.of(place) / "events" / "deep" / "file").read_text() == "one"


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 0.1)
    monkeypatch.setattr(lock, "PATIENCE", 2.0)
    monkeypatch.setattr(lock._Bucket, "settles", 0.1)


def test_one_command_at_a_time_and_a_dead_one_makes_way(place, bucket_server, quick):
    command = [sys.executable, "-c", HOLDER, place]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | bucket_server
    ) as first:
        assert first.stdout.readline() == b"held\n"
        monitor = paths.of(place) / lock.FILE
        assert json.loads(monitor.read_text())["pid"] == first.pid
        first.kill()
        first.wait()
        with lock.hold(place, "mine"), pytest.raises(lock.FolderBusy), lock.hold(place, "second"):
            pass
    assert not monitor.exists()


def test_the_dead_of_another_machine_is_waited_for(place, quick, capsys):
    names = {"command": "unireason prepare", "pid": 4, "host": "far", "since": "today"}
    text = json.dumps(names | {"machine": "another", "token": "other", "beat": 0})
    (paths.of(place) / lock.FILE).write_text(text)
    with lock.hold(place, "mine"):
        assert json.loads((paths.of(place) / lock.FILE).read_text())["command"] == "mine"
    assert "process 4 on far" in capsys.readouterr().err


def test_a_bucket_that_is_not_there_is_one_line(bucket_server, quick):
    told = r"^gs://no-such-bucket/run cannot be written \(.*\); is there such a bucket, and may"
    with pytest.raises(FileNotFoundError, match=told), lock.hold("gs://no-such-bucket/run", "mine"):
        pass


def test_a_bucket_that_does_not_answer_for_a_while_costs_no_lock(place, quick, monkeypatch):
    class HttpError(Exception):
        """As of gcsfs: not an OSError."""

    plain, calls = lock._Bucket.write, []

    def write(self, holder):
        calls.append(holder["beat"])
        if len(calls) in (2, 3):
            raise HttpError("503")
        plain(self, holder)

    monkeypatch.setattr(lock._Bucket, "write", write)
    with lock.hold(place, "mine"):
        time.sleep(1.0)
        assert json.loads((paths.of(place) / lock.FILE).read_text())["beat"] >= 3
