"""metrics.jsonl at a new start: rows of lost work go, and no kill can empty the file."""

import json

import pytest

from unireason_jax.storage import atomic
from unireason_jax.training import writers


def started(workdir, start):
    made = writers.Writers(workdir, start=start, total=9, tensorboard=False)
    made.close()


def rows(path):
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_rows_behind_the_step_and_torn_ones_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n[]\n{"step": 3}\n{"step": 4}')
    started(tmp_path, 2)
    assert rows(path) == [1, 2]
    started(tmp_path, 0)
    assert path.read_text() == ""


def test_a_kill_while_it_is_written_anew_keeps_every_row(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n')

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(atomic, "sync", killed)
    with pytest.raises(KeyboardInterrupt):
        started(tmp_path, 1)
    assert rows(path) == [1, 2]


def test_nothing_is_written_where_nothing_is_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n')
    before = path.stat()
    started(tmp_path, 1)
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
