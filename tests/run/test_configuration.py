"""Config files load, override and sweep; mistakes are answered with the nearest right key."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags
from ml_collections import config_flags

from unireason_jax.models.config import variant
from unireason_jax.run import configuration, key_synonyms, overrides
from unireason_jax.run.configuration import ConfigError

COMMON = "configs/common.py"
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def config_file(tmp_path):
    folder = tmp_path / "configs"
    folder.mkdir()
    path = folder / "mine.py"
    path.write_text(
        "from configs import common\n"
        "def get_config(size='nano'):\n"
        "    config = common.get_config()\n"
        "    config.model.variant = size\n"
        "    return config\n"
        "def sweep():\n"
        "    for lr in (1e-4, 1e-3):\n"
        "        yield {'optim.lr': lr, 'train.steps': 5}\n"
    )
    return str(path)


def test_every_default_of_common_builds():
    config = configuration.load(COMMON)
    assert configuration.model_config(config) == variant("world")
    optim = configuration.optim_config(config)
    assert optim.total_steps == config.train.steps and optim.eps == 1e-15
    assert configuration.loss_config(config).ce_weight == 1.0


def test_argument_and_overrides(config_file):
    config = configuration.load(f"{config_file}:small", {"model.llm.layers": 3, "optim.lr": 1})
    model = configuration.model_config(config)
    small = variant("small")
    assert model == dataclasses.replace(small, llm=dataclasses.replace(small.llm, layers=3))
    assert configuration.optim_config(config).lr == 1.0
    configuration.apply(config, {"model.vit_tower": False})
    assert configuration.model_config(config).vit is None


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("optim.lrr", "did you mean optim.lr"),
        ("lr", "did you mean optim.lr"),
        ("train.step", "train.steps"),
        ("model.llm.layer", "model.llm.layers"),
        ("optim.xyzzy", "did you mean optim."),
    ],
)
def test_unknown_keys_name_the_nearest(key, message):
    with pytest.raises(ConfigError, match=message) as error:
        configuration.load(COMMON, {key: 1})
    assert f"unknown config key '{key}'" in str(error.value)


def test_wrong_types_say_what_is_expected():
    with pytest.raises(ConfigError, match="'many' is a str; it must be a int like 1000"):
        configuration.load(COMMON, {"train.steps": "many"})


def test_missing_files_name_what_is_there(tmp_path):
    with pytest.raises(ConfigError, match=r"no such file; .*configs has common\.py"):
        configuration.load("configs/comon.py")
    (tmp_path / "empty.py").write_text("x = 1\n")
    with pytest.raises(ConfigError, match="defines no get_config"):
        configuration.load(str(tmp_path / "empty.py"))


def test_sweep(config_file):
    config = configuration.load(config_file)
    assert configuration.apply_sweep(config, config_file, 1) == "sweep_001"
    assert config.optim.lr == 1e-3 and config.train.steps == 5
    with pytest.raises(ConfigError, match="entries 0 to 1"):
        configuration.apply_sweep(config, config_file, 2)
    with pytest.raises(ConfigError, match=r"defines no sweep\(\)"):
        configuration.sweep(COMMON)


def test_round_trip_through_the_workdir(tmp_path, config_file):
    config = configuration.load(config_file, {"optim.freeze": ("^und/",)})
    configuration.save(tmp_path, config)
    loaded = configuration.load_workdir(tmp_path)
    assert configuration.model_config(loaded) == configuration.model_config(config)
    assert configuration.optim_config(loaded) == configuration.optim_config(config)
    with pytest.raises(FileNotFoundError, match="the --workdir of a training run"):
        configuration.load_workdir(tmp_path / "nowhere")


def test_dataclasses_refuse_unknown_keys():
    with pytest.raises(ConfigError, match=r"unknown config key 'loss.ce_wait'.*loss.ce_weight"):
        configuration.build(configuration.LossConfig, {"ce_wait": 1.0}, "loss")
    config = configuration.load(COMMON, {"model.variant": "nanno"})
    with pytest.raises(ConfigError, match="unknown 'nanno'; there is nano"):
        configuration.model_config(config)


@pytest.fixture
def parsed(monkeypatch, config_file):
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, "config", flag_values=values)
    flags.DEFINE_integer("sweep_index", None, "entry", flag_values=values)
    monkeypatch.setattr(flags, "FLAGS", values)

    def parse(*arguments):
        named = any(argument.split("=")[0] == "--config" for argument in arguments)
        argv = ["train", *([] if named else [f"--config={config_file}"]), *arguments]
        monkeypatch.setattr("sys.argv", argv)  # config_flags looks there for overrides
        overrides.parse_flags(argv)
        return values.config

    return parse


def test_command_line_overrides(parsed):
    config = parsed("--config.optim.lr=0.5", "--config.model.llm.layers=2", "--sweep_index=0")
    assert config.optim.lr == 0.5 and config.model.llm.layers == 2


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--config.optim.lrr=1", "error: unknown config key 'optim.lrr'; did you mean optim.lr"),
        ("--config.train.steps=many", "config.train.steps must be a whole number, like 1000"),
        ("--config.model.llm.layers=two", "config.model.llm.layers must be a number"),
        ("--swep_index=1", "Unknown command line flag 'swep_index'"),
    ],
)
def test_command_line_mistakes_end_with_one_line(parsed, argument, message):
    with pytest.raises(SystemExit) as stop:
        parsed(argument)
    assert message in str(stop.value)


@pytest.mark.parametrize("flag", [["--config=configs/tiny.py"], ["--config", "configs/tiny.py"]])
def test_the_repository_s_configs_are_found_from_anywhere(parsed, monkeypatch, tmp_path, flag):
    monkeypatch.chdir(tmp_path)
    config = parsed(*flag, "--config.train.steps=7")
    assert config.model.variant == "nano" and config.train.steps == 7


@pytest.mark.parametrize(
    ("word", "key"),
    [
        ("--config.learning_rate=1", "optim.lr"),
        ("--config.optim.learningRate=1", "optim.lr"),
        ("--config.train.batch_size=8", "data.rows"),
        ("--config.epochs=3", "train.steps"),
        ("--config.optim.wd=0.1", "optim.weight_decay"),
        ("--config.grad_clip=1", "optim.clip_norm"),
        ("--config.gradient_accumulation_steps=2", "train.microbatches"),
        ("--config.model.hidden_size=64", "model.llm.width"),
    ],
)
def test_names_of_other_codes_lead_to_the_key_that_means_the_same(parsed, word, key):
    with pytest.raises(SystemExit, match=rf"did you mean {key}\?"):
        parsed(word)


def test_a_flag_that_is_a_key_is_named(parsed):
    with pytest.raises(SystemExit, match=r"'learning_rate'.*Did you mean --config\.optim\.lr\?"):
        parsed("--learning_rate=1e-3")


def test_every_meaning_is_a_key():
    known = configuration.leaves(configuration.load(COMMON))
    for name, key in key_synonyms._KEYS.items():
        assert key in known, name


def words(key, value):
    """A command-line word that sets a leaf to another value of its kind, and that value."""
    if isinstance(value, bool):
        return f"--config.{key}={not value}".lower(), not value
    if isinstance(value, tuple):
        other = tuple(0 for _ in value) or ("^vit/",)
        return f"--config.{key}={other}", other
    if value is None and key.endswith(".interval"):
        other = (0.25, 1.0)
    elif value is None:
        texts = ("dtype", "frozen_dtype", "remat", "attention", "renorm", "text_free", "image_free")
        other = "full" if key.rpartition(".")[2] in texts else 3
    else:
        other = "other" if isinstance(value, str) else value + 1
    return f"--config.{key}={other}", other


def test_every_leaf_is_set_from_the_command_line(parsed):
    known = configuration.leaves(configuration.load(COMMON))
    given = {key: words(key, value) for key, value in known.items()}
    found = configuration.leaves(parsed(*(word for word, _ in given.values())))
    assert {key: found[key] for key in given} == {key: value for key, (_, value) in given.items()}


def test_mappings_are_json_and_groups_may_be_new(parsed):
    config = parsed('--config.data.groups={"a": 1, "b": 2.5}', "--config.data.quotas.a=3")
    assert config.data.groups.to_dict() == {"a": 1, "b": 2.5}
    assert config.data.quotas.to_dict() == {"a": 3}
    config = parsed('--config.data.budgets={"text": 64, "latent": 32}')
    assert config.data.budgets.to_dict() == {"text": 64, "vit": 0, "latent": 32}


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("--config.data.groups=a:1", "not JSON; write a mapping such as --config.data.groups='{"),
        ('--config.data.groups={"a": "much"}', "config.data.groups.a: 'much' must be a number"),
        ('--config.data.budgets={"txt": 64}', "unknown config key 'data.budgets.txt'"),
        ("--config.data.budgets", "write --config.data.budgets=<value> in one word"),
    ],
)
def test_mappings_that_cannot_be_meant_are_one_line(parsed, word, message):
    with pytest.raises(SystemExit) as stop:
        parsed(word)
    assert message in str(stop.value) and "\n" not in str(stop.value)


@pytest.mark.parametrize("folder", ["configs", "elsewhere"])
def test_a_config_may_lie_anywhere(tmp_path, folder):
    """It imports `configs.common`, and what lies beside it."""
    program = (
        "from unireason_jax.run import configuration\n"
        "print(configuration.load('mine.py').optim.lr)\n"
    )
    (tmp_path / folder).mkdir()
    beside = "from configs import base" if folder == "configs" else "import base"
    (tmp_path / folder / "base.py").write_text("LR = 0.25\n")
    (tmp_path / folder / "mine.py").write_text(
        f"from configs import common\n{beside}\n"
        "def get_config():\n"
        "    config = common.get_config()\n"
        "    config.optim.lr = base.LR\n"
        "    return config\n"
    )
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-P", "-c", program]
    said = subprocess.run(
        command, cwd=tmp_path / folder, env=environment, capture_output=True, text=True
    )
    assert said.stdout == "0.25\n", said.stderr
