"""Workers of the loader end with their parent, by nothing else, and leave no shared memory."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SHARED = Path("/dev/shm")
PARENT = """
import os, signal, sys
from tests.data.test_pipeline import ToySource, make

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: print("told", flush=True))
    pipeline = make({"toy": ToySource(400)}, workers=2, prefetch=2)
    print("born", flush=True)
    for number in range(200):
        held = next(pipeline)  # kept until the end, as a training does
        print(os.getpid(), flush=True)
        if number == 2 and sys.argv[1] == "wait":
            while sys.stdin.readline().strip() != "end":
                next(pipeline)
                print("more", flush=True)
            break
        if number == 2 and sys.argv[1] == "exit":
            os._exit(3)
    if sys.argv[2] == "close":
        pipeline.close()
"""


def descendants(group):
    """Processes of a process group, by /proc."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(words[2]) == group and words[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def all_gone(group, shared, seconds=60):
    """Waits until no process of a group is left, and no shared memory that was not there."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        left = descendants(group), set(SHARED.iterdir()) - shared
        if not any(left):
            return True
        time.sleep(0.1)
    return left


@pytest.fixture
def parent(tmp_path):
    started = []

    def start(text, *arguments):
        script = tmp_path / "parent.py"
        script.write_text(text)
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
        process = subprocess.Popen(
            [sys.executable, str(script), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(tmp_path / "stderr").open("w"),
            text=True,
            env=environment,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        for left in descendants(process.pid):
            os.kill(left, signal.SIGKILL)
        process.wait()


linux = pytest.mark.skipif(not SHARED.is_dir(), reason="looks into /proc and /dev/shm")


@linux
def test_a_signal_to_all_processes_is_heard_by_the_parent_alone(parent, tmp_path):
    before = set(SHARED.iterdir())
    process = parent(PARENT, "wait", "close")
    assert process.stdout.readline() == "born\n"
    os.killpg(process.pid, signal.SIGTERM)  # while the workers start
    lines = [process.stdout.readline() for _ in range(4)]
    assert "told\n" in lines
    for _ in range(6):  # more than the workers had made ahead
        os.killpg(process.pid, signal.SIGTERM)
        process.stdin.write("more\n")
        process.stdin.flush()
        while process.stdout.readline() != "more\n":
            pass
    process.stdin.write("end\n")
    process.stdin.flush()
    assert process.wait(30) == 0
    assert all_gone(process.pid, before) is True
    assert "leaked" not in (tmp_path / "stderr").read_text()


@linux
@pytest.mark.slow
@pytest.mark.parametrize("way", ["killed", "exit", "left open"])
def test_workers_end_with_their_parent(parent, way):
    before = set(SHARED.iterdir())
    process = parent(PARENT, "exit" if way == "exit" else "wait", "open")
    lines = [process.stdout.readline() for _ in range(4)]
    assert lines[-1] == f"{process.pid}\n"
    if way == "killed":
        process.kill()
    elif way == "left open":
        process.stdin.write("end\n")
        process.stdin.flush()
    assert process.wait(40) == {"killed": -signal.SIGKILL, "exit": 3, "left open": 0}[way]
    assert all_gone(process.pid, before) is True


MAKING = """
import os, time
from multiprocessing import get_context, shared_memory
from unireason_jax.data import worker_processes

def make():
    worker_processes.begin(0, 1)
    size = os.ftruncate
    def slow(file, length):  # the block exists and is not registered yet
        print("made", flush=True)
        time.sleep(2)
        size(file, length)
    os.ftruncate = slow
    shared_memory.SharedMemory(create=True, size=1000)
    time.sleep(60)

if __name__ == "__main__":
    child = get_context("spawn").Process(target=make)
    child.start()
    child.join()
"""


@linux
def test_a_block_that_is_being_made_when_the_parent_is_killed_is_not_left(parent):
    before = set(SHARED.iterdir())
    process = parent(MAKING)
    assert process.stdout.readline() == "made\n"
    process.kill()
    assert all_gone(process.pid, before) is True


BORN = """
import os, signal, subprocess, sys, threading
from multiprocessing import get_context
from unireason_jax.data import worker_processes

def blocked():
    print(sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())), flush=True)

if __name__ == "__main__":
    with worker_processes.born_deaf():
        child = get_context("spawn").Process(target=blocked)  # the first one of this process
        thread = threading.Thread(target=child.start)
        thread.start()
        thread.join()
    child.join()
    print(sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())), flush=True)
"""


def test_the_first_worker_of_a_process_is_born_deaf_too(tmp_path):
    (tmp_path / "born.py").write_text(BORN)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    said = subprocess.run(
        [sys.executable, tmp_path / "born.py"], capture_output=True, text=True, env=environment
    )
    unheard = str([signal.SIGINT, signal.SIGTERM])
    assert said.stdout.splitlines() == [unheard, "[]"], said.stderr
