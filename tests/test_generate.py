"""The commands `generate` and `evaluate` on an untrained run: files, errors, and what is reused."""

import json
import re

import jax
import numpy as np
import pytest
from PIL import Image

from unireason_jax import configuration, evaluate, experiment, generate
from unireason_jax.checkpoint import Checkpoints
from unireason_jax.inference import load, trace
from unireason_jax.models import functional
from unireason_jax.optim import make_optimizer
from unireason_jax.state import new_state

pytestmark = pytest.mark.usefixtures("quick_compile")
FAST = ["--timesteps", "3", "--batch", "8"]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """What a training run leaves after step 0: config, tokenizer, codec, weights, their average."""
    folder = tmp_path_factory.mktemp("run")
    made = experiment.create(configuration.load("configs/tiny.py"))
    made.save(folder)
    params = jax.jit(functional.init, static_argnums=0)(made.model, jax.random.key(0))
    optimizer = make_optimizer(
        configuration.optim_config(made.config), functional.logical_axes(made.model)
    )
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(1, new_state(params, optimizer), {"next_row": 0})
    return folder


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    """As on a machine without fake devices (`test_reasoner` covers eight)."""
    monkeypatch.setattr(jax, "device_count", lambda: 1)


def fails(main, arguments, capsys):
    """The message of a run that must end with an error."""
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    return str(stopped.value.code) + capsys.readouterr().err


def test_generate_writes_traces_and_strips(workdir, tmp_path, capsys):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"id": "one", "prompt": "a red circle"}\n\ntwo green crosses\n')
    out = tmp_path / "out"
    base = ["--checkpoint", workdir, "--out", out, "--rounds", "1", *FAST]
    generate.main([str(x) for x in [*base, "--prompts", prompts, "--prompt", "a blue square"]])
    folders = sorted(path.name for path in out.iterdir() if path.is_dir())
    assert folders == ["000_a_blue_square", "001_one", "002_two_green_crosses"]
    assert (out / "strips.png").stat().st_size > 1000
    first = trace.load(out / folders[0])
    assert first.roles[:4] == ["user", "plan", "draft", "reflection"]
    assert first.image.shape == (32, 32, 3) and first.settings["flow"]["timesteps"] == 3
    printed = capsys.readouterr().out
    assert "a blue square" in printed and "plan:" in printed and "3 conversations" in printed
    alone = tmp_path / "alone"
    generate.main(
        [str(x) for x in ["--prompt", "a blue square", *base[:2], "--out", alone, *base[4:]]]
    )
    again = trace.load(alone / "000_a_blue_square")
    assert again.texts == first.texts
    assert np.abs(again.image.astype(int) - first.image.astype(int)).max() <= 1


def test_generate_edits_a_picture(workdir, tmp_path):
    picture = tmp_path / "in.png"
    Image.new("RGB", (32, 32), (16, 16, 20)).save(picture)
    arguments = ["--checkpoint", workdir, "--out", tmp_path / "out", "--mode", "edit"]
    arguments += ["--image", picture, "--prompt", "add a red circle", "--samples", "2", *FAST]
    generate.main([str(x) for x in arguments])
    found = [trace.load(folder) for folder in sorted((tmp_path / "out").glob("0*"))]
    assert [t.sample for t in found] == [0, 1]
    assert found[0].steps[1].given and found[0].steps[1].image.shape == (32, 32, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to generate"),
        (["--prompt", " "], "prompt 1 is empty"),
        (["--prompt", "a purpel circle"], "does not know the word.*purpel"),
        (["--prompt", "red " * 400], "402 tokens.*320"),
        (["--prompt", "a circle", "--timesteps", "1"], "timesteps"),
        (["--prompt", "a circle", "--rounds", "-1"], "--rounds"),
        (["--prompt", "a circle", "--mode", "edit"], "give --image"),
        (["--prompt", "a circle", "--mode", "edit", "--image", "no.png"], "no.png does not exist"),
        (["--prompts", "no.txt"], "no.txt: no such file"),
        (["--prompt", "a circle", "--step", "7"], "no checkpoint of step 7"),
    ],
)
def test_generate_says_what_is_wrong(workdir, tmp_path, capsys, arguments, message):
    base = ["--checkpoint", workdir, "--out", tmp_path / "out"]
    assert re.search(message, fails(generate.main, [*base, *arguments], capsys))
    assert not (tmp_path / "out").exists()


def test_errors_in_a_file_name_its_line(workdir, tmp_path, capsys):
    for text, message in (('{"prompt": 3}', ":2: field 'prompt'"), ("{oops", ":2: not JSON")):
        prompts = tmp_path / "prompts.jsonl"
        prompts.write_text(f"a circle\n{text}\n")
        arguments = ["--checkpoint", workdir, "--out", tmp_path / "out", "--prompts", prompts]
        assert message in fails(generate.main, arguments, capsys)


@pytest.mark.parametrize("main", [generate.main, evaluate.main])
def test_a_directory_without_a_run_is_named(main, tmp_path, capsys):
    arguments = ["--checkpoint", tmp_path / "none", "--out", tmp_path / "out"]
    if main is generate.main:
        arguments += ["--prompt", "a circle"]
    assert "none" in fails(main, arguments, capsys)


def test_evaluate_writes_a_report(workdir, tmp_path, capsys):
    sizes = ["--prompts", "1", "--pairs", "0", "--knowledge", "0", "--edits", "1"]
    sizes += ["--questions", "1", "--drafts", "2", "--rounds", "1"]
    out = tmp_path / "report"
    arguments = ["--checkpoint", workdir, "--out", out, *sizes, *FAST, "--guidance", "1"]
    evaluate.main([str(x) for x in arguments])
    values = json.loads((out / "report.json").read_text())
    assert set(values["sections"]) >= {
        "prompts",
        "own_drafts",
        "given_drafts",
        "edits",
        "questions",
    }
    assert "2 Euler steps" in values["facts"]["sampling"]
    assert values["headline"]["held-out prompts, with plan"]["count"] == 6
    assert (out / "strips.png").exists() and (out / "chart.png").exists()
    assert "report.md" in capsys.readouterr().out
    assert "prompts must be >= 0" in fails(evaluate.main, [*arguments, "--prompts", "-1"], capsys)


def test_loading_uses_the_average_and_the_canvas_of_the_run(workdir):
    reasoner = load.load(workdir)
    assert reasoner.settings.size == (32, 32)
    assert reasoner.engine.spec.max_text == 320
    last = load.load(workdir, which="params")
    assert jax.tree.structure(last.engine.params) == jax.tree.structure(reasoner.engine.params)
