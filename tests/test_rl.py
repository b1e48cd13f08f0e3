"""`unireason rl` from an untrained dwarf: it ends where it would without being killed."""

import dataclasses
import json
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

from launch.local import LocalJob
from tests import untrained
from unireason_jax import rl
from unireason_jax.reinforcement import initial_state, settings
from unireason_jax.run import configuration
from unireason_jax.run.configuration import ConfigError
from unireason_jax.run.initial_state import starting_state
from unireason_jax.training import checkpoint
from unireason_jax.training.checkpoint_fallback import SAVING
from unireason_jax.training.optim import flatten

CHANGES = {
    "rl.prompts": 2,
    "rl.group": 2,
    "rl.rounds": 1,
    "rl.max_text": 6,
    "rl.timesteps": 4,
    "rl.within": 3,
    "rl.rows": 2,
    "rl.budgets": {"text": 160, "vit": 40, "latent": 120},
    "rl.updates": 2,
    "rl.text.kl": 0.1,
    "optim.lr": 1e-3,
    "train.save_every": 1,
    "train.keep": 4,
    "train.tensorboard": False,
}


@pytest.fixture(autouse=True)
def _devices(monkeypatch, request):
    """One, or as many as a test says, of the eight that tests have: few rows do."""
    real, count = initial_state.run_of, getattr(request, "param", 1)

    def run_of(*arguments):
        return dataclasses.replace(real(*arguments), devices=tuple(jax.devices()[:count]))

    monkeypatch.setattr(initial_state, "run_of", run_of)


@pytest.fixture(scope="module")
def began_with(tmp_path_factory):
    return untrained.write(tmp_path_factory.mktemp("start"))


def config(folder, **changes):
    found = configuration.load("configs/rl_reflect.py", {**CHANGES, **changes})
    found.init_from = str(folder)
    return found


def weights(folder):
    return flatten(checkpoint.load_params(folder, which="params"))


@pytest.mark.slow
@pytest.mark.usefixtures("quick_compile")
def test_killed_and_started_again_it_ends_in_the_same_bits(began_with, tmp_path, monkeypatch):
    options = {"train.steps": 2}
    rl.reinforce(config(began_with, **options), tmp_path / "whole")
    real = rl.Loop.step

    def dies(self, state, number):
        if number == 1:
            raise KeyboardInterrupt
        return real(self, state, number)

    monkeypatch.setattr(rl.Loop, "step", dies)
    with pytest.raises(KeyboardInterrupt):
        rl.reinforce(config(began_with, **options), tmp_path / "killed")
    monkeypatch.setattr(rl.Loop, "step", real)
    rl.reinforce(config(began_with, **options), tmp_path / "killed")
    whole, killed = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    began = weights(began_with)
    for name in whole:
        np.testing.assert_array_equal(whole[name], killed[name])
    assert any(not np.array_equal(whole[name], began[name]) for name in whole)
    rows = rows_of(tmp_path / "killed")
    assert [row["step"] for row in rows] == [1, 2]
    wanted = {"reward", "kl/text", "kl/velocity", "entropy", "ratio/text", "length/text"}
    assert wanted <= set(rows[0]) and rows[0]["mismatch/text"] < 1e-4
    held = weights(tmp_path / "killed/reference")
    for name in held:
        np.testing.assert_array_equal(held[name], began[name])


def test_a_reference_whose_saving_was_killed_is_saved_again(began_with, tmp_path):
    made = config(began_with)
    policy = settings.policy(made)
    run = initial_state.run_of(made, policy, tmp_path).settled()
    with jax.set_mesh(run.mesh), checkpoint.Checkpoints(tmp_path) as checkpoints:
        state, *_ = starting_state(run, checkpoints)
        wanted = initial_state.reference_of(run, policy, state, tmp_path)
        (tmp_path / "reference" / "checkpoints" / "0" / "manifest.json").unlink()
        (tmp_path / "reference" / SAVING).write_text("0")
        found = initial_state.reference_of(run, policy, state, tmp_path)
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


# Prompts whose siblings are divided, drafts that are drawn, rows of trajectories of both processes.
SHARED = {"rl.prompts": 3, "train.steps": 2, "optim.eps": 1e-3, "train.hash_checkpoints": False}


@pytest.mark.slow
@pytest.mark.usefixtures("quick_compile")
@pytest.mark.parametrize("_devices", [2], indirect=True)
def test_two_processes_do_what_one_does_and_one_goes_on_for_them(began_with, tmp_path):
    alone, both, later = (tmp_path / name for name in ("alone", "both", "later"))
    rl.reinforce(config(began_with, **SHARED), alone)
    pod(began_with, both)
    shutil.copytree(both, later)
    shutil.rmtree(later / "checkpoints" / "4")  # as if they had been killed in the second iteration
    rl.reinforce(config(began_with, **SHARED), later)
    assert checkpoint.steps(later) == [2, 4]
    assert not list(both.glob("tra*.npz"))  # what they passed to each other
    wanted = rows_of(alone)
    assert len(wanted) == 2 and wanted[-1]["reward"] > 0
    for folder in (both, later):
        for row, same in zip(rows_of(folder), wanted, strict=True):
            assert row.keys() == same.keys()
            for name in row:
                if not name.startswith("time/"):
                    np.testing.assert_allclose(row[name], same[name], rtol=1e-3, atol=1e-5)
        began, found, ended = weights(began_with), weights(folder), weights(alone)
        moved = [np.abs(ended[name] - began[name]).max() for name in ended]
        apart = [np.abs(ended[name] - found[name]).max() for name in ended]
        assert max(moved) > 1e-4 and max(apart) < 0.01 * max(moved)


def pod(init_from, workdir):
    """Two processes of one device each; their output where they fail."""
    output = []
    changes = {**CHANGES, **SHARED}
    changes |= {f"rl.budgets.{name}": n for name, n in changes.pop("rl.budgets").items()}
    given = [f"--config.{name}={value}" for name, value in changes.items()]
    given += [f"--config.init_from={init_from}", f"--workdir={workdir}"]
    job = LocalJob(
        [sys.executable, "-m", "unireason_jax", "rl", "--config=configs/rl_reflect.py", *given],
        processes=2,
        devices=1,
        environment={"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
        sink=lambda number, line: output.append(f"[{number}] {line}"),
    )
    assert job.wait(timeout=1500) == [0, 0], "".join(output)


def rows_of(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("rl.group", 1, r"rl\.group is 1.*siblings"),
        ("rl.template", "refine", r"'refine'; use one of refine_t2i"),
        ("rl.noise", 0.0, r"rl\.noise is 0\.0.*stochastic"),
        ("rl.window", 9, r"window=9.*within"),
        ("rl.within", 30, r"within=30.*3 steps"),
        ("rl.scale", "variance", r"'variance'"),
        ("train.microbatches", 2, r"microbatches=2"),
        ("seed", -1, r"config\.seed is -1"),
    ],
)
def test_what_cannot_work_is_said(began_with, tmp_path, key, value, told):
    changes = {"rl.window": 2} if key != "rl.window" else {}
    with pytest.raises(ValueError, match=told):
        rl.reinforce(config(began_with, **{**changes, key: value}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("_devices", [4], indirect=True)
def test_rows_that_the_devices_cannot_divide_are_told_by_their_own_name(began_with, tmp_path):
    with pytest.raises(ConfigError, match=r"config\.rl\.rows=2 .*--config\.rl\.rows=4"):
        rl.reinforce(config(began_with), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_weights_have_to_be_named(tmp_path):
    with pytest.raises(ConfigError, match=r"init_from"):
        rl.reinforce(config(""), tmp_path / "run")


def test_a_wrong_flag_is_one_line():
    told = subprocess.run(
        [sys.executable, "-m", "unireason_jax", "rl", "--config=configs/rl_t2i.py", "--workdir=x",
         "--config.rl.grup=3"],
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert told.returncode == 1 and "rl.group" in told.stderr and "Traceback" not in told.stderr
