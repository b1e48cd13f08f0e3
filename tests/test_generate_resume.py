"""`unireason generate` after kill -9, and shared by two processes: the same files."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from tests import untrained

pytestmark = pytest.mark.slow
PROMPTS = [f"{count} {color} circles" for count in ("two", "three") for color in ("red", "blue")]


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """The command without --out, and its environment on one device."""
    workdir = untrained.write(tmp_path_factory.mktemp("run"))
    prompts = workdir / "prompts.txt"
    prompts.write_text("\n".join(PROMPTS))
    flags = ["--checkpoint", workdir, "--prompts", prompts, "--preset", "t2i", "--samples", "2"]
    flags += ["--timesteps", "3", "--batch", "2"]
    return [sys.executable, "-m", "unireason_jax.generate", *map(str, flags)]


def start(command, out, **environment):
    env = os.environ | {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"} | environment
    return subprocess.Popen(
        [*command, "--out", str(out)], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def finish(process):
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0, printed.decode()


def contents(out):
    """Every picture, and every trace but its timing."""
    found = {path.relative_to(out): path.read_bytes() for path in out.glob("*/*.png")}
    for path in out.glob("*/trace.json"):
        values = json.loads(path.read_text())
        del values["seconds"]
        found[path.relative_to(out)] = values
    return found


@pytest.fixture(scope="module")
def whole(command, tmp_path_factory):
    """What an unbroken run writes."""
    out = tmp_path_factory.mktemp("whole")
    finish(start(command, out))
    found = contents(out)
    assert len(found) == 8 * 3  # image, strip and trace of four prompts, two samples each
    return found


def test_kill_and_restart_gives_the_same_files(command, whole, tmp_path):
    process = start(command, tmp_path)
    deadline = time.monotonic() + 300
    while not list(tmp_path.glob("*/trace.json")) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    done = len(list(tmp_path.glob("*/trace.json")))
    assert 1 <= done < 8
    (half,) = sorted(tmp_path.glob("*/trace.json"))[-1:]
    half.with_name("00_half.png").write_bytes(b"cut short")
    half.unlink()
    finish(start(command, tmp_path))
    found = contents(tmp_path)
    del found[half.with_name("00_half.png").relative_to(tmp_path)]
    assert found == whole


def test_two_processes_share_the_prompts(command, whole, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    job = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"}
    processes = [start(command, tmp_path, **job, JAX_PROCESS_ID=str(n)) for n in range(2)]
    for process in processes:
        finish(process)
    assert contents(tmp_path) == whole
