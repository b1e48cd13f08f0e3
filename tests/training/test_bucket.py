"""Checkpoints in a bucket: as on a file system, but damage is marked, and nothing is read back."""

import jax
import numpy as np
import pytest

from tests.training.test_checkpoint import advance, damage, largest, make, save_three
from unireason_jax.storage import paths
from unireason_jax.training import checkpoint, checkpoint_manifest
from unireason_jax.training.checkpoint import CheckpointMissing, Checkpoints


@pytest.fixture(scope="module")
def saved(bucket_server):
    """A workdir in the bucket with the steps 10, 20 and 30, and the state they came from."""
    return "gs://bucket/saved", *save_three("gs://bucket/saved")


@pytest.fixture
def copied(saved, place):
    """Another one like it, for a test to spoil."""
    paths.copy_tree(saved[0], place)
    return place


def spoil(workdir, step):
    """Flips a bit in the largest file of a step."""
    sizes = paths.below(paths.of(workdir) / "checkpoints" / str(step))
    name = max(sizes, key=lambda name: sizes[name][0])
    path = paths.of(workdir) / "checkpoints" / str(step) / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return path


def test_round_trip_keeps_every_bit_and_nothing_was_read_back(saved):
    workdir, abstract, made = saved
    loaded, data = checkpoint.load_state(workdir, abstract)
    assert int(loaded.step) == 30 and data == {"next_row": 130}
    for a, b in zip(jax.tree.leaves(loaded), jax.tree.leaves(advance(made, 30))):
        np.testing.assert_array_equal(a, b)
    files = checkpoint_manifest.read_manifest(f"{workdir}/checkpoints/30")["files"]
    assert all(crc is None and len(checksum) == 8 for _, crc, checksum in files.values())
    assert checkpoint_manifest.is_hashed(f"{workdir}/checkpoints/30")


def test_a_damaged_step_is_marked_and_written_again(copied):
    abstract, made = make()
    path = spoil(copied, 30)
    assert checkpoint_manifest.faults(f"{copied}/checkpoints/30") == [
        f"{path}: the content changed (checksum differs)."
    ]
    with Checkpoints(copied, keep=3) as checkpoints:
        assert checkpoints.saved == 20
        assert checkpoint_manifest.steps(copied) == [10, 20] and checkpoint_manifest.marked(
            copied
        ) == [30]
        mark = paths.of(copied) / "checkpoints" / "30" / "damaged.txt"
        assert str(path) in mark.read_text()
        assert int(checkpoints.load(abstract)[0].step) == 20
        checkpoints.save(25, advance(made, 25), {"next_row": 125})
        checkpoints.save(30, advance(made, 31), {"next_row": 131})
        checkpoints.wait()
        assert checkpoint_manifest.steps(copied) == [20, 25, 30] and not checkpoint_manifest.marked(
            copied
        )
        assert checkpoint.load_state(copied, abstract)[1] == {"next_row": 131}


def test_where_all_are_damaged_nothing_is_touched(copied):
    for step in (10, 20, 30):
        spoil(copied, step)
    with pytest.raises(CheckpointMissing, match="every checkpoint is damaged"):
        Checkpoints(copied)
    assert checkpoint_manifest.steps(copied) == [10, 20, 30]
    with Checkpoints(copied, start_over=True) as checkpoints:
        assert checkpoints.saved is None and checkpoint_manifest.marked(copied) == [10, 20, 30]


def test_a_step_that_was_never_finished_is_passed_over(copied):
    folder = paths.of(copied) / "checkpoints" / "30"
    for name in ("manifest.json", "commit_success.txt"):
        (folder / name).unlink()
    (paths.of(copied) / "saving").write_text("30")
    abstract, made = make()
    with Checkpoints(copied) as checkpoints:
        assert checkpoints.saved == 20
        assert not folder.exists() and not checkpoint_manifest.marked(copied)
        checkpoints.save(30, advance(made, 30), {"next_row": 130})
    assert checkpoint.load_state(copied, abstract)[1] == {"next_row": 130}


def test_a_run_that_was_copied_to_a_file_system_is_checked_there(saved, tmp_path):
    paths.copy_tree(f"{saved[0]}/checkpoints/30", tmp_path / "checkpoints" / "30")
    directory = tmp_path / "checkpoints" / "30"
    assert checkpoint_manifest.faults(directory) == []
    assert int(checkpoint.load_state(tmp_path, saved[1])[0].step) == 30
    damage(largest(directory), "bit flipped")
    (found,) = checkpoint_manifest.faults(directory)
    assert found == f"{largest(directory)}: the content changed (checksum differs)."


def test_a_step_that_goes_away_while_it_is_looked_at_is_passed_over(copied, monkeypatch):
    """As when something removes a step: the one before it is loaded."""
    abstract, _ = make()
    with Checkpoints(copied, keep=3) as checkpoints:
        (paths.of(copied) / "checkpoints" / "30" / "manifest.json").unlink()
        assert int(checkpoints.load(abstract)[0].step) == 20
        assert checkpoint_manifest.marked(copied) == [30]
