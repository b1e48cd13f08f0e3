"""Checksums in the chunks of arrays: made while they are written, compared when they are read."""

import json
import logging
import re

import jax
import numpy as np
import pytest
from orbax.checkpoint._src.serialization import tensorstore_utils as orbax

from tests.training.test_checkpoint import advance, damage, make
from unireason_jax.training import checkpoint, checkpoint_chunks, checkpoint_manifest
from unireason_jax.training.checkpoint import CheckpointMissing, Checkpoints

CHUNKS = r"(params|opt_state|ema)/ocdbt\.process_0/d/"


@pytest.fixture
def every_file(monkeypatch):
    """Files of chunks count from the first byte on."""
    monkeypatch.setattr(checkpoint_chunks, "_SMALL", 0)


def save_two(workdir, **options):
    """Steps 10 and 20 of a state whose chunks are in files of their own."""
    abstract, made = make(width=512)
    with Checkpoints(workdir, keep=2, **options) as checkpoints:
        for step in (10, 20):
            checkpoints.save(step, advance(made, step), {"next_row": step})
    return abstract, made


def chunk_files(directory):
    """The files below a step's directory that hold values which loading reads."""
    return [p for p in directory.rglob("*") if re.search(f"{CHUNKS}[^/]+$", str(p))]


def test_a_save_reads_nothing_of_the_arrays_back(tmp_path, every_file, monkeypatch):
    read, crc = [], checkpoint_manifest._crc
    monkeypatch.setattr(checkpoint_manifest, "_crc", lambda p: read.append(p) or crc(p))
    save_two(tmp_path)
    step = tmp_path / "checkpoints" / "20"
    chunks = {str(path.relative_to(step)) for path in chunk_files(step)}
    facts = checkpoint.read_manifest(step)["files"]
    assert chunks == {
        name for name, fact in facts.items() if fact[1:] == [None, "crc32c of chunks"]
    }
    total = sum(p.stat().st_size for p in step.rglob("*") if p.is_file())
    assert sum(p.stat().st_size for p in chunk_files(step)) > 0.7 * total
    assert read and not any(str(path).endswith(tuple(chunks)) for path in read)
    assert checkpoint.is_hashed(step) and checkpoint.faults(step) == []
    small = {name: fact for name, fact in facts.items() if name not in chunks}
    assert all(len(fact) == 2 and isinstance(fact[1], int) for fact in small.values())


@pytest.mark.parametrize("how", ["bit flipped", "truncated", "missing"])
def test_damage_in_every_kind_of_file_is_named(tmp_path, every_file, how):
    save_two(tmp_path)
    step = tmp_path / "checkpoints" / "20"
    kinds = {}
    for path in sorted(step.rglob("*")):
        if path.is_file():
            name = re.sub("[0-9a-f]{32}", "*", str(path.relative_to(step)))
            kinds[name.partition("/")[2] or name] = path
    assert len(kinds) >= 9
    for victim in kinds.values():
        kept = victim.read_bytes()
        damage(victim, how)
        told = checkpoint.faults(step)
        assert told and victim.name in told[0], victim
        victim.write_bytes(kept)
    assert checkpoint.faults(step) == []


def test_a_changed_chunk_is_named_with_its_file_and_array_and_the_step_before_is_used(
    tmp_path, every_file, caplog
):
    abstract, _ = save_two(tmp_path)
    (victim,) = (p for p in chunk_files(tmp_path / "checkpoints" / "20") if "params" in str(p))
    damage(victim, "bit flipped")
    with caplog.at_level(logging.ERROR, logger="absl"), Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.saved == 10
    assert f"{victim}: the content changed (checksum of " in caplog.text
    assert int(checkpoint.load_state(tmp_path, abstract)[0].step) == 10


def test_what_is_loaded_is_compared_even_where_no_checksums_were_asked_for(tmp_path):
    abstract, made = save_two(tmp_path, hashes=False)
    for victim in chunk_files(tmp_path / "checkpoints" / "20"):
        damage(victim, "bit flipped")
    assert checkpoint.faults(tmp_path / "checkpoints" / "20") == []  # sizes are as they were
    with pytest.raises(CheckpointMissing, match="its arrays cannot be loaded"):
        checkpoint.load_state(tmp_path, abstract)
    with Checkpoints(tmp_path, hashes=False) as checkpoints:
        assert checkpoints.saved == 20
        loaded, data = checkpoints.load(abstract)
    assert data == {"next_row": 10}
    for got, want in zip(jax.tree.leaves(loaded.params), jax.tree.leaves(made.params)):
        np.testing.assert_array_equal(got, np.asarray(want) + np.float32(10))


def test_checkpoints_without_such_checksums_are_checked_by_their_files(tmp_path, monkeypatch):
    """Those of earlier versions, and of an Orbax whose metadata are made elsewhere."""
    monkeypatch.setattr(checkpoint_chunks, "are_in", lambda *_: False)
    abstract, _ = save_two(tmp_path)
    monkeypatch.undo()
    step = tmp_path / "checkpoints" / "20"
    manifest = json.loads((step / checkpoint.MANIFEST).read_text().splitlines()[0])
    assert all(isinstance(crc, int) for _, crc in manifest["files"].values())
    assert int(checkpoint.load_state(tmp_path, abstract)[0].step) == 20
    victim = chunk_files(step)[0]
    damage(victim, "bit flipped")
    assert checkpoint.faults(step) == [f"{victim}: the content changed (checksum differs)."]


def test_arrays_whose_chunks_have_none_are_read_back(tmp_path, every_file, monkeypatch):
    checkpoint_chunks.install()
    monkeypatch.setattr(orbax, "_build_zarr3_metadata", orbax._build_zarr3_metadata.__wrapped__)
    save_two(tmp_path)
    step = tmp_path / "checkpoints" / "20"
    facts = checkpoint.read_manifest(step)["files"]
    assert all(len(fact) == 2 and isinstance(fact[1], int) for fact in facts.values())
    assert not checkpoint_chunks.are_checked(step / "params")


def test_processes_share_the_reading_of_the_chunks(tmp_path):
    save_two(tmp_path)
    part = tmp_path / "checkpoints" / "20" / "params"
    victim = next(p for p in chunk_files(tmp_path / "checkpoints" / "20") if "params" in str(p))
    damage(victim, "bit flipped")
    shares = [checkpoint_chunks.faults(part, slice(n, None, 2)) for n in range(2)]
    (told,) = checkpoint_chunks.faults(part)
    assert sorted(shares) == [[], [told]] and victim.name in told
    # A database that cannot be opened is a fault, too, and no traceback.
    (part / "manifest.ocdbt").write_bytes(b"nothing")
    (told,) = checkpoint_chunks.faults(part)
    assert told.startswith(f"{part}: its arrays cannot be read (")
