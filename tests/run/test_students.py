"""Runs that learn from a teacher: what they settle, learn, keep, and are sampled with."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from unireason_jax import __main__ as door
from unireason_jax import train
from unireason_jax.inference import load, teachers
from unireason_jax.inference.settings import with_options
from unireason_jax.inference.systems import catalog
from unireason_jax.models import functional
from unireason_jax.run import configuration, init_from
from unireason_jax.run.configuration import ConfigError
from unireason_jax.run.run import Run
from unireason_jax.run.students import distillation_of
from unireason_jax.training import checkpoint
from unireason_jax.training.checkpoint import Checkpoints
from unireason_jax.training.optim import flatten
from unireason_jax.training.state import new_state

pytestmark = pytest.mark.usefixtures("quick_compile")
SMALL = {
    "data.rows": 2,
    "data.examples": 48,
    "data.window": 16,
    "data.dropout": (0.0, 0.0, 0.0),
    "train.steps": 4,
    "train.save_every": 2,
    "train.log_every": 1,
    "train.keep": 3,
    "train.tensorboard": False,
    "eval.every": 0,
    "mesh.data": 1,
    "distill.substeps": 2,
    "distill.steps": 3,
}


@pytest.fixture(scope="module")
def teacher(quick_compile, tmp_path_factory):
    """A run of one step whose head is not zero, so that pictures depend on their context."""
    folder = tmp_path_factory.mktemp("teacher")
    run = Run.of(configuration.load("configs/tiny.py"), jax.devices()[:1])
    run.save(folder)
    params = jax.jit(functional.init, static_argnums=0)(run.model, jax.random.key(0))
    kernel = params["latent_out"]["kernel"]
    params["latent_out"]["kernel"] = 0.3 * jax.random.normal(jax.random.key(1), kernel.shape)
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(1, new_state(params, run.optimizer), {"next_row": 0})
    return folder


def config_of(teacher, **overrides):
    changes = {key.replace("__", "."): value for key, value in overrides.items()}
    return configuration.load("configs/tiny.py", SMALL | {"init_from": str(teacher)} | changes)


def trained(config, workdir):
    told = [*init_from.settle(config, workdir), *teachers.settle(config, workdir)]
    run = Run.of(config, jax.devices()[:1]).settled()
    train.train(run, run.pipeline(workdir=workdir), train.epath.Path(workdir))
    return told


def rows_of(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def student(teacher, tmp_path_factory):
    """Workdir of four steps, and what was told at the start."""
    workdir = tmp_path_factory.mktemp("student")
    guided = {"distill__draw__text_scale": 2.0, "distill__edit__text_scale": 2.0}
    return workdir, trained(config_of(teacher, **guided), workdir)


def test_a_student_writes_down_what_it_learned_from(teacher, student):
    workdir, told = student
    assert told == [
        f"teacher: {teacher} at step 1, 2 of its steps in one; 3 steps at shift 1; scales of "
        "guidance: draw 2 1, edit 2 1"
    ]
    found = configuration.load_workdir(workdir).distill
    assert found.teacher_step == 1 and found.shift == 1.0 and found.edit.renorm == "none"
    assert [row["step"] for row in rows_of(workdir)] == [1, 2, 3, 4]
    assert all(0 < row["loss/flow"] < 10 for row in rows_of(workdir))


def test_a_student_draws_as_it_learned_whatever_preset_is_named(teacher, student):
    usual = load.usual_settings(Run.load(student[0]), student[0])
    assert usual.is_student and usual.flow.forwards(1) == 3 and usual.flow.scales == (1.0, 1.0)
    for name in ("refine_t2i", "refine_t2i:fast", "bagel_think_t2i", "unireason_refine"):
        made = catalog.find(name).settings(usual)
        assert made.flow == usual.flow and made.refine is None, name
        other = catalog.find(name).settings(dataclasses.replace(usual, is_student=False))
        assert (other.flow != made.flow) == (name != "refine_t2i"), name
    assert with_options(usual, {"timesteps": 9}).flow.timesteps == 9
    trace = load.load(student[0]).generate("a red circle", rounds=0, max_text=4)
    assert [step.forwards for step in trace.steps if step.kind == "image"] == [3]
    assert not load.usual_settings(Run.load(teacher), teacher).is_student


def test_a_student_goes_on_bit_for_bit_with_the_teacher_it_began_with(teacher, student, tmp_path):
    shutil.copytree(student[0], tmp_path / "half")
    shutil.rmtree(tmp_path / "half" / "checkpoints" / "4")
    shutil.copytree(teacher, tmp_path / "teacher")
    with Checkpoints(tmp_path / "teacher") as checkpoints:  # it has learned on meanwhile
        run = Run.of(configuration.load("configs/tiny.py"), jax.devices()[:1])
        params = jax.jit(functional.init, static_argnums=0)(run.model, jax.random.key(9))
        checkpoints.save(2, new_state(params, run.optimizer), {"next_row": 0})
    trained(config_of(tmp_path / "teacher"), tmp_path / "half")
    one, two = (flatten(checkpoint.load_params(w)) for w in (student[0], tmp_path / "half"))
    for name in one:
        np.testing.assert_array_equal(one[name], two[name], err_msg=name)


def test_adapters_learn_from_what_they_stand_beside(teacher, tmp_path):
    alone = {"distill__steps": 0, "distill__substeps": 1, "train__steps": 1, "lora__rank": 2}
    trained(config_of(teacher, **alone), tmp_path)
    assert rows_of(tmp_path)[0]["loss/flow"] < 1e-6
    usual = load.usual_settings(Run.load(tmp_path), tmp_path)
    assert usual.is_student and usual.flow.timesteps == load.WORLD_FLOW.timesteps


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"init_from": "scratch"}, "a student needs a teacher"),
        ({"init_from": ""}, "where do the weights come from"),
        ({"distill.steps": 0}, "several substeps need steps"),
        ({"distill.draw.renorm": "louder"}, "renorm is 'louder'; use one of none"),
        ({"distill.edit.text_free": "last_input", "distill.edit.text_scale": 2.0}, "text_free=all"),
        (
            {"distill.edit.image_free": "given", "distill.edit.text_scale": 2.0}
            | {"distill.edit.image_scale": 2.0},
            "away from 'given'; a student learns one of gaps, texts",
        ),
    ],
)
def test_what_a_student_cannot_learn_is_refused(teacher, tmp_path, changes, told):
    config = config_of(teacher)
    configuration.apply(config, changes)
    with pytest.raises(ConfigError, match=told):
        teachers.settle(config, tmp_path)
        distillation_of(config, (1, 2))


def test_what_draw_and_edit_say_is_their_own():
    config = configuration.load("configs/distill.py", {"distill.draw.text_scale": 3.0})
    assert config.distill.edit.text_scale is None


def test_the_verb_is_training_with_its_own_config(monkeypatch):
    ran = []
    monkeypatch.setattr(
        door.runpy, "run_module", lambda name, **_: ran.append((name, *door.sys.argv))
    )
    for given, wanted in (
        (["--workdir=w"], ["--config=configs/distill.py", "--workdir=w"]),
        (["--config", "own.py", "--workdir=w"], ["--config", "own.py", "--workdir=w"]),
        (["--config=own.py"], ["--config=own.py"]),
        (["--config.init_from=a"], ["--config=configs/distill.py", "--config.init_from=a"]),
    ):
        monkeypatch.setattr(door.sys, "argv", ["unireason", "distill", *given])
        door.main()
        assert ran.pop() == ("unireason_jax.train", "unireason distill", *wanted)
