"""A dry run fails on what the run would fail on, a line each."""

import pytest
from etils import epath

from tests import untrained
from unireason_jax import train
from unireason_jax.run import configuration, init_from, preflight
from unireason_jax.run.run import Run

TINY = {"data.rows": 8, "data.examples": 32, "eval.examples": 16}


def run_of(**changes):
    given = {key.replace("__", "."): value for key, value in changes.items()}
    return Run.of(configuration.load("configs/tiny.py", TINY | given)).settled()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"init_from": "runs/nothing"}, "nothing: no checkpoint here"),
        ({"init_from": ""}, "where do the weights come from"),
        ({"resume_from": "runs/nothing"}, "nothing: no checkpoint here"),
        ({"eval__batches": 0}, "eval.batches is 0"),
        ({"train__wandb": "project"}, "pip install 'unireason-jax[wandb]'"),
    ],
)
def test_what_is_missing_is_found(changes, message, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    (line,) = preflight.problems(run_of(**changes), tmp_path)
    assert message in line


def test_held_out_records_that_are_not_named_or_not_there(tmp_path):
    for held_out, message in (("", "name the held-out records"), ("no.jsonl", "does not exist")):
        changes = {"data.source": "no/records", "data.held_out": held_out}
        config = configuration.load("configs/tiny.py", TINY | changes)
        lines = preflight.problems(Run.of(config, has_records=False), tmp_path)
        assert len(lines) == 2 and "no/records does not exist" in lines[0]
        assert message in lines[1]


def test_weights_of_another_model_are_found_without_loading_them(tmp_path):
    source = untrained.write(tmp_path / "old")
    config = configuration.load(
        "configs/tiny.py", TINY | {"init_from": str(source), "init_which": "params"}
    )
    told = init_from.settle(config, tmp_path / "new")
    config.model.llm.mlp = 256
    (line,) = preflight.problems(Run.of(config).settled(), tmp_path / "new")
    assert "does not fit this run" in line and "--config.model" in line, told


def test_nothing_is_found_where_nothing_is_wrong_and_the_end_tells(tmp_path, capsys):
    run, workdir = run_of(), epath.Path(tmp_path)
    assert preflight.problems(run, workdir) == []
    train.rehearse(run, run.pipeline(), workdir, ["one line"])
    assert capsys.readouterr().out.startswith("one line\n")
    wrong = run_of(init_from="")
    with pytest.raises(SystemExit, match="error: where do the weights come from"):
        train.rehearse(wrong, wrong.pipeline(), workdir, [])
