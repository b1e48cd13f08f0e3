"""The pipeline: same global batches for any hosts and workers, resumable, keyed by example."""

import gc
import json
import pickle

import numpy as np
import pytest

from tests.data.toy_records import ToySource, toy_spec
from unireason_jax.data.bagel.tokens import lengths as record_lengths
from unireason_jax.data.mixture import mix
from unireason_jax.data.pipeline import Pipeline
from unireason_jax.data.rows import Budgets
from unireason_jax.rules import visibility

BUDGETS = Budgets(160, 12, 24)


def make(sources=None, spec=None, **changes):
    settings = {"budgets": BUDGETS, "rows": 4, "seed": 7, "window": 16} | changes
    return Pipeline(sources or {"toy": ToySource(40)}, spec or toy_spec(), **settings)


def take(pipeline, batches):
    found = [next(pipeline) for _ in range(batches)]
    pipeline.close()
    return found


def row_set(batches):
    """Rows of a global batch as a sorted list of bytes (row order differs between hosts)."""
    rows = []
    for batch in batches:
        names = sorted(batch)
        for row in range(len(batch[names[0]])):
            rows.append(b"".join(batch[name][row].tobytes() for name in names))
    return sorted(rows)


def test_batches_have_the_announced_shapes():
    pipeline = make(processes=2, process=1)
    spec = pipeline.batch_spec()
    (batch,) = take(pipeline, 1)
    assert batch.keys() == spec.keys()
    for name, (shape, dtype) in spec.items():
        assert shape[0] == 4
        assert batch[name].shape == (2, *shape[1:]) and batch[name].dtype == dtype, name


def test_rows_padded_for_devices_that_share_them_hold_the_same_tokens():
    plain, padded = make(), make(multiple=8)
    shapes = padded.batch_spec()
    blocks = {"text_ids": 160, "vit_images": 16, "latent_weights": 24, "positions": 200}
    assert {name: shapes[name][0][1] for name in blocks} == blocks
    for mine, theirs in zip(take(plain, 3), take(padded, 3), strict=True):
        for name in ("text_ids", "vit_images", "latent_weights", "noise_seeds"):
            length = mine[name].shape[1]
            np.testing.assert_array_equal(mine[name], theirs[name][:, :length])
        assert (theirs["vit_images"][:, 12:] == -1).all()
        assert (mine["vis_lo"] >= 0).sum() == (theirs["vis_lo"] >= 0).sum()


def test_counts_come_with_the_batch():
    pipeline = make()
    for _ in range(3):
        batch = next(pipeline)
        seen = visibility.Visibility(*(batch[f"vis_{n}"] for n in visibility.Visibility._fields))
        real = seen.lo >= 0
        pairs = (visibility.dense(seen) & real[:, :, None]).sum()
        images = [np.unique(row[row >= 0], return_counts=True)[1] for row in batch["vit_images"]]
        assert pipeline.counts == {
            "text": real[:, :160].sum(),
            "vit": (batch["vit_images"] >= 0).sum(),
            "latent": real[:, 172:].sum(),
            "labels": (batch["text_weights"] > 0).sum(),
            "pairs": pairs,
            "vit_pairs": sum((sizes**2).sum() for sizes in images),
        }
        assert pipeline.counts["vit_pairs"] and pipeline.counts["latent"]
    pipeline.close()


def test_hosts_share_the_global_batches_of_one_host():
    whole = take(make(), 5)
    for processes in (2, 4):
        parts = [take(make(process=p, processes=processes), 5) for p in range(processes)]
        for step in range(5):
            assert row_set([whole[step]]) == row_set([part[step] for part in parts])


def test_a_process_feeds_the_places_it_is_told():
    """Hosts that hold parts of the same rows read the same; others' rows are in their places."""
    whole = take(make(), 4)
    for places in ([0, 1], [1, 3], [2]):
        pipeline = make(places=places)
        take(pipeline, 2)
        later = make(places=places)
        later.set_state(pipeline.get_state())
        for step, found in zip((2, 3), take(later, 2)):
            for name, rows in found.items():
                np.testing.assert_array_equal(rows, whole[step][name][places])


@pytest.mark.slow
def test_workers_do_not_change_the_batches():
    whole = take(make(), 4)
    for workers in (1, 2):
        pipeline = make(workers=workers, prefetch=1)
        for mine, theirs in zip(whole, take(pipeline, 4), strict=True):
            for name in mine:
                np.testing.assert_array_equal(mine[name], theirs[name])


@pytest.mark.parametrize("before, after", [(1, 1), (1, 2), (4, 2)])
def test_resume_continues_with_other_numbers_of_hosts(before, after):
    whole = take(make(), 8)
    states = []
    for process in range(before):
        pipeline = make(process=process, processes=before)
        take(pipeline, 5)
        states.append(pipeline.get_state())
    assert states == [states[0]] * before
    state = json.loads(json.dumps(states[0]))
    assert list(state.values()) == [20]
    parts = []
    for process in range(after):
        pipeline = make(process=process, processes=after)
        pipeline.set_state(state)
        parts.append(take(pipeline, 3))
        assert pipeline.get_state() == {"next_row": 32}
    for step in range(3):
        assert row_set([whole[5 + step]]) == row_set([part[step] for part in parts])


def test_state_can_be_set_back_during_iteration():
    pipeline = make()
    first = [next(pipeline) for _ in range(2)]
    pipeline.set_state({"next_row": 4})
    np.testing.assert_array_equal(next(pipeline)["latents"], first[1]["latents"])
    pipeline.close()
    with pytest.raises(ValueError, match="next_row"):
        pipeline.set_state({"step": 3})


@pytest.mark.parametrize("seed", [7, 2**31, 2**32 - 1])
def test_every_record_comes_once_an_epoch_with_new_randomness(seed):
    """Without dropout a row of an epoch is the same pack with other times and noise."""
    pipeline = make(spec=toy_spec(dropout=(0, 0, 0)), rows=1, seed=seed)
    packs = len(pipeline.plan)
    first, second = np.split(np.array(take(pipeline, 2 * packs), object), 2)
    assert [b["text_ids"].tobytes() for b in first] != [b["text_ids"].tobytes() for b in second]
    texts = [sorted(b["text_ids"].tobytes() for b in epoch) for epoch in (first, second)]
    assert texts[0] == texts[1]
    draws = []
    for epoch in (first, second):
        logits = np.concatenate([b["latent_logits"][0] for b in epoch])
        seeds = np.concatenate([b["noise_seeds"][0] for b in epoch])
        draws.append((set(logits[np.isfinite(logits)].tolist()), set(seeds.tolist()) - {0}))
    targets = sum(sum(s.loss == "flow" for s in ToySource(40)[i].segments) for i in range(40))
    for logits, seeds in draws:
        assert len(logits) == targets and len(seeds) == targets
    assert not draws[0][0] & draws[1][0] and not draws[0][1] & draws[1][1]


def test_randomness_belongs_to_the_example_not_to_the_row():
    one, four = make(rows=1), make(rows=4)
    rows = take(one, 8)
    batches = take(four, 2)
    for place, row in enumerate(rows):
        for name, values in row.items():
            np.testing.assert_array_equal(values[0], batches[place // 4][name][place % 4])
    other = take(make(seed=8), 1)[0]
    assert not np.array_equal(other["noise_seeds"], batches[0]["noise_seeds"])


def test_broken_records_are_quarantined_and_leave_their_slots_empty(tmp_path):
    path = tmp_path / "q" / "quarantine.jsonl"
    sources = {"a": ToySource(30, broken=10), "b": ToySource(30, seed=1, broken=10, late=True)}
    pipeline = make(sources, quarantine=path)
    assert len(pipeline.quarantine) == 3  # what lengths already show
    steps = -(-len(pipeline.plan) // 4) * 2
    for _ in range(steps):
        next(pipeline)
    stats = pipeline.stats()
    pipeline.close()
    assert stats["quarantined"] == 6
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    names = sorted(line["record"] for line in lines)
    assert names == sorted(
        [f"toy-0-{i}" for i in (9, 19, 29)] + [f"toy-1-{i}" for i in (9, 19, 29)]
    )
    assert {line["source"] for line in lines} == {"a", "b"}
    assert all("broken" in line["reason"] for line in lines if line["source"] == "a")
    assert all(len(line["reason"]) > 10 for line in lines)
    assert 0 < stats["fill/latent"] < stats["plan_fill/latent"]


def records_of(path):
    return [json.loads(line)["record"] for line in path.read_text().splitlines()]


def test_every_process_writes_its_failures_and_counts_those_of_all(tmp_path):
    path = tmp_path / "quarantine.jsonl"
    sources = {"a": ToySource(40, broken=10), "b": ToySource(40, seed=1, broken=10, late=True)}

    def job(processes, **more):
        return [
            make(sources, quarantine=path, process=p, processes=processes, **more)
            for p in range(processes)
        ]

    pipelines = job(2, fresh=True)
    for _ in range(2 * len(pipelines[0].plan) // 4):
        for pipeline in pipelines:
            next(pipeline)
    for news in [pipeline.quarantine.news() for pipeline in pipelines]:
        for pipeline in pipelines:
            pipeline.quarantine.know(news)
    for pipeline in pipelines:
        pipeline.close()
    assert [pipeline.stats()["quarantined"] for pipeline in pipelines] == [8, 8]
    parts = records_of(path), records_of(tmp_path / "quarantine.1.jsonl")
    assert all(parts) and len({*parts[0], *parts[1]}) == 8
    assert not [name for name in parts[1] if name.startswith("toy-0")]  # all have measured those
    assert [len(p.quarantine) for p in job(1)] == [8]  # resumed by another number of processes
    assert [len(p.quarantine) for p in job(1, fresh=True)] == [4]
    assert [file.name for file in tmp_path.iterdir()] == ["quarantine.jsonl"]


def test_a_resumed_run_goes_on_counting_what_its_rows_held():
    whole, first, second = make(), make(), make()
    for _ in range(5):
        next(whole)
    for _ in range(2):
        next(first)
    second.set_state(first.get_state())
    second.restore(json.loads(json.dumps(first.totals())))
    for _ in range(3):
        next(second)
    for pipeline in (whole, first, second):
        pipeline.close()
    timed = ("packs_per_second", "wait")
    found = [{k: v for k, v in p.stats().items() if k not in timed} for p in (whole, second)]
    assert found[0] == found[1]


def test_a_run_of_failures_stops_with_the_reason():
    source = ToySource(80, broken=1, late=True)
    pipeline = make({"toy": source}, rows=8)
    with pytest.raises(ValueError, match=r"of the first \d+ records failed"):
        take(pipeline, 20)
    pipeline.close()
    with pytest.raises(ValueError, match=r"none of the 20 records.*broken for the test"):
        make({"toy": ToySource(20, broken=1)})


def test_records_longer_than_a_row_are_quarantined(tmp_path):
    path = tmp_path / "quarantine.jsonl"
    sources = {"short": ToySource(20), "long": ToySource(20, seed=1, text=400)}
    pipeline = make(sources, quarantine=path)
    reasons = [json.loads(line)["reason"] for line in path.read_text().splitlines()]
    assert 0 < len(reasons) < 20
    assert all("text tokens exceed the row's 160" in reason for reason in reasons)
    planned = len(pipeline.plan.members)
    assert planned + len(reasons) == 40
    take(pipeline, 3)
    with pytest.raises(ValueError, match="no record fits a row"):
        make(sources, budgets=Budgets(3, 0, 0))


def test_stats_count_what_the_rows_hold():
    pipeline = make()
    batches = [next(pipeline) for _ in range(3)]
    stats = pipeline.stats()
    pipeline.close()
    text = sum(int((b["vis_key"][:, : BUDGETS.text] >= 0).sum()) for b in batches)
    assert stats["tokens/text"] == text
    latent = sum(int((b["vis_key"][:, BUDGETS.und :] >= 0).sum()) for b in batches)
    assert stats["tokens/latent"] == latent
    assert stats["fill/latent"] == pytest.approx(latent / (12 * BUDGETS.latent))
    assert stats["packs"] == 12 and stats["packs_per_second"] > 0
    assert stats["epoch"] == pytest.approx(12 / len(pipeline.plan))


def test_budgets_can_be_a_wished_row_length():
    pipeline = make({"toy": ToySource(300)}, budgets=200)
    assert 140 <= pipeline.budgets.total <= 260
    assert pipeline.plan.fill.min() > 0.9
    take(pipeline, 1)


def test_cache_holds_lengths_and_plan_and_notices_changed_records(tmp_path, monkeypatch):
    first = make(cache=tmp_path)
    assert sorted(p.name.split("-")[0] for p in tmp_path.iterdir()) == ["lengths", "plan"]
    again = make(cache=tmp_path)
    np.testing.assert_array_equal(first.plan.members, again.plan.members)
    assert len(list(tmp_path.iterdir())) == 2
    original = ToySource.__getitem__
    monkeypatch.setattr(ToySource, "__getitem__", lambda s, i: original(s, (i + 1) % 40))
    shifted = make(cache=tmp_path)
    spec = toy_spec()
    expected = [record_lengths(ToySource(40)[i], spec) for i in range(40)]
    np.testing.assert_array_equal(shifted._maker.lengths, expected)


def test_mixture_follows_the_weights_exactly():
    sources = {"a": ToySource(10), "b": ToySource(40, seed=1), "c": ToySource(5, seed=2)}
    mixture = mix(sources, weights={"a": 3, "b": 1}, examples=80, seed=4)
    assert mixture.names == ("a", "b")
    counts = np.bincount(mixture.index[:, 0])
    np.testing.assert_array_equal(counts, [60, 20])
    np.testing.assert_array_equal(np.bincount(mixture.index[:60, 1]), 6)
    assert np.bincount(mixture.index[60:, 1]).max() == 1
    plain = mix(sources)
    assert len(plain) == 55 and len(np.unique(plain.index, axis=0)) == 55
    assert mixture[0].id == sources["a"][int(mixture.index[0, 1])].id
    with pytest.raises(ValueError, match="no source named 'd'"):
        mix(sources, weights={"d": 1})
    with pytest.raises(ValueError, match="positive"):
        mix(sources, weights={"a": 0, "b": 1})
    with pytest.raises(ValueError, match="'empty' has no records"):
        mix({"empty": ToySource(0)})


@pytest.mark.parametrize("kept", [True, False])
def test_a_worker_gets_a_path_and_not_what_grows_with_the_data(tmp_path, kept):
    """The arrays lie in the cache, or in a folder that goes with the pipeline."""
    pipeline = make({"a": ToySource(30)}, workers=1, cache=tmp_path if kept else None)
    plain = make({"a": ToySource(30)})
    maker = pipeline._maker
    assert maker.digest == plain.digest
    assert {name for name, at in vars(maker).items() if isinstance(at, np.ndarray)} == {"lengths"}
    assert isinstance(maker.lengths, np.memmap) and isinstance(pipeline.plan.members, np.memmap)
    sent = pickle.dumps(maker)
    assert maker.file.name.encode() in sent and maker.file.is_absolute()
    state = maker.__getstate__()
    assert state["lengths"] is state["mixture"].index is state["plan"].members is None
    there = pickle.loads(sent)
    for name, array in plain._maker(0, 0).items():
        np.testing.assert_array_equal(there(0, 0)[name], array)
    file = maker.file
    del pipeline, maker, there
    gc.collect()
    assert file.exists() == kept
    if kept:
        file.write_bytes(file.read_bytes()[:-400])  # damaged: made again
        again = make({"a": ToySource(30)}, workers=1, cache=tmp_path)
        assert again._maker.file == file
        np.testing.assert_array_equal(again.plan.members, plain.plan.members)


def test_the_digest_knows_records_lengths_and_packs():
    """What several hosts compare before they train together."""
    same, digests = make().digest, set()
    assert make(process=1, processes=2).digest == same
    sources = {"toy": ToySource(40)}
    for changes in (
        {"seed": 8},
        {"window": 4},
        {"sources": {"toy": ToySource(40, broken=9)}},
        {"weights": {"toy": 1}, "examples": 39, "sources": sources},
    ):
        digests.add(make(**changes).digest)
    assert len(digests) == 4 and same not in digests


def test_rows_must_divide():
    with pytest.raises(ValueError, match="multiple of the 3 processes"):
        make(processes=3)


def test_a_source_with_a_quota_is_in_every_row():
    sources = {"many": ToySource(60), "few": ToySource(30, seed=1)}
    pipeline = make(sources, quotas={"few": 1})
    pipeline.close()
    plan, index = pipeline.plan, pipeline._maker.mixture.index
    with_few = [(index[plan.pack(i), 0] == 1).any() for i in range(len(plan))]
    assert len(plan) - sum(with_few) == plan.unmet <= 1
    with pytest.raises(ValueError, match="no source named 'none' for a quota"):
        make(sources, quotas={"none": 1})
