"""Saving, falling back to the last good step, restoring on another mesh, and clear refusals."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unireason_jax.pods import sharding
from unireason_jax.training import checkpoint, optim, state
from unireason_jax.training.checkpoint import CheckpointMismatch, CheckpointMissing, Checkpoints

LOGICAL = {
    "und": {"kernel": ("layers", "embed", "mlp")},
    "gen": {"kernel": ("layers", "embed", "mlp"), "bias": ("mlp",)},
}


def init(width=8):
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = {
        "und": {"kernel": (2, width, 16)},
        "gen": {"kernel": (2, width, 16), "bias": (16,)},
    }
    draw = iter(keys)
    is_shape = lambda s: isinstance(s, tuple)  # noqa: E731
    return jax.tree.map(lambda s: jax.random.normal(next(draw), s), shapes, is_leaf=is_shape)


def make(sizes=None, width=8, **options):
    """(abstract state with shardings, state) of a toy model on a mesh."""
    config = optim.OptimConfig(**({"ema": 0.9, "spike_window": 4} | options))
    optimizer = optim.make_optimizer(config, LOGICAL)
    mesh = sharding.make_mesh(sizes or {"data": 2, "fsdp": 2, "tensor": 2})
    abstract = state.abstract_state(jax.eval_shape(lambda: init(width)), optimizer)
    places = state.state_shardings(mesh, abstract, LOGICAL)
    made = state.initialize(lambda: init(width), optimizer, places)
    return state.with_shardings(abstract, places), made


def advance(made, amount=1.0):
    return jax.tree.map(lambda x: x + jnp.asarray(amount, x.dtype), made)


def save_three(workdir, **options):
    abstract, made = make(**options)
    with Checkpoints(workdir, keep=3) as checkpoints:
        for step in (10, 20, 30):
            checkpoints.save(step, advance(made, step), {"next_row": 100 + step})
    return abstract, made


def damage(path, how):
    data = bytearray(path.read_bytes())
    if how == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif how == "bit flipped":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    else:
        path.unlink()


def largest(directory):
    files = [p for p in directory.rglob("*") if p.is_file() and p.name != checkpoint.MANIFEST]
    return max(files, key=lambda p: p.stat().st_size)


def test_round_trip_keeps_every_bit_and_the_data_state(tmp_path):
    abstract, made = save_three(tmp_path)
    loaded, data = checkpoint.load_state(tmp_path, abstract)
    assert int(loaded.step) == 30 and data == {"next_row": 130}
    wanted = advance(made, 30)
    for a, b in zip(jax.tree.leaves(loaded.params), jax.tree.leaves(wanted.params)):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(jax.tree.leaves(loaded.opt_state), jax.tree.leaves(wanted.opt_state)):
        np.testing.assert_array_equal(a, b)
    assert isinstance(loaded.opt_state, optim.OptState)
    assert checkpoint.steps(tmp_path) == [10, 20, 30]


@pytest.mark.parametrize("sizes", [{"fsdp": 8}, {"data": 8}, {"tensor": 4, "context": 2}])
def test_restores_onto_another_mesh(tmp_path, sizes):
    _, made = save_three(tmp_path)
    abstract, _ = make(sizes)
    loaded, _ = checkpoint.load_state(tmp_path, abstract)
    for got, want, place in zip(
        jax.tree.leaves(loaded), jax.tree.leaves(advance(made, 30)), jax.tree.leaves(abstract)
    ):
        assert got.sharding == place.sharding
        if got.ndim:
            np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("how", ["truncated", "bit flipped", "missing"])
def test_a_damaged_step_is_named_and_the_one_before_is_used(tmp_path, how, caplog):
    abstract, _ = save_three(tmp_path)
    victim = largest(tmp_path / "checkpoints" / "30")
    damage(victim, how)
    with caplog.at_level(logging.ERROR, logger="absl"):
        with Checkpoints(tmp_path) as checkpoints:
            assert checkpoints.saved == 20
            loaded, data = checkpoint.load_state(tmp_path, abstract)
            # The step can be written again.
            checkpoints.save(30, loaded, data)
    assert int(loaded.step) == 20 and data == {"next_row": 120}
    assert "CHECKPOINT OF STEP 30 IS UNUSABLE" in caplog.text
    assert victim.name in caplog.text
    assert checkpoint.steps(tmp_path)[-1] == 30
    assert checkpoint.faults(tmp_path / "checkpoints" / "30") == []
    assert len(list((tmp_path / "damaged").iterdir())) == 1


def test_a_half_written_step_is_skipped(tmp_path):
    abstract, _ = save_three(tmp_path)
    (tmp_path / "checkpoints" / "30" / checkpoint.MANIFEST).unlink()
    (tmp_path / "checkpoints" / "20" / checkpoint.MANIFEST).write_text('{"step": 2')
    unfinished = tmp_path / "checkpoints" / "40.orbax-checkpoint-tmp-7"
    unfinished.mkdir()
    loaded, _ = checkpoint.load_state(tmp_path, abstract)
    assert int(loaded.step) == 10
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.saved == 10
    assert sorted(checkpoint.steps(tmp_path)) == [10]


def test_nothing_usable_says_what_is_wrong(tmp_path):
    abstract, _ = make()
    with pytest.raises(CheckpointMissing, match="no checkpoint here; is this the --workdir"):
        checkpoint.load_state(tmp_path, abstract)
    save_three(tmp_path)
    with pytest.raises(CheckpointMissing, match=r"no checkpoint of step 15; there are \[10, 20"):
        checkpoint.find(tmp_path, 15)
    for step in (10, 20, 30):
        damage(largest(tmp_path / "checkpoints" / str(step)), "missing")
    with pytest.raises(CheckpointMissing, match=r"no usable checkpoint(.|\n)*the file is missing"):
        checkpoint.load_params(tmp_path)


def test_old_steps_are_deleted_but_milestones_stay(tmp_path):
    _, made = make()
    with Checkpoints(tmp_path, keep=1, keep_every=20) as checkpoints:
        for step in (10, 20, 30, 40, 50):
            checkpoints.save(step, made, {})
    assert checkpoint.steps(tmp_path) == [20, 40, 50]


def test_a_relative_workdir_can_be_read(tmp_path, monkeypatch):
    save_three(tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    here, there = checkpoint.load_params("run"), checkpoint.load_params(tmp_path / "run")
    jax.tree.map(np.testing.assert_array_equal, here, there)


def test_weights_alone_for_inference(tmp_path):
    _, made = save_three(tmp_path, freeze=("^und/",))
    last = advance(made, 30)
    weights = checkpoint.load_params(tmp_path, which="params")
    average = checkpoint.load_params(tmp_path / "checkpoints" / "30", dtype="bfloat16")
    for name in ("kernel", "bias"):
        np.testing.assert_array_equal(weights["gen"][name], last.params["gen"][name])
        assert average["gen"][name].dtype == jnp.bfloat16
        np.testing.assert_array_equal(
            average["gen"][name], last.ema["gen"][name].astype(jnp.bfloat16)
        )
    np.testing.assert_array_equal(
        average["und"]["kernel"], last.params["und"]["kernel"].astype(jnp.bfloat16)
    )
    mesh = sharding.make_mesh({"fsdp": 8})
    expected = jax.eval_shape(init)
    places = sharding.shardings(mesh, expected, LOGICAL)
    sharded = checkpoint.load_params(tmp_path, step=20, expected=expected, shardings=places)
    assert sharded["gen"]["kernel"].sharding == places["gen"]["kernel"]
    np.testing.assert_array_equal(sharded["gen"]["kernel"], advance(made, 20).ema["gen"]["kernel"])


def test_the_checkpoint_of_another_model_is_refused_by_leaf_and_shape(tmp_path):
    save_three(tmp_path)
    wider, _ = make(width=16)
    message = r"leaf params/gen/kernel has shape \(2, 8, 16\) there, \(2, 16, 16\) here.*model"
    with pytest.raises(CheckpointMismatch, match=message):
        checkpoint.load_state(tmp_path, wider)
    with pytest.raises(CheckpointMismatch, match=message):
        checkpoint.load_params(tmp_path, expected=jax.eval_shape(lambda: init(16)))
    fewer = {"gen": jax.eval_shape(init)["gen"]}
    with pytest.raises(CheckpointMismatch, match="params/und/kernel exists only there"):
        checkpoint.load_params(tmp_path, expected=fewer)


def test_another_training_set_up_is_refused_with_the_way_out(tmp_path):
    save_three(tmp_path)
    frozen, _ = make(freeze=("^und/",))
    with pytest.raises(CheckpointMismatch, match=r"opt_state/.*und/kernel.*optim\.freeze"):
        checkpoint.load_state(tmp_path, frozen)
    other = tmp_path / "plain"
    save_three(other, ema=0.0)
    with pytest.raises(CheckpointMismatch, match="no moving average was kept"):
        checkpoint.load_params(other)
