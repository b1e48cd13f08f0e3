"""Lengths of records: believed where they are right, else measured once, in parallel, and kept."""

import numpy as np

from tests.data.toy_records import ToySource, toy_spec
from unireason_jax.data.bagel.tokens import SampleSpec
from unireason_jax.data.bagel.tokens import lengths as record_lengths
from unireason_jax.data.image_sizes import SIZES
from unireason_jax.data.mixture import mix
from unireason_jax.data.packing import lengths as lengths_room
from unireason_jax.data.packing.lengths import measure
from unireason_jax.data.quarantine import Quarantine
from unireason_jax.data.sources import WorldSource
from unireason_jax.data.text.tokenizer import world_tokenizer


def test_measure_gives_each_example_the_lengths_of_its_record():
    mixture = mix({"toy": ToySource(6, broken=3)}, weights={"toy": 1}, examples=15)
    spec, quarantine = toy_spec(), Quarantine()
    found = measure(mixture, spec, quarantine)
    assert len(quarantine) == 2
    for (_, record), row in zip(mixture.index.tolist(), found):
        good = record % 3 != 2
        expected = record_lengths(ToySource(6)[record], spec) if good else (0, 0, 0)
        np.testing.assert_array_equal(row, expected)


class IndexedSource(ToySource):
    """A source that brings its lengths along."""

    shift = 0

    def lengths(self):
        spec = toy_spec()
        return np.array([record_lengths(self[i], spec) for i in range(40)]) + self.shift


def test_lengths_of_a_source_are_believed_only_when_they_are_right():
    source = IndexedSource(40)
    mixture = mix({"toy": source}, weights={"toy": 1}, examples=25)
    right = measure(mixture, toy_spec(), Quarantine())
    np.testing.assert_array_equal(right, source.lengths()[mixture.index[:, 1]])
    source.shift = 1
    np.testing.assert_array_equal(measure(mixture, toy_spec(), Quarantine()), right)


class CountingSource(IndexedSource):
    """Counts how often a record is read."""

    read = 0

    def __getitem__(self, index):
        type(self).read += 1
        return super().__getitem__(index)

    def lengths(self):
        return np.full((400, 3), 7)


def test_an_index_of_other_settings_is_measured_once_with_a_reason(tmp_path, capsys):
    mixture = mix({"toy": CountingSource(400, broken=5)})
    found = measure(mixture, toy_spec(), Quarantine(), directory=tmp_path)
    assert CountingSource.read >= 400
    assert "toy: its index was made with another tokenizer" in capsys.readouterr().err
    CountingSource.read, book = 0, Quarantine()
    again = measure(mixture, toy_spec(), book, directory=tmp_path)
    np.testing.assert_array_equal(again, found)
    broken = int((~found.any(1)).sum())
    assert broken and len(book) == broken  # the reasons are there again
    assert CountingSource.read <= 2 * lengths_room._SPOT_CHECKS + broken
    assert "index" not in capsys.readouterr().err


def test_many_records_are_measured_in_processes(monkeypatch):
    mixture = mix({"world": WorldSource(0, 60, {"t2i": 1.0, "edit": 1.0})})
    spec = SampleSpec(world_tokenizer(), **SIZES["world"])
    alone = measure(mixture, spec, Quarantine())
    monkeypatch.setattr(lengths_room, "PARALLEL_FROM", 50)
    monkeypatch.setattr(lengths_room, "_CHUNK", 16)
    np.testing.assert_array_equal(measure(mixture, spec, Quarantine(), quiet=True), alone)
