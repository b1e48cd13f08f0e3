"""A config's held-out records: a folder of their own, or a share of every source."""

import pytest
from ml_collections import ConfigDict

from unireason_jax.data.files.streams import IndexedRecords
from unireason_jax.data.sources import WorldSource
from unireason_jax.evals import samples
from unireason_jax.prepare import prepare
from unireason_jax.run import configuration, corpus, held_out
from unireason_jax.run.configuration import ConfigError

OWN = "configs/own_data.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures, edits and questions, a prepared folder each."""
    root = tmp_path_factory.mktemp("data")
    for number, task in enumerate(("t2i", "edit", "vqa")):
        source = IndexedRecords(WorldSource(number, 30, {task: 1}))
        prepare(source, root / task, sizes="world")
    return root


def config(folder, **changes):
    made = configuration.load(OWN)
    made.data.source, made.data.groups = str(folder), {"t2i": 1.0, "edit": 1.0, "vqa": 2.0}
    made.data.update(changes)
    return made


def ids(sources):
    return {name: {one[n].id for n in range(len(one))} for name, one in sources.items()}


def test_a_share_of_every_group_is_kept_from_training(folder):
    made = config(folder, held_out_share=0.2)
    kept, shares = corpus.make_sources(made, seed=0)
    apart, _ = corpus.make_sources(made, seed=1, held_out=True)
    assert shares == {"t2i": 1.0, "edit": 1.0, "vqa": 2.0} and apart.keys() == kept.keys()
    kept, apart = ids(kept), ids(apart)
    assert all(apart[n] and not kept[n] & apart[n] for n in apart)
    assert all(len(kept[n] | apart[n]) == 30 for n in apart)
    assert corpus.plan_folder(corpus.make_sources(made, seed=0)[0], None) == folder / "edit/plans"
    corpus.check_held_out(made)


def test_too_few_records_are_told_with_their_folder(tmp_path):
    prepare(IndexedRecords(WorldSource(0, 1, {"t2i": 1})), tmp_path / "one", sizes="world")
    made = config(tmp_path, held_out_share=0.2)
    made.data.groups = ConfigDict({"one": 1.0})
    with pytest.raises(
        ValueError, match=r"one has 1 record\(s\), too few .*held_out_share=0"
    ) as told:
        corpus.make_sources(made, seed=0)
    assert "ArrayRecordSource" not in str(told.value)


def test_a_folder_of_held_out_records_goes_before_a_share(folder):
    made = config(folder, held_out_share=0.2, held_out=str(folder / "edit"))
    assert all(len(one) == 30 for one in corpus.make_sources(made, seed=0)[0].values())
    assert len(corpus.make_sources(made, seed=0, held_out=True)[0]["held_out"]) == 30
    made = config(folder, held_out_share=0.0)
    with pytest.raises(ConfigError, match=r"name the held-out records, set config\.data\.held_out"):
        corpus.make_sources(made, seed=0, held_out=True)
    with pytest.raises(ConfigError, match=r"config\.data\.source: name the records"):
        corpus.make_sources(config(""), seed=0)


def test_requests_come_from_every_group_in_turn(folder):
    made = config(folder, held_out_share=0.3)
    found = [samples.asked(record).verb for record in held_out.requests(made)]
    assert found[:3] == ["edit", "generate", "ask"] and len(found) > 9


def test_sizes_and_full_tuning_are_arguments():
    assert configuration.load(OWN) == configuration.load(f"{OWN}:512")
    assert configuration.load(f"{OWN}:256").data.tokens < configuration.load(OWN).data.tokens
    assert configuration.load(f"{OWN}:1024,full").optim.lr == 2e-5
    for wrong, message in (("ful", "512, 1024 and full, not ful"), ("256,512", "takes one size")):
        with pytest.raises(ConfigError, match=message):
            configuration.load(f"{OWN}:{wrong}")
