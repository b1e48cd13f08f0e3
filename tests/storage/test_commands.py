"""Every command that writes a folder is refused in one line where another is at work in it."""

import importlib
import json

import pytest
from absl import flags
from etils import epath
from PIL import Image

from unireason_jax import prepare, train
from unireason_jax.__main__ import VERBS
from unireason_jax.run import configuration
from unireason_jax.storage import lock

ROWS = [{"task": "t2i", "prompt": "a red circle", "image": "a.png"}]
COMMANDS = {
    "generate": ["--checkpoint", "none", "--prompt", "a red circle", "--out"],
    "evaluate": ["--checkpoint", "none", "--out"],
    "synthesize": ["--checkpoint", "none", "--out"],
    "benchmark": ["--suite", "wise", "--prompts", "none.json", "--out"],
    "ablation": ["--config", "configs/none.py", "--workdir"],
    "convert": ["--from", "bagel", "--input", "none", "--output"],
}


@pytest.fixture
def busy(tmp_path):
    with lock.hold(tmp_path / "busy", "unireason other"):
        yield tmp_path / "busy"
    assert not (tmp_path / "busy").exists()  # nothing was written by those that were refused


def refused(capsys, call):
    """The one line that a refused command ends with."""
    with pytest.raises(SystemExit) as ended:
        status = call()
        raise SystemExit(status)
    said = ended.value.code if isinstance(ended.value.code, str) else capsys.readouterr().err
    assert ended.value.code not in (0, None)
    assert "is in use by 'unireason other' (process " in said and said.strip().count("\n") == 0


@pytest.mark.parametrize("verb", COMMANDS)
def test_a_second_command_is_refused(verb, busy, capsys):
    command = importlib.import_module(f"unireason_jax.{verb}")
    refused(capsys, lambda: command.main([*COMMANDS[verb], str(busy)]))


def test_a_second_benchmark_s_sets_are_refused(busy, capsys):
    command = importlib.import_module("unireason_jax.benchmark")
    refused(capsys, lambda: command.main(["--write_world", str(busy)]))


def test_a_second_prepare_is_refused(busy, tmp_path, capsys):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    arguments = ["prepare", f"--input={rows}", f"--output={busy}"]
    refused(capsys, lambda: prepare.main(arguments))


def test_a_second_encode_is_refused(busy, tmp_path, capsys):
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    rows, prepared = tmp_path / "rows.jsonl", tmp_path / "prepared"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    prepare.main(["prepare", f"--input={rows}", f"--output={prepared}", "--sizes=world"])
    capsys.readouterr()
    command = importlib.import_module("unireason_jax.encode")
    arguments = ["encode", f"--input={prepared}", f"--output={busy}"]
    refused(capsys, lambda: command.main(arguments))


def test_a_second_reinforcement_is_refused(busy, capsys):
    command = importlib.import_module("unireason_jax.rl")
    arguments = ["rl", "--config=configs/rl_t2i.py", f"--workdir={busy}"]
    refused(capsys, lambda: command.main(arguments))


def test_a_second_training_is_refused(busy, capsys):
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    config = configuration.load("configs/tiny.py")
    refused(capsys, lambda: train.attempt(config, epath.Path(busy)))


def test_every_verb_was_thought_of():
    held = {*COMMANDS, "prepare", "encode", "train", "distill", "rl"}  # distill is train
    single_files = {"parity", "compile_check", "bench"}  # what they write is one file, whole
    none = {"new", "serve"}  # one takes an empty folder only, the other writes nothing
    assert set(VERBS) == held | single_files | none
