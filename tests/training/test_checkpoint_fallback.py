"""Checkpoints that are damaged, unfinished or could not be written: named, and nothing lost."""

import errno
import json
import os

import numpy as np
import pytest

from tests.training.test_checkpoint import advance, damage, largest, make, save_three
from unireason_jax.training import checkpoint, checkpoint_fallback, checkpoint_manifest
from unireason_jax.training.checkpoint import CheckpointFailed, CheckpointMissing, Checkpoints


@pytest.fixture
def described(tmp_path):
    """A step's directory with one small file and its manifest."""
    directory = tmp_path / "checkpoints" / "240"
    directory.mkdir(parents=True)
    (directory / "weights").write_bytes(b"w" * 10)
    checkpoint_manifest.write_manifest(
        directory,
        step=240,
        data={"data": {"next_row": 240}, "meter": {"seconds": 1.5e-05}},
        leaves={"params": {"a/b": [[2, 3], "float32"]}},
        files=checkpoint_manifest.file_facts(directory, hashes=True),
    )
    assert checkpoint_manifest.faults(directory) == []
    return directory


def test_every_single_bit_flip_of_a_manifest_is_found(described):
    path = described / checkpoint_manifest.MANIFEST
    data = path.read_bytes()
    for place in range(len(data)):
        for bit in range(8):
            path.write_bytes(data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :])
            with pytest.raises(CheckpointMissing, match=r"manifest\.json: "):
                checkpoint_manifest.read_manifest(described)
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(CheckpointMissing, match=r"manifest\.json: "):
            checkpoint_manifest.read_manifest(described)


def test_a_manifest_from_before_the_checksum_is_read(described):
    values = checkpoint_manifest.read_manifest(described)
    (described / checkpoint_manifest.MANIFEST).write_text(json.dumps(values))
    assert (
        checkpoint_manifest.read_manifest(described) == values
        and checkpoint_manifest.faults(described) == []
    )


@pytest.mark.parametrize(
    "change",
    [
        {"step": "240"},
        {"step": 240.0},
        {"step": True},
        {"data": 7},
        {"files": []},
        {"files": {"weights": 10}},
        {"files": {"weights": [10]}},
        {"files": {"weights": [-1, None]}},
        {"files": {"weights": ["10", None]}},
        {"files": {"../../../etc/passwd": [10, None]}},
        {"files": {"/etc/passwd": [10, None]}},
        {"leaves": None},
        {"leaves": {"params": []}},
        {"leaves": {"params": {"a": [2, "float32"]}}},
        {"leaves": {"params": {"a": [[-2], "float32"]}}},
        {"leaves": {"params": {"a": [[2], "float99"]}}},
        {"more": 1},
    ],
)
def test_a_manifest_of_another_form_is_refused(described, change):
    values = checkpoint_manifest.read_manifest(described) | change
    (described / checkpoint_manifest.MANIFEST).write_text(json.dumps(values))
    (fault,) = checkpoint_manifest.faults(described)
    assert str(described / checkpoint_manifest.MANIFEST) in fault


@pytest.mark.parametrize("text", ["[]", "null", "7", "{}", "[" * 10**5, "\ufeff{}", "NaN"])
def test_json_that_is_no_manifest_is_refused(described, text):
    (described / checkpoint_manifest.MANIFEST).write_text(text, encoding="utf-8")
    with pytest.raises(CheckpointMissing, match=r"240/manifest\.json: .*the save is damaged"):
        checkpoint_manifest.find(described.parent.parent)


def test_faults_of_any_kind_name_the_file(described):
    weights = described / "weights"
    weights.unlink()
    os.symlink(weights, weights)  # a loop
    assert "weights: " in checkpoint_manifest.faults(described)[0]
    weights.unlink()
    weights.mkdir()
    assert "weights: " in checkpoint_manifest.faults(described)[0]
    (described / checkpoint_manifest.MANIFEST).unlink()
    (described / checkpoint_manifest.MANIFEST).mkdir()
    assert "manifest.json: cannot be read" in checkpoint_manifest.faults(described)[0]
    moved = described.rename(described.with_name("250"))
    (moved / checkpoint_manifest.MANIFEST).rmdir()
    assert "was not finished" in checkpoint_manifest.faults(moved)[0]


def test_a_step_under_the_name_of_another_is_refused(described):
    moved = described.rename(described.with_name("340"))
    assert "describes step 240, not this one" in checkpoint_manifest.faults(moved)[0]


def test_what_is_no_step_is_passed_over(described):
    for name in ("²", "٣", "010", "7.orbax-checkpoint-tmp", "-5"):
        (described.parent / name).mkdir()
    (described.parent / "99").write_text("a file")
    assert checkpoint_manifest.steps(described.parent.parent) == [240]
    assert checkpoint_manifest.find(described.parent.parent).name == "240"


# --------------------------------------------------------------- which step a run goes on from


def stand_ins(workdir, sound, damaged):
    """Directories of steps, and a look that knows the sound ones."""
    for step in (*sound, *damaged):
        (workdir / "checkpoints" / str(step)).mkdir(parents=True)
    return lambda directory: [] if int(directory.name) in sound else [f"{directory}: broken"]


def usable(workdir, look, start_over=False):
    return checkpoint_fallback.newest_usable(
        checkpoint.epath.Path(workdir), look, start_over=start_over
    )


def test_where_all_are_damaged_nothing_is_touched(tmp_path):
    look = stand_ins(tmp_path, (), (10, 20))
    with pytest.raises(CheckpointMissing, match=r"every checkpoint is damaged.*--start_over") as e:
        usable(tmp_path, look)
    assert "step 10: " in str(e.value) and "step 20: " in str(e.value)
    assert checkpoint_manifest.steps(tmp_path) == [10, 20] and not (tmp_path / "damaged").exists()
    assert usable(tmp_path, look, start_over=True) is None
    assert (
        checkpoint_manifest.steps(tmp_path) == []
        and len(list((tmp_path / "damaged").iterdir())) == 2
    )


def test_a_first_save_that_was_not_finished_is_no_loss(tmp_path):
    look = stand_ins(tmp_path, (), (10,))
    (tmp_path / checkpoint_fallback.SAVING).write_text("10")
    assert usable(tmp_path, look) is None
    look = stand_ins(tmp_path, (), (20,))
    with pytest.raises(CheckpointMissing, match="every checkpoint is damaged"):
        usable(tmp_path, look)  # it was finished once


def test_the_newest_sound_one_is_taken_and_few_damaged_ones_are_kept(tmp_path):
    look = stand_ins(tmp_path, (10, 20), (30, 40))
    assert usable(tmp_path, look) == 20 and checkpoint_manifest.steps(tmp_path) == [10, 20]
    for step in (50, 60, 70):
        stand_ins(tmp_path, (), (step,))
        assert usable(tmp_path, look) == 20
    kept = sorted(path.name.split("-")[0] for path in (tmp_path / "damaged").iterdir())
    assert kept == ["50", "60", "70"]


def test_no_checkpoint_at_all_is_none(tmp_path):
    assert usable(tmp_path, lambda _: []) is None


# ------------------------------------------------------------------------- with Orbax


def test_a_run_whose_checkpoints_are_all_damaged_does_not_begin_anew(tmp_path):
    save_three(tmp_path)
    for step in (10, 20, 30):
        damage(largest(tmp_path / "checkpoints" / str(step)), "bit flipped")
    with pytest.raises(CheckpointMissing, match=r"every checkpoint is damaged.*\n  step 30: "):
        Checkpoints(tmp_path)
    assert checkpoint_manifest.steps(tmp_path) == [10, 20, 30]
    with Checkpoints(tmp_path, start_over=True) as checkpoints:
        assert checkpoints.saved is None


def test_without_checksums_a_step_that_cannot_be_loaded_falls_back(tmp_path):
    abstract, made = make()
    with Checkpoints(tmp_path, keep=3, hashes=False) as checkpoints:
        for step in (10, 20):
            checkpoints.save(step, advance(made, step), {"next_row": step})
    trees = [p for p in (tmp_path / "checkpoints" / "20").rglob("*") if p.name == "_METADATA"]
    for path in trees:
        path.write_bytes(b"\xff" * path.stat().st_size)
    with Checkpoints(tmp_path, hashes=False) as checkpoints:
        assert checkpoints.saved == 20
        loaded, data = checkpoints.load(abstract)
        assert checkpoints.saved == 10 and data == {"next_row": 10}
        np.testing.assert_array_equal(
            loaded.params["gen"]["bias"], advance(made, 10).params["gen"]["bias"]
        )
        checkpoints.save(20, loaded, data)
    assert checkpoint_manifest.steps(tmp_path) == [10, 20] and trees


@pytest.mark.parametrize("depth", ["start", "arrays", "manifest"])
def test_a_save_that_fails_is_one_line_and_the_older_step_stays(tmp_path, monkeypatch, depth):
    """Also where the directory of the step is there: that Orbax failed is known from Orbax."""
    full = OSError(errno.ENOSPC, "No space left on device", "x")
    _, made = make()

    class Failing:
        def result(self):
            raise ValueError("RESOURCE_EXHAUSTED: No space left on device [os_error_code='28']")

    def start(step, *_, **__):
        (tmp_path / "checkpoints" / str(step)).mkdir()
        if depth == "start":
            raise full
        return Failing()

    def describe(*_, **__):
        raise full

    with pytest.raises(CheckpointFailed) as caught, Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(10, made, {})
        checkpoints.wait()
        if depth == "manifest":
            monkeypatch.setattr(checkpoint, "write_manifest", describe)
        else:
            monkeypatch.setattr(checkpoints._orbax, "save_checkpointables_async", start)
        checkpoints.save(20, made, {})
        checkpoints.wait()
    told = str(caught.value)
    assert "checkpoint of step 20 could not be written" in told and "\n" not in told
    assert "no space is left on that disk; that of step 10 stays" in told
    assert checkpoint_manifest.find(tmp_path).name == "10"
    monkeypatch.undo()
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        assert checkpoints.saved == 10
        checkpoints.save(20, made, {})
    assert (
        checkpoint_manifest.steps(tmp_path) == [20]
        and not (tmp_path / checkpoint_fallback.SAVING).exists()
    )
