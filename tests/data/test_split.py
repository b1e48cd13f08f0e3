"""Held-out records are chosen by their ids alone."""

import pickle

import numpy as np
import pytest

from unireason_jax.data import split
from unireason_jax.data.files.streams import IndexedRecords
from unireason_jax.data.records import Record, RecordError, Segment
from unireason_jax.data.sources import ArrayRecordSource, WorldSource
from unireason_jax.prepare import prepare


class Named:
    """Records of these ids; None cannot be read."""

    def __init__(self, names):
        self.names = names

    def __len__(self):
        return len(self.names)

    def __getitem__(self, index):
        if self.names[index] is None:
            raise RecordError("?", None, "broken")
        return Record(self.names[index], (Segment("text", "user", text="a"),))

    def __repr__(self):
        return f"Named({len(self.names)})"


def names(part):
    return [part[index].id for index in range(len(part))]


def test_the_two_parts_are_all_records_and_share_none():
    source = Named([f"photo {n}" for n in range(2000)])
    kept, held_out = (split.part(source, 0.1, held_out=which) for which in (False, True))
    assert sorted(names(kept) + names(held_out)) == sorted(source.names)
    assert 150 < len(held_out) < 250


def test_a_record_stays_on_its_side_whatever_stands_beside_it():
    few = [f"photo {n}" for n in range(300)]
    more = [f"new {n}" for n in range(300)]
    before = set(names(split.part(Named(few), 0.2, held_out=True)))
    after = set(names(split.part(Named([*more, *few[::-1]]), 0.2, held_out=True)))
    assert before and before == after & set(few)


def test_the_records_of_one_row_stay_together():
    source = Named([f"row {n}@{visit}" for n in range(60) for visit in range(3)])
    found = [name.split("@")[0] for name in names(split.part(source, 0.3, held_out=True))]
    assert all(found.count(name) == 3 for name in found)


@pytest.mark.parametrize("share", [1e-9, 0.05, 1 - 1e-9])
def test_each_part_has_a_record_even_of_two(share):
    source = Named(["one", "two"])
    assert len(split.part(source, share, held_out=True)) == 1
    assert len(split.part(source, share, held_out=False)) == 1


@pytest.mark.parametrize("names_", [["one"], ["one@0", "one@1"]])
def test_what_cannot_be_held_out_is_said(names_):
    with pytest.raises(ValueError, match="too few to hold any out; add records, or set"):
        split.part(Named(names_), 0.1, held_out=True)
    with pytest.raises(ValueError, match="not between 0 and 1"):
        split.part(Named(["one", "two"]), 1.5, held_out=True)


def test_records_that_cannot_be_read_are_on_one_side_too():
    source = Named(["a", None, "b", None, "c"])
    kept, held_out = (split.part(source, 0.4, held_out=which) for which in (False, True))
    assert sorted([*kept.index, *held_out.index]) == [0, 1, 2, 3, 4]


def test_a_prepared_folder_keeps_its_index_and_reads_its_ids_once(tmp_path, monkeypatch):
    world = IndexedRecords(WorldSource(3, 40, {"t2i": 1}))
    prepare(world, tmp_path / "data", sizes="world", shard_records=16)
    source = ArrayRecordSource(tmp_path / "data")
    part = split.part(source, 0.3, held_out=True)
    np.testing.assert_array_equal(part.lengths(), source.lengths()[part.index])
    assert part.manifest is source.manifest and part.folder == source.folder
    monkeypatch.setattr(ArrayRecordSource, "__getitem__", None)
    again = split.part(ArrayRecordSource(tmp_path / "data"), 0.3, held_out=True)
    assert repr(again) == repr(part) != repr(split.part(source, 0.3, held_out=False))
    assert repr(pickle.loads(pickle.dumps(part))) == repr(part)
    assert not hasattr(split.part(Named(["a", "b"]), 0.5, held_out=True), "lengths")
