"""The training entry point: a whole run, another mesh, where weights come from, the dry run."""

import json
import shutil

import chex
import jax
import numpy as np
import pytest
from absl.testing import flagsaver

from unireason_jax import train
from unireason_jax.data.text.tokenizer import load_tokenizer
from unireason_jax.run import configuration
from unireason_jax.run.configuration import ConfigError
from unireason_jax.run.run import Run
from unireason_jax.training import checkpoint
from unireason_jax.training.checkpoint import Checkpoints

pytestmark = pytest.mark.usefixtures("quick_compile")
TINY = "configs/tiny.py"
SMALL = {
    "data.rows": 8,
    "data.examples": 48,
    "data.window": 16,
    "train.steps": 6,
    "train.save_every": 4,
    "train.log_every": 2,
    "train.keep": 3,
    "eval.every": 4,
    "eval.examples": 24,
    "eval.batches": 1,
    "optim.eps": 1e-3,
    "mesh.data": 2,
}


def make_run(**overrides):
    changes = {key.replace("__", "."): value for key, value in overrides.items()}
    return Run.of(configuration.load(TINY, SMALL | changes)).settled()


def trained(run, workdir):
    return train.train(run, run.pipeline(workdir=workdir), train.epath.Path(workdir))


def rows_of(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def told(quick_compile, tmp_path_factory):
    """A run of six steps on a 2 x 4 mesh: its workdir, and when it waited and asked whether to
    stop, in order."""
    workdir, calls = tmp_path_factory.mktemp("finished"), []
    wait, reached = train.metrics.Meter.wait, train.StopSignal.reached
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train.metrics.Meter, "wait", lambda m: (calls.append("wait"), wait(m)))
        patch.setattr(train.StopSignal, "reached", lambda s, n: (calls.append(n), reached(s, n))[1])
        trained(make_run(), workdir)
    return workdir, calls


@pytest.fixture(scope="module")
def finished(told):
    """Workdir of six steps on a 2 x 4 mesh, with checkpoints of step 4 and 6."""
    return told[0]


def test_a_run_waits_for_the_devices_before_it_asks_whether_to_stop(told):
    assert told[1] == [call for step in range(6) for call in ("wait", step)]


def test_a_run_leaves_all_that_sampling_needs(finished):
    assert checkpoint.steps(finished) == [4, 6]
    rows = rows_of(finished)
    assert [row["step"] for row in rows] == [2, 4, 4, 6, 6]
    assert [("eval/loss" in row) for row in rows] == [False, False, True, False, True]
    wanted = ("loss/ce", "loss/flow", "grad_norm", "time/step", "data/fill/text")
    assert all(name in rows[0] for name in wanted)
    assert "time/compile" in rows[0] and "time/checkpoint" in rows[3]
    assert list((finished / "tensorboard").iterdir())
    rebuilt = Run.load(finished)
    assert rebuilt.model == make_run().model
    params = checkpoint.load_params(finished, expected=make_run().abstract.params)
    assert params["embed"].shape == (rebuilt.model.llm.vocab, rebuilt.model.llm.width)
    tokenizer = load_tokenizer(finished / "tokenizer")
    assert tokenizer.encode("red circle") == rebuilt.tokenizer.encode("red circle")
    image = np.zeros((32, 32, 3), np.uint8)
    assert np.array_equal(rebuilt.codec.encode(image)[0], make_run().codec.encode(image)[0])


def test_goes_on_from_its_checkpoint_on_another_mesh(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "moved")
    shutil.rmtree(tmp_path / "moved" / "checkpoints" / "6")
    run = make_run(mesh__tensor=2, mesh__context=2)
    assert dict(run.mesh.shape) == {"data": 2, "fsdp": 1, "tensor": 2, "context": 2}
    trained(run, tmp_path / "moved")
    for got, want in zip(rows_of(tmp_path / "moved"), rows_of(finished), strict=True):
        assert got["step"] == want["step"]
        for name in ("loss/ce", "loss/flow", "eval/loss", "grad_norm"):
            if name in want:
                np.testing.assert_allclose(got[name], want[name], rtol=1e-4)
    one, two = (checkpoint.load_params(w) for w in (finished, tmp_path / "moved"))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two)):
        np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.parametrize("context", [1, 4])
def test_streams_of_a_row_divide_over_the_context_axis(context):
    budgets = {"data.budgets.text": 250, "data.budgets.vit": 33, "data.budgets.latent": 35}
    changes = {"mesh.data": 1, "mesh.context": context, "data.tokens": 0, **budgets}
    config = configuration.load(TINY, SMALL | changes)
    pipeline, outlined = Run.of(config).pipeline(), Run.of(config, has_records=False)
    for array in ("text_ids", "vit_images", "latent_weights", "positions"):
        assert pipeline.batch_spec()[array][0][1] % context == 0, array
    for name, (shape, _) in pipeline.batch_spec().items():
        assert name in ("vit_patches", "latents") or outlined.batch_spec()[name][0] == shape
    pipeline.close()


def start(run, workdir):
    with Checkpoints(workdir) as checkpoints:
        return train.starting_state(run, checkpoints)


def test_where_weights_come_from(finished, tmp_path):
    source = str(finished)
    state, saved, origin = start(make_run(resume_from=source, init_from="nowhere"), tmp_path)
    assert int(state.step) == 6 and saved["data"] == {"next_row": 48} and source in origin
    state, saved, origin = start(make_run(init_from=source), tmp_path)
    assert int(state.step) == 0 and saved is None and origin == f"ema weights of {source}"
    chex.assert_trees_all_equal_shapes_and_dtypes(state, make_run().abstract)
    average = checkpoint.load_params(finished, which="ema")
    for a, b, c in zip(*map(jax.tree.leaves, (state.params, state.ema, average))):
        np.testing.assert_array_equal(a, c)
        np.testing.assert_array_equal(b, c)
    with pytest.raises(ConfigError, match="or to 'scratch' for random weights"):
        start(make_run(init_from=""), tmp_path)
    shutil.copytree(finished, tmp_path / "own")
    state, _, origin = start(make_run(resume_from="nowhere"), tmp_path / "own")
    assert int(state.step) == 6 and origin == "own checkpoint of step 6"


def test_a_checkpoint_of_another_model_names_leaf_and_flag(finished, tmp_path):
    run = make_run(init_from=str(finished), model__llm__mlp=128)
    with pytest.raises(checkpoint.CheckpointMismatch, match=r"down/kernel has shape.*model"):
        start(run, tmp_path)
    with pytest.raises(checkpoint.CheckpointMissing, match="no checkpoint here"):
        start(make_run(init_from=str(tmp_path / "nothing")), tmp_path)


def test_dry_run_says_what_would_happen_and_draws_a_pack(tmp_path, capsys):
    run = make_run(optim__freeze=("^vit/",))
    train.dry_run(run, run.pipeline(), train.epath.Path(tmp_path))
    out = capsys.readouterr().out
    for part in ('"variant": "nano"', "frozen", "total", "text_ids", "8x", "GiB", "fsdp=4"):
        assert part in out, part
    assert "packs in an epoch; fill: text " in out
    assert [path.suffix for path in tmp_path.iterdir()] == [".png"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"data.rows": 6}, "must be a multiple of data x fsdp x microbatches"),
        ({"mesh.data": 3}, "change --config.mesh"),
        ({"seed": 2**32}, r"config\.seed is 4294967296; it must be in"),
        ({"data.seed": -1}, r"config\.data\.seed is -1; it must be in"),
        ({"model.llm.vocab": 100}, r"set --config\.model\.llm\.vocab to at least"),
        ({"model.latent.channels": 4}, r"set --config\.model\.latent\.channels=24"),
        ({"optim.freeze": ("nothing",)}, "matches no parameter"),
        ({"data.mixture.edit": 0.0, "data.mixture.think_t2i": 0.0,
          "data.mixture.refine_t2i": 0.0}, "every weight is 0"),
        ({"data.tokens": 0}, r"set budgets\.text"),
        ({"data.source": "missing.jsonl"}, r"missing\.jsonl does not exist"),
        ({"data.source": "configs"}, "prepare"),
    ],
)  # fmt: skip
def test_settings_that_cannot_work_are_explained(overrides, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        Run.of(configuration.load(TINY, SMALL | overrides)).settled().pipeline()


def test_divergence_is_refused():
    numbers = {"consecutive_skips": 2.0, "loss": float("nan"), "grad_norm": 1.0}
    train.refuse_divergence(numbers, 10, 3)
    with pytest.raises(train.TrainingDiverged, match=r"step 10: the last 2 updates .*optim\.lr"):
        train.refuse_divergence(numbers, 10, 2)


def test_a_run_saves_by_minutes_and_status_2_is_for_what_the_user_has_to_mend(tmp_path, capsys):
    run = make_run(train__save_every=0, train__save_minutes=1e-9, train__log_every=2,
                   eval__every=0)  # fmt: skip
    trained(run, tmp_path)
    assert checkpoint.steps(tmp_path) == [2, 4, 6]
    for error, status in ((ConfigError("x"), 2), (FileNotFoundError("x"), 2), (OSError("x"), 1)):
        with (
            pytest.MonkeyPatch.context() as patch,
            pytest.raises(SystemExit) as stopped,
            flagsaver.flagsaver(config=configuration.load(TINY), workdir=str(tmp_path)),
        ):
            patch.setattr(train.init_from, "settle", _raising(error))
            train.main(["train"])
        assert (stopped.value.code if status == 2 else 1) == status
        told = capsys.readouterr().err if status == 2 else str(stopped.value.code)
        assert told.endswith("error: x\n" if status == 2 else "error: x")


def _raising(error):
    def settle(*_):
        raise error

    return settle
