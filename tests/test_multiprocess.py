"""Training in several processes: stopping together, other numbers of processes, kills."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from launch import member
from launch.kill_drill import Drill
from launch.local import LocalJob
from unireason_jax.training import checkpoint

pytestmark = pytest.mark.slow
REPOSITORY = Path(__file__).resolve().parent.parent
STEPS, SAVE, EVAL = 14, 6, 5
FLAGS = {
    "config": "configs/tiny.py",
    "config.train.steps": STEPS,
    "config.train.save_every": SAVE,
    "config.train.log_every": 1,
    "config.train.tensorboard": "false",
    "config.eval.every": EVAL,
    "config.eval.examples": 24,
    "config.eval.batches": 1,
    "config.data.examples": 48,
    "config.optim.eps": 1e-3,
    "config.optim.spike_factor": 1.0,  # skips about every other update
    "config.optim.spike_window": 4,
}


class Job:
    """A training job on joined processes, and what each of them prints."""

    def __init__(self, workdir, cache, *, processes, devices=1, pace=0.0, **changes):
        self.output = [""] * processes
        flags = FLAGS | {"workdir": workdir} | changes
        self.job = LocalJob(
            [sys.executable, "-m", "launch.member", str(workdir / "ledger")]
            + [f"--{key}={value}" for key, value in flags.items()],
            processes=processes,
            devices=devices,
            environment={
                "JAX_COMPILATION_CACHE_DIR": str(cache),
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
                "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
                "PACE": str(pace),
            },
            sink=self._note,
            directory=REPOSITORY,
        )

    def _note(self, number, line):
        self.output[number] += line

    def finish(self):
        statuses = self.job.wait(timeout=1500)
        assert not any(statuses), "\n".join(self.output)
        return self.output


def rows_of(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("compiled")


def test_two_processes_stop_together_and_four_go_on_like_one(cache, tmp_path):
    alone, pod = tmp_path / "alone", tmp_path / "pod"
    Job(alone, cache, processes=1, devices=2).finish()

    first = Job(pod, cache, processes=2, pace=0.5)
    deadline = time.monotonic() + 1000
    while not (pod / "metrics.jsonl").exists() or len(rows_of(pod)) < 2:
        assert time.monotonic() < deadline and first.job.members[0].poll() is None, first.output
        time.sleep(0.02)
    first.job.send(signal.SIGTERM, 1)
    output = first.finish()
    stopped = checkpoint.steps(pod)[-1]
    assert 2 <= stopped < STEPS
    assert "2 process(es) | mesh data=1, fsdp=2" in output[0]
    assert f"stopped by SIGTERM, saved at step {stopped}" in output[0]
    assert checkpoint.faults(pod / "checkpoints" / str(stopped)) == []
    writers = {p.name for p in (pod / "checkpoints" / str(stopped)).rglob("ocdbt.process_*")}
    assert {"ocdbt.process_0", "ocdbt.process_1"} <= writers  # every host writes its own shards

    output = Job(pod, cache, processes=4).finish()
    assert f"own checkpoint of step {stopped}; step {stopped} to {STEPS}" in output[0]
    assert "4 process(es)" in output[0]
    assert member.history(pod / "ledger") == member.history(alone / "ledger")
    skipped = 0
    for got, want in zip(rows_of(pod), rows_of(alone), strict=True):
        assert got["step"] == want["step"] and ("eval/loss" in got) == ("eval/loss" in want)
        for name in ("loss", "loss/ce", "loss/flow", "grad_norm", "eval/loss", "skipped"):
            if name in want:
                np.testing.assert_allclose(got[name], want[name], rtol=1e-3, err_msg=name)
        skipped = max(skipped, want.get("skipped", 0))
    assert skipped > 0  # the guard decided, and decided alike
    assert got["step"] == STEPS and "eval/loss" in got


def test_a_row_that_spans_two_processes_trains_as_in_one(cache, tmp_path):
    """Two hosts of two devices, all of which share every row, as chips of a v5e host do."""
    layout = {"config.mesh.fsdp": 1, "config.mesh.context": 4, "config.train.steps": 4}
    layout |= {"config.eval.every": 0, "config.train.save_every": 0}
    alone, pod = tmp_path / "alone", tmp_path / "pod"
    Job(alone, cache, processes=1, devices=4, **layout).finish()
    Job(pod, cache, processes=2, devices=2, **layout).finish()
    one, two = rows_of(alone), rows_of(pod)
    assert len(one) == len(two) == 4
    for got, want in zip(two, one):
        for name in ("loss", "loss/ce", "loss/flow", "grad_norm"):
            np.testing.assert_allclose(got[name], want[name], rtol=1e-5, err_msg=name)
    seen = [[entry["rows"] for entry in lines] for lines in member.read(pod / "ledger")]
    (all_rows,) = [[entry["rows"] for entry in lines] for lines in member.read(alone / "ledger")]
    assert seen[0] == seen[1] == all_rows  # both hosts feed every row


def test_a_drill_of_three_kills_finds_nothing_lost(tmp_path):
    out = tmp_path / "drill"
    options = {"kills": 3, "steps": 14, "save-every": 2, "reach": 3, "startup": 10, "out": out}
    done = subprocess.run(
        [sys.executable, "launch/kill_drill.py", *(f"--{k}={v}" for k, v in options.items())],
        cwd=REPOSITORY,
        env=os.environ | {"XLA_FLAGS": "", "PACE": "0.2"},
        capture_output=True,
        text=True,
        timeout=2400,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    findings = json.loads((out / "drill.json").read_text())
    assert len(findings["kills"]) == 3 and findings["failed"] == []
    # The drill sees what it is there to see: another row in the ledger of one process.
    ledger = out / "killed" / "ledger" / "1.jsonl"
    *lines, last = ledger.read_text().splitlines()
    other = json.loads(last) | {"rows": [0, 0]}
    ledger.write_text("\n".join([*lines, json.dumps(other)]))
    drill = Drill(out, SimpleNamespace(seed=0, bucket=False))
    drill.compare()
    assert drill.failed == [f"other rows at positions [{other['position']}]"]
