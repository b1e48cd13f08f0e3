"""What a run takes over from where its weights come from: the model's shape, the schedule."""

import pytest

from unireason_jax.run import configuration, init_from

SHAPE = {
    "model.variant": "nano",
    "model.llm.vocab": 384,
    "model.vit.patch": 8,
    "model.latent.channels": 24,
    "model.latent.patch": 1,
}


def config_of(**changes):
    return configuration.load(
        "configs/common.py", {key.replace("__", "."): value for key, value in changes.items()}
    )


@pytest.fixture
def trained(tmp_path):
    """A workdir with a config of 60 steps and a folder of step 60, and the path of that."""
    config = configuration.load("configs/tiny.py", {"optim.freeze": ("^vit/",)})
    configuration.save(tmp_path / "old", config)
    step = tmp_path / "old" / "checkpoints" / "60"
    step.mkdir(parents=True)
    return tmp_path / "old", step


def test_init_from_gives_the_shape_unless_the_config_says_otherwise(trained, tmp_path):
    for where in trained:
        config = config_of(init_from=str(where), optim__lr=1.0)
        (line,) = init_from.settle(config, tmp_path / "new")
        assert str(where) in line and "model.variant nano" in line
        assert {key: configuration.leaves(config)[key] for key in SHAPE} == SHAPE
        assert configuration.model_config(config) == configuration.model_config(
            configuration.load("configs/tiny.py")
        )
        assert config.optim.lr == 1.0 and config.optim.total_steps is None
    config = config_of(init_from=str(trained[0]), model__llm__vocab=512, model__dtype="bfloat16")
    init_from.settle(config, tmp_path / "new")
    assert config.model.llm.vocab == 512 and config.model.vit.patch == 8
    assert config.model.dtype == "bfloat16"


def test_another_variant_that_is_asked_for_is_kept(trained, tmp_path):
    config = config_of(init_from=str(trained[0]), model__variant="small")
    assert init_from.settle(config, tmp_path / "new") == []
    assert config.model.variant == "small" and config.model.vit.patch is None


@pytest.mark.parametrize("where", ["scratch", "", "nowhere"])
def test_nothing_is_taken_from_nowhere(where, tmp_path):
    config = config_of(init_from=where)
    assert init_from.settle(config, tmp_path / "new") == []
    assert config.to_dict() == config_of(init_from=where).to_dict()


def tiny(**changes):
    given = {key.replace("__", "."): value for key, value in changes.items()}
    return configuration.load("configs/tiny.py", {"optim.freeze": ("^vit/",)} | given)


@pytest.mark.parametrize("going_on", ["own", "resume_from"])
def test_other_steps_do_not_stretch_the_schedule_of_a_run_that_goes_on(trained, tmp_path, going_on):
    workdir = trained[0] if going_on == "own" else tmp_path / "new"
    other = {} if going_on == "own" else {"resume_from": str(trained[0])}
    config = tiny(train__steps=100, **other)
    (line,) = init_from.settle(config, workdir)
    assert "ends at step 60 as before" in line and "--config.optim.total_steps=100" in line
    assert configuration.optim_config(config).total_steps == 60
    configuration.save(trained[0], config)
    again = tiny(train__steps=200, **other)
    init_from.settle(again, workdir)
    assert configuration.optim_config(again).total_steps == 60


def test_another_end_of_the_schedule_is_said_on_purpose_and_announced(trained):
    config = tiny(train__steps=100, optim__total_steps=100)
    (line,) = init_from.settle(config, trained[0])
    assert line == "changed since the last start: optim.total_steps 60 -> 100"
    assert configuration.optim_config(config).total_steps == 100


def test_what_a_run_does_otherwise_from_now_on_is_announced(trained):
    assert init_from.settle(tiny(train__log_every=1, data__workers=2), trained[0]) == []
    lines = init_from.settle(tiny(data__rows=8, optim__lr=1e-4), trained[0])
    assert set(lines) == {
        "changed since the last start: data.rows 4 -> 8",
        "changed since the last start: optim.lr 0.003 -> 0.0001",
    }


def test_what_was_taken_from_the_records_is_no_change(trained):
    config = configuration.load_workdir(trained[0])
    config.system, config.data.style, config.data.sizes = "bagel", "bagel", "bagel_256"
    configuration.save(trained[0], config)
    assert init_from.settle(tiny(), trained[0]) == []
    (line,) = init_from.settle(tiny(data__sizes="bagel_512"), trained[0])
    assert line == "changed since the last start: data.sizes 'bagel_256' -> 'bagel_512'"
