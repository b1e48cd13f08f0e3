"""A run that is killed or asked to stop, and started again, ends as if nothing had happened."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from unireason_jax.training import checkpoint

STEPS, SAVE, LOG = 40, 8, 3
REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """Starts a training process of 40 tiny steps in a workdir."""
    env = os.environ | {
        "XLA_FLAGS": "",
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("compiled")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }

    def start(workdir):
        arguments = [
            *("--config=configs/tiny.py", f"--workdir={workdir}"),
            *(f"--config.train.steps={STEPS}", f"--config.train.save_every={SAVE}"),
            *(f"--config.train.log_every={LOG}", "--config.eval.every=0"),
            *("--config.train.tensorboard=false", "--config.data.examples=64"),
        ]
        return subprocess.Popen(
            [sys.executable, "-m", "unireason_jax.train", *arguments],
            cwd=REPOSITORY,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return start


def finish(process):
    output = process.communicate(timeout=600)[0]
    assert process.returncode == 0, output
    return output


def losses(workdir):
    """Rows of metrics.jsonl without what depends on the clock or the machine."""
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    timed = ("speed/", "time/", "memory/", "goodput/")
    return [{k: v for k, v in row.items() if not k.startswith(timed)} for row in rows]


def stop_after(process, workdir, step, how):
    """Sends a signal once a metrics row of at least this step is written."""
    deadline = time.monotonic() + 500
    path = workdir / "metrics.jsonl"
    while time.monotonic() < deadline and process.poll() is None:
        if path.exists() and any(f'"step": {n},' in path.read_text() for n in range(step, STEPS)):
            process.send_signal(how)
            return
        time.sleep(0.005)
    raise AssertionError(f"step {step} was not reached: {process.communicate()[0]}")


def equal_states(one, two):
    for which in ("params", "ema"):
        first, second = (checkpoint.load_params(w, which=which) for w in (one, two))
        flat = [checkpoint.flatten(tree) for tree in (first, second)]
        assert flat[0].keys() == flat[1].keys()
        for name in flat[0]:
            np.testing.assert_array_equal(flat[0][name], flat[1][name], err_msg=name)


@pytest.fixture(scope="module")
def unbroken(command, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("unbroken")
    finish(command(workdir))
    return workdir


def test_killed_and_restarted_equals_unbroken_bit_for_bit(command, unbroken, tmp_path):
    process = command(tmp_path)
    stop_after(process, tmp_path, 18, signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert checkpoint.steps(tmp_path)[-1] < STEPS
    output = finish(command(tmp_path))
    assert "parameters from own checkpoint of step" in output
    assert losses(tmp_path) == losses(unbroken)
    equal_states(tmp_path, unbroken)


def test_sigterm_saves_and_leaves_with_status_0(command, unbroken, tmp_path):
    process = command(tmp_path)
    stop_after(process, tmp_path, 9, signal.SIGTERM)
    output = finish(process)
    assert "stopped by SIGTERM, saved at step" in output
    stopped = checkpoint.steps(tmp_path)[-1]
    assert 9 <= stopped < STEPS and checkpoint.faults(tmp_path / f"checkpoints/{stopped}") == []
    assert f"own checkpoint of step {stopped}" in finish(command(tmp_path))
    assert losses(tmp_path) == losses(unbroken)
    equal_states(tmp_path, unbroken)


def test_a_finished_run_started_again_changes_nothing(command, unbroken):
    before = losses(unbroken)
    output = finish(command(unbroken))
    assert f"finished at step {STEPS}" in output
    assert losses(unbroken) == before
