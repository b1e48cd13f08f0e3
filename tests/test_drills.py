"""The drills at their smallest: a kill, a pair, a stop; and that they see what they look for."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from launch.drills import commands, drill

REPOSITORY = Path(__file__).resolve().parent.parent


def held(out, *kinds, **options):
    """Drills in their own process; returns what they found."""
    words = [sys.executable, "-m", "launch.drills", *kinds, "--out", str(out)]
    words += [f"--{name}={value}" for name, value in options.items()]
    ended = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return json.loads((out / "drill.json").read_text())["found"]


def test_a_killed_prepare_ends_with_the_same_bytes_and_of_two_one_works(tmp_path):
    killed, pair = held(tmp_path, "kills", "pairs", only="prepare", times=1, seed=1)
    assert killed["kill"] == "1" and pair["statuses"] == [0, 1]


@pytest.mark.slow
def test_other_commands_are_killed_and_doubled_too_and_a_training_is_stopped(tmp_path):
    names = ["encode", "convert", "generate", "train"]
    found = held(tmp_path, "kills", "pairs", "stops", only=",".join(names), times=1)
    assert [one["command"] for one in found] == [*names, *names, "train"]
    assert [one["statuses"] for one in found if "pair" in one] == [[0, 1]] * 4
    assert found[-1]["slow"] and found[-1]["status"] == 0


@pytest.mark.drill
def test_a_training_with_a_slow_and_a_quick_loader_is_stopped(tmp_path):
    found = held(tmp_path, "stops", times=2)
    assert [stop["slow"] for stop in found] == [True, False]


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
