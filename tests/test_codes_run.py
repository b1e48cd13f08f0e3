"""A run of the world that draws with codes: every command that takes a run takes it, too."""

import json

import jax
import numpy as np
import pytest

import unireason_jax
from tests import untrained
from unireason_jax import benchmark, convert, evaluate, synthesize, train
from unireason_jax.evals.published import world_sets
from unireason_jax.run.run import Run
from unireason_jax.training.optim import flatten

pytestmark = pytest.mark.usefixtures("quick_compile")
SIZES = dict.fromkeys(("prompts", "controls", "pairs", "knowledge", "edits", "questions"), 0)
SIZES |= {"drafts": 0, "hidden": 0, "rounds": 1, "max_text": 6}


@pytest.fixture(scope="module", autouse=True)
def _one_device():
    with pytest.MonkeyPatch.context() as patch:
        first = jax.local_devices()[:1]
        patch.setattr(jax, "local_devices", lambda: first)
        yield


def trained(config, workdir):
    run = Run.of(config, jax.devices()[:1]).settled()
    train.train(run, run.pipeline(workdir=workdir), train.epath.Path(workdir))
    return workdir


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """Two steps of a dwarf."""
    return trained(untrained.codes_config(), tmp_path_factory.mktemp("codes"))


@pytest.fixture(scope="module")
def model(workdir):
    return unireason_jax.load(workdir)


def flags(**options):
    return [f"--{key}={value}" for key, value in options.items()]


def test_it_is_evaluated(workdir, tmp_path):
    """It has no flow to be measured, whatever --flow_batches is by default."""
    asked = SIZES | {"edits": 1, "guidance": 2}
    evaluate.main(flags(checkpoint=workdir, out=tmp_path / "report", **asked))
    told = (tmp_path / "report" / "report.md").read_text()
    assert "code by code, guidance 2, code temperature 1" in told and "flow" not in told
    outcomes = json.loads((tmp_path / "report" / "outcomes.json").read_text())
    assert len(outcomes["edits"]) == 9


def test_a_call_and_a_command_say_how_it_is_guided(model, workdir, tmp_path):
    plain, guided = (model.generate("a red circle", **more) for more in ({}, {"guidance": 3}))
    assert plain.settings["codes"]["guidance"] == 1.0
    assert guided.settings["codes"]["guidance"] == 3.0
    assert not np.array_equal(plain.image, guided.image)
    with pytest.raises(ValueError, match="timesteps is of models that draw by flow, but this one"):
        model.generate("a red circle", timesteps=5)
    asked = SIZES | {"edits": 1, "solver": "ab2"}
    with pytest.raises(SystemExit, match="solver is of models that draw by flow"):
        evaluate.main(flags(checkpoint=workdir, out=tmp_path / "report", **asked))
    assert not (tmp_path / "report" / "report.md").exists()


@pytest.mark.slow
def test_it_plans_refines_edits_and_answers(model):
    refined = model.generate(
        "a red circle", preset="refine_t2i", rounds=1, min_rounds=1, max_text=6
    )
    assert refined.roles[1:5] == ["plan", "draft", "reflection", "refined"]
    edited = model.edit(refined.image, "add a blue square")
    assert edited.image.shape == refined.image.shape
    answered = model.ask(edited.image, "what color is the circle ?", max_text=6)
    assert answered.roles[-1] == "answer" and answered.steps[-1].text is not None


@pytest.mark.slow
def test_a_benchmark_is_drawn_and_judged(workdir, tmp_path):
    counts = dict.fromkeys(world_sets.COUNTS, 1)
    world_sets.write(tmp_path / "sets", 1, counts=counts)
    asked = {"suite": "geneval", "prompts": tmp_path / "sets" / "geneval.jsonl", "limit": 1}
    asked |= {"out": tmp_path / "out", "judge": "program", "checkpoint": workdir}
    benchmark.main(flags(**asked))
    drawn = json.loads((tmp_path / "out" / "drawn.jsonl").read_text().splitlines()[0])
    assert drawn["journal"]["sampling"]["codes"] == {"guidance": 1.0, "temperature": 1.0}
    assert list((tmp_path / "out" / "images").rglob("*.png"))


@pytest.mark.slow
def test_its_drafts_are_criticised(workdir, tmp_path):
    out = tmp_path / "critiques"
    with pytest.raises(SystemExit, match="no draft gave a record"):  # it has learned nothing
        synthesize.main(flags(checkpoint=workdir, out=out, count=6))
    rows = (out / "journal.jsonl").read_text().splitlines()[1:]
    assert len(rows) == 6 and all("pixels are no object" in row for row in rows)


@pytest.mark.slow
def test_adapters_are_learned_drawn_with_and_exchanged(workdir, tmp_path):
    config = untrained.codes_config()
    config.init_from, config.init_which = str(workdir), "ema"
    config.lora.rank, config.lora.targets = 2, ("^stack/blocks/und/query/kernel$",)
    run = trained(config, tmp_path / "run")
    plain, learned = (unireason_jax.load(folder) for folder in (workdir, run))
    assert learned.generate("a red circle").image.shape == (32, 32, 3)
    for to in (["--to", "peft", "--input", run], ["--from", "peft", "--input", tmp_path / "peft"]):
        out = ["--output", tmp_path / ("peft" if to[0] == "--to" else "again")]
        beside = ["--base", workdir] if to[0] == "--from" else []
        assert convert.main([str(word) for word in (*to, *out, *beside)]) == 0
    again = flatten(unireason_jax.load(tmp_path / "again").engine.params)
    for name, leaf in flatten(learned.engine.params).items():
        np.testing.assert_array_equal(leaf, again[name], err_msg=name)
    before = flatten(plain.engine.params)
    changed = [name for name in before if np.any(again[name] != before[name])]
    assert changed and all(name.startswith("stack/blocks/") for name in changed)
