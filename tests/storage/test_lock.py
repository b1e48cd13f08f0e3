"""One command in a folder: the second is refused, a dead one's lock is taken over."""

import contextlib
import json
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from unireason_jax.storage import lock

HOLDER = """
import sys, time
from unireason_jax.storage import lock
try:
    with lock.hold(sys.argv[1], "unireason train"):
        print("held", flush=True)
        time.sleep(float(sys.argv[2]))
except lock.FolderBusy as error:
    print(error, flush=True)
"""


@contextlib.contextmanager
def holder(folder, seconds=60):
    command = [sys.executable, "-c", HOLDER, str(folder), str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def is_held(folder):
    return (folder / lock.FILE).exists()


def elsewhere(folder, beat=0, token="other"):
    """The lock of a process on another machine."""
    folder.mkdir(exist_ok=True)
    names = {"command": "unireason prepare", "pid": 4, "host": "far", "since": "today"}
    text = json.dumps(names | {"machine": "another", "token": token, "beat": beat})
    (folder / lock.FILE).write_text(text)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 0.05)
    monkeypatch.setattr(lock, "PATIENCE", 0.5)


def test_the_second_is_told_who_is_there(tmp_path):
    with holder(tmp_path) as first:
        assert first.stdout.readline() == "held\n"
        with pytest.raises(lock.FolderBusy) as refused, lock.hold(tmp_path, "unireason train"):
            pass
        message = str(refused.value)
        assert f"'unireason train' (process {first.pid} on " in message
        assert str(tmp_path) in message and "\n" not in message


def test_the_lock_of_a_dead_process_is_taken_over_at_once(tmp_path):
    with holder(tmp_path) as first:
        assert first.stdout.readline() == "held\n"
        first.kill()
        first.wait()
        assert is_held(tmp_path)
        began = time.monotonic()
        with lock.hold(tmp_path, "unireason train"):
            assert time.monotonic() - began < lock.PATIENCE
    assert not is_held(tmp_path)


def test_of_many_that_begin_together_one_works(tmp_path):
    with contextlib.ExitStack() as stack:
        told = [stack.enter_context(holder(tmp_path / "new")).stdout for _ in range(6)]
        lines = [stdout.readline() for stdout in told]
    assert lines.count("held\n") == 1
    assert sum("is in use by" in line for line in lines) == 5


def test_threads_of_one_process_refuse_each_other(tmp_path):
    with lock.hold(tmp_path, "one"), pytest.raises(lock.FolderBusy), lock.hold(tmp_path, "two"):
        pass
    with lock.hold(tmp_path, "three"):
        pass


def test_another_machine_that_lives_keeps_its_folder(tmp_path):
    elsewhere(tmp_path)
    threading.Timer(0.2, elsewhere, (tmp_path, 1)).start()
    with pytest.raises(lock.FolderBusy, match="process 4 on far"), lock.hold(tmp_path, "mine"):
        pass
    assert json.loads((tmp_path / lock.FILE).read_text())["host"] == "far"


def test_another_machine_that_stands_still_is_dead(tmp_path, capsys):
    elsewhere(tmp_path)
    with lock.hold(tmp_path, "mine"):
        assert json.loads((tmp_path / lock.FILE).read_text())["command"] == "mine"
    assert "process 4 on far" in capsys.readouterr().err
    assert not is_held(tmp_path)


def test_another_machine_that_ends_gives_way(tmp_path):
    elsewhere(tmp_path)
    threading.Timer(0.1, (tmp_path / lock.FILE).unlink).start()
    with lock.hold(tmp_path, "mine"):
        time.sleep(0.2)
        with pytest.raises(lock.FolderBusy), lock.hold(tmp_path, "other"):
            pass


def test_the_beat_moves(tmp_path):
    with lock.hold(tmp_path, "mine"):
        first = json.loads((tmp_path / lock.FILE).read_text())["beat"]
        time.sleep(0.3)
        assert json.loads((tmp_path / lock.FILE).read_text())["beat"] > first


def test_a_holder_that_was_taken_over_ends(tmp_path):
    script = HOLDER.replace("import lock", "import lock; lock.BEAT = 0.05")
    command = [sys.executable, "-c", script, str(tmp_path), "60"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as first:
        assert first.stdout.readline() == "held\n"
        elsewhere(tmp_path)
        assert first.wait(10) == 1
        assert "was taken over by 'unireason prepare' (process 4 on far" in first.stderr.read()


def test_nothing_is_left_of_a_folder_that_nothing_came_into(tmp_path):
    with lock.hold(tmp_path / "new", "mine"):
        pass
    assert not (tmp_path / "new").exists()
    with lock.hold(tmp_path / "kept", "mine"):
        (tmp_path / "kept" / "result").touch()
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["result"]


def test_a_function_is_alone_in_the_folder_that_an_argument_names(tmp_path):
    @lock.alone("unireason evaluate", folder="arguments.out")
    def run(number, arguments):
        if number:
            return run(number - 1, arguments)
        return is_held(tmp_path)

    assert run(0, SimpleNamespace(out=tmp_path))
    assert not run(3, arguments=SimpleNamespace(out=None))
    with pytest.raises(lock.FolderBusy, match="'unireason evaluate'"):
        run(1, SimpleNamespace(out=tmp_path))
