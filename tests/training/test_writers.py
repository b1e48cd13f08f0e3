"""metrics.jsonl at a new start: rows of lost work go, and no kill can empty the file."""

import json
import re
import sys

import jax
import pytest

from unireason_jax.storage import atomic
from unireason_jax.training import google_cloud, writers


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


class Told:
    """A package of Google's that notes what it is told."""

    def __init__(self):
        self.calls = []
        self.goodput = self.metrics = self

    def __getattr__(self, name):
        return lambda *values, **named: self.calls.append((name, *values, named)) or self


@pytest.fixture
def google(monkeypatch):
    told = {name: Told() for name in google_cloud.PACKAGES.values()}
    for name, package in told.items():
        monkeypatch.setitem(sys.modules, name, package)
    return told


def test_google_cloud_is_told_of_a_job_its_steps_and_metrics(tmp_path, google):
    config = {"train": {"goodput_job": "job", "mldiagnostics": "study"}, "seed": 3}
    made = writers.Writers(tmp_path, start=4, total=9, tensorboard=False, config=config)
    made.advance()
    made.write(5, {"loss": 0.5})
    made.advance()
    made.close()
    assert google["ml_goodput_measurement"].calls == [
        ("GoodputRecorder", "job", "goodput_job", {"logging_enabled": True}),
        ("record_job_start_time", {}),
        *(("record_step_start_time", step, {}) for step in (4, 5, 6)),
        ("record_job_end_time", {}),
        ("flush", {}),
    ]
    assert google["google_cloud_mldiagnostics"].calls == [
        ("machinelearning_run", {"name": "study", "configs": config}),
        ("record_metrics", [{"metric_name": "loss", "value": 0.5}], {"step": 5}),
    ]
    # A workdir in a bucket is where profiles may be kept; an old config asks for nothing.
    google_cloud.Diagnostics("study", "gs://bucket/run", {})
    name, named = google["google_cloud_mldiagnostics"].calls[-1]
    assert name == "machinelearning_run" and named["gcs_path"] == "gs://bucket/run"
    assert google_cloud.reporters({"train": {"wandb": ""}}, tmp_path, 0) == []


def test_other_processes_only_say_that_they_are_there(tmp_path, google, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    config = {"train": {"goodput_job": "job", "mldiagnostics": "study"}}
    made = writers.Writers(tmp_path, start=0, total=9, config=config)
    made.write(1, {"loss": 0.5})
    made.close()
    (first, *_) = google["ml_goodput_measurement"].calls
    assert first[-1] == {"logging_enabled": False}
    (only,) = google["google_cloud_mldiagnostics"].calls
    assert only[0] == "machinelearning_run"


@pytest.mark.parametrize("key", google_cloud.PACKAGES)
def test_what_google_cloud_needs_is_told_in_one_line(tmp_path, google, monkeypatch, key):
    config = {"train": {"wandb": "", key: "name"}}

    def refuse(*_, **__):
        raise RuntimeError("Your default credentials were not found.\nSee https://...")

    for package in google.values():
        monkeypatch.setattr(package, "GoodputRecorder", refuse, raising=False)
        monkeypatch.setattr(package, "machinelearning_run", refuse, raising=False)
    reason = f"train.{key}: Google Cloud cannot be reached: Your default credentials were not"
    with pytest.raises(google_cloud.NotReported, match=re.escape(reason) + r" found\.$"):
        writers.Writers(tmp_path, start=0, total=9, tensorboard=False, config=config)
    monkeypatch.setitem(sys.modules, google_cloud.PACKAGES[key], None)
    with pytest.raises(ValueError, match=r"not installed: pip install 'unireason-jax\[google\]'"):
        writers.check(config["train"])
