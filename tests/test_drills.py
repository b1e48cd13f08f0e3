"""The drills at their smallest: a kill, a pair, a stop; and that they see what they look for."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from launch.drills import commands, drill

REPOSITORY = Path(__file__).resolve().parent.parent


def held(out, kind, **options):
    """A drill in its own process; returns what it found."""
    words = [sys.executable, "-m", "launch.drills", kind, "--out", str(out)]
    words += [f"--{name}={value}" for name, value in options.items()]
    ended = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return json.loads((out / "drill.json").read_text())["found"]


def test_a_killed_prepare_ends_with_the_same_bytes(tmp_path):
    assert len(held(tmp_path, "kills", only="prepare", times=1, seed=1)) == 1


def test_of_two_prepares_one_works(tmp_path):
    (pair,) = held(tmp_path, "pairs", only="prepare", times=1)
    assert pair["statuses"] == [0, 1]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["encode", "convert", "generate", "train"])
def test_other_commands_are_killed_and_doubled_too(name, tmp_path):
    assert held(tmp_path / "kills", "kills", only=name, times=1)
    assert held(tmp_path / "pairs", "pairs", only=name, times=1)


@pytest.mark.slow
def test_a_training_is_stopped_quick_and_slow(tmp_path):
    found = held(tmp_path, "stops", times=2)
    assert [stop["slow"] for stop in found] == [False, True]


def test_a_difference_is_seen(tmp_path, monkeypatch):
    made = drill.Drill(tmp_path / "out")
    command = commands.COMMANDS["prepare"]
    monkeypatch.setattr(made, "peace", lambda _: {"a": "1", "b": "2"})
    for name in ("b", "trace.json"):
        (tmp_path / name).write_text('{"seconds": 3}')
    made.compare(command, tmp_path, "a test")
    assert made.failed == [f"a test: {tmp_path} differs in ['a', 'b', 'trace.json']"]
    assert made.end() == 1


def test_a_process_that_is_left_is_seen_and_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(drill, "GONE", 0.2)
    made = drill.Drill(tmp_path)
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as left:
        assert drill.alive(left.pid) == [left.pid]
        made.gone(left.pid, drill.memory(), "a test")
        assert left.wait(10) != 0
    assert made.failed == [f"a test: left are processes [{left.pid}]"]
