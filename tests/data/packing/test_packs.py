"""The planner: nothing lost, nothing twice, no budget broken, high fill, bounded waiting."""

import numpy as np
import pytest

from unireason_jax.data.packing import blocks, packs
from unireason_jax.data.packing.bin_search import fill_rows, stratified_order
from unireason_jax.data.packing.budget_advice import advise_budgets
from unireason_jax.data.packing.packs import (
    VERSION,
    Quotas,
    cached_plan,
    load_plan,
    plan_key,
    plan_packs,
)
from unireason_jax.data.randomness import generator
from unireason_jax.data.rows import Budgets
from unireason_jax.speed import mixtures


def check_plan(plan, lengths):
    limit = plan.budgets.array()
    planned = np.sort(np.concatenate([plan.members, plan.oversized]))
    np.testing.assert_array_equal(planned, np.arange(len(lengths)))  # each exactly once
    totals = np.zeros((len(plan), 3), np.int64)
    for number in range(len(plan)):
        assert len(plan.pack(number)) > 0
        totals[number] = lengths[plan.pack(number)].sum(0)
    assert (totals <= limit).all()
    assert (lengths[plan.oversized] > limit).any(1).all()
    used = limit > 0
    np.testing.assert_allclose(plan.fill[used], totals.sum(0)[used] / (len(plan) * limit[used]))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("window", [1, 7, 64])
def test_every_record_is_in_exactly_one_pack(seed, window):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 60, (rng.integers(1, 300), 3)) + np.array([1, 0, 0])
    lengths[:, 1] *= rng.integers(0, 2, len(lengths))
    budgets = Budgets(*map(int, rng.integers(50, 150, 3)))
    plan = plan_packs(lengths, budgets, window=window, seed=seed)
    check_plan(plan, lengths)
    assert plan.staleness <= window


def test_long_records_are_reported_and_never_packed():
    lengths = np.array([[5, 0, 0], [11, 0, 0], [5, 1, 0], [4, 0, 8], [4, 0, 9]])
    plan = plan_packs(lengths, Budgets(10, 0, 8))
    np.testing.assert_array_equal(plan.oversized, [1, 2, 4])
    check_plan(plan, lengths)
    nothing = plan_packs(lengths, Budgets(1, 0, 0))
    assert len(nothing) == 0 and len(nothing.oversized) == 5


def test_a_perfect_packing_is_found():
    pairs = np.array([[3, 0, 16], [7, 16, 0]])
    plan = plan_packs(np.repeat(pairs, 40, 0), Budgets(10, 16, 16), window=32)
    np.testing.assert_array_equal(plan.fill, 1.0)
    assert len(plan) == 40


def test_waiting_is_bounded_by_the_window():
    """A record that fits nothing well still leaves the pool before `window` packs are over."""
    lengths = np.tile([[10, 0, 16]], (400, 1))
    lengths[::40] = [37, 48, 0]  # only ever wasteful
    for window in (8, 32):
        plan = plan_packs(lengths, Budgets(40, 48, 64), window=window)
        check_plan(plan, lengths)
        assert plan.staleness <= window


def test_same_seed_same_plan_and_another_seed_another_plan():
    lengths = mixtures.world(500)
    budgets = Budgets(200, 64, 160)
    first, again, other = (plan_packs(lengths, budgets, seed=s) for s in (1, 1, 2))
    np.testing.assert_array_equal(first.members, again.members)
    np.testing.assert_array_equal(first.offsets, again.offsets)
    assert not np.array_equal(first.members, other.members)


def test_stretches_of_the_stratified_order_have_the_composition_of_the_whole():
    lengths = mixtures.world(4000)
    order = stratified_order(lengths, np.random.default_rng(0))
    np.testing.assert_array_equal(np.sort(order), np.arange(4000))
    parts = lengths[order].reshape(8, 500, 3).mean(1)
    np.testing.assert_allclose(parts, np.tile(lengths.mean(0), (8, 1)), rtol=0.015)


@pytest.mark.parametrize("name", ["world", "stage2"])
def test_fill_of_every_stream_reaches_98_percent(name):
    lengths, tokens = mixtures.mixture(name, 6000)
    advice = advise_budgets(lengths, tokens)
    plan = plan_packs(lengths, advice.budgets)
    check_plan(plan, lengths)
    assert len(plan.oversized) == 0
    assert plan.fill_steady.min() >= 0.98
    assert plan.fill.min() >= 0.97  # the last packs weigh more in so few
    assert 0.8 <= advice.budgets.total / tokens <= 1.25
    np.testing.assert_allclose(advice.fill, plan.fill_steady, atol=0.015)


def test_a_stream_without_room_is_not_told_as_full():
    lengths = np.array([[9, 0, 16]] * 20)
    budgets = Budgets(40, 0, 64)
    plan = plan_packs(lengths, budgets)
    assert packs.fill_told(plan.fill, budgets) == "text 90.0%, latent 100.0%"


def test_advice_handles_streams_that_are_absent():
    rng = np.random.default_rng(0)
    text = np.stack([rng.integers(5, 40, 800), np.zeros(800, int), np.zeros(800, int)], 1)
    advice = advise_budgets(text, 256)
    assert (advice.budgets.vit, advice.budgets.latent) == (0, 0)
    assert "fill text" in str(advice) and "100.0%" not in str(advice)  # of what nobody uses
    assert abs(advice.budgets.text - 256) <= 8 and advice.fill.min() > 0.98
    understanding = text + np.array([0, 16, 0])
    advice = advise_budgets(understanding, 256)
    assert advice.budgets.latent == 0 and advice.budgets.vit % 16 == 0
    assert advice.fill.min() > 0.95


def test_advice_covers_the_longest_record_unless_told_otherwise():
    lengths = np.tile([[10, 16, 16]], (300, 1))
    lengths[7, 0] = 900
    assert advise_budgets(lengths, 128).budgets.text >= 900
    advice = advise_budgets(lengths, 128, coverage=0.99)
    assert advice.budgets.total < 256
    np.testing.assert_array_equal(plan_packs(lengths, advice.budgets).oversized, [7])


def test_one_outlier_in_a_thousand_does_not_stretch_the_rows():
    lengths = np.tile([[10, 16, 16]], (1500, 1))
    lengths[7, 0] = 900
    advice = advise_budgets(lengths, 128)
    assert advice.left_out.tolist() == [7] and advice.longest is None
    assert advice.budgets.total < 256
    few = advise_budgets(lengths[:300], 128)
    assert few.left_out.tolist() == [] and few.longest == 7
    usual = np.stack([np.arange(1500) % 40 + 5, np.full(1500, 16), np.full(1500, 16)], 1)
    advice = advise_budgets(usual, 256)
    assert advice.left_out.tolist() == [] and advice.longest is None


def test_plan_cache_returns_the_plan_and_survives_a_broken_file(tmp_path, monkeypatch):
    lengths = mixtures.world(300)
    budgets = Budgets(200, 64, 160)
    plan = cached_plan(lengths, budgets, tmp_path)
    (path,) = tmp_path.iterdir()
    stored = load_plan(path)
    assert stored.budgets == budgets and stored.staleness == plan.staleness
    for name in ("members", "offsets", "oversized", "fill", "fill_steady"):
        np.testing.assert_array_equal(getattr(stored, name), getattr(plan, name))
    path.write_bytes(path.read_bytes()[:100])
    np.testing.assert_array_equal(cached_plan(lengths, budgets, tmp_path).members, plan.members)
    monkeypatch.setattr(
        f"{cached_plan.__module__}.plan_packs", lambda *a, **k: pytest.fail("planned again")
    )
    np.testing.assert_array_equal(cached_plan(lengths, budgets, tmp_path).members, plan.members)
    with pytest.raises(pytest.fail.Exception):
        cached_plan(lengths, budgets, tmp_path, seed=1)
    with pytest.raises(pytest.fail.Exception):
        cached_plan(lengths[1:], budgets, tmp_path)


# ------------------------------------------------------------------ blocks


@pytest.mark.parametrize("quotas", [None, Quotas(np.arange(3000) % 10, {0: 1, 7: 1})])
def test_many_records_are_packed_in_blocks_as_full_as_in_one(monkeypatch, quotas):
    lengths, budgets = mixtures.world(3000), Budgets(600, 160, 480)
    how = {"window": 48, "quotas": quotas}
    one = plan_packs(lengths, budgets, **how)
    monkeypatch.setattr(blocks, "SIZE", 500)
    plan = plan_packs(lengths, budgets, **how)
    check_plan(plan, lengths)
    assert not np.array_equal(plan.members, one.members)
    assert (plan.fill >= one.fill - 0.015).all()
    assert plan.unmet <= one.unmet + 2 and plan.staleness <= 48


def test_blocks_follow_from_the_seed_and_not_from_the_processes(monkeypatch):
    lengths, budgets = mixtures.world(700), Budgets(300, 80, 240)
    monkeypatch.setattr(blocks, "SIZE", 300)
    one, two, other = (
        plan_packs(lengths, budgets, window=16, seed=seed, processes=processes)
        for seed, processes in ((1, 1), (1, 2), (2, 1))
    )
    for name in ("members", "offsets", "fill", "fill_steady", "staleness"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    assert not np.array_equal(one.members, other.members)


def test_a_block_or_less_is_planned_as_one_stream():
    """So that plans of earlier versions, and the runs that follow them, stay as they are."""
    lengths, budgets, rng = mixtures.world(800), Budgets(300, 80, 240), generator(3, VERSION)
    order = stratified_order(lengths, rng)
    ratio = lengths.sum(0) / budgets.array()
    found = fill_rows(lengths[order], np.zeros((0, 3)), budgets.array(), ratio, 64, rng)
    plan = plan_packs(lengths, budgets, window=64, seed=3, processes=2)
    np.testing.assert_array_equal(
        plan.members, order[np.concatenate([places for places, _ in found.packs])]
    )
    assert len(lengths) < blocks.SIZE == 2**17


def test_what_a_long_stretch_of_lengths_hashes_to_does_not_depend_on_their_width(monkeypatch):
    lengths, budgets = mixtures.world(300), Budgets(200, 64, 160)
    key = plan_key(lengths, budgets, window=8, seed=0)
    monkeypatch.setattr(packs, "_PIECE", 100)
    assert plan_key(lengths.astype(np.int32), budgets, window=8, seed=0) == key
    assert plan_key(lengths[:299], budgets, window=8, seed=0) != key


@pytest.mark.parametrize(
    "lengths, message",
    [
        (np.zeros((0, 3), int), "empty"),
        (np.ones((4, 2), int), r"\[records, 3\]"),
        (np.ones((4, 3)), "integers"),
        (np.array([[1, 1, 1], [0, 0, 0]]), "record 1"),
        (np.array([[1, -1, 1]]), "record 0"),
    ],
)
def test_unusable_lengths_are_refused(lengths, message):
    with pytest.raises(ValueError, match=message):
        plan_packs(lengths, Budgets(8, 8, 8))


def test_budgets_are_checked():
    assert Budgets(1, 2, 3).und == 3 and Budgets(1, 2, 3).total == 6
    with pytest.raises(ValueError, match="vit"):
        Budgets(1, -2, 3)
    with pytest.raises(ValueError, match="all budgets are 0"):
        Budgets(0, 0, 0)


# ------------------------------------------------------------------ quotas


@pytest.mark.parametrize("window", [16, 256])
def test_every_row_holds_its_quotas_under_the_true_budgets(window):
    """Two groups of BAGEL's kind, mandatory in every row; fill hardly suffers."""
    lengths = mixtures.world(3000)
    groups = np.arange(3000) % 10
    budgets = Budgets(600, 160, 480)
    free = plan_packs(lengths, budgets, window=window)
    plan = plan_packs(lengths, budgets, window=window, quotas=Quotas(groups, {0: 1, 7: 1}))
    check_plan(plan, lengths)
    assert plan.unmet <= 0.02 * len(plan)
    counts = [np.bincount(groups[plan.pack(i)], minlength=10)[[0, 7]] for i in range(len(plan))]
    assert plan.unmet == sum((count < 1).any() for count in counts)
    scarce = [np.bincount(groups[free.pack(i)], minlength=10)[[0, 7]] for i in range(len(free))]
    assert sum((count < 1).any() for count in scarce) > 5 * plan.unmet
    assert len(plan) <= len(free) * 1.03


def test_a_scarce_group_leaves_the_other_quota_standing():
    lengths = mixtures.world(1000)
    groups = np.zeros(1000, int)
    groups[:5] = 1
    plan = plan_packs(lengths, Budgets(300, 80, 240), quotas=Quotas(groups, {0: 2, 1: 1}))
    check_plan(plan, lengths)
    held = [np.bincount(groups[plan.pack(i)], minlength=2) for i in range(len(plan))]
    assert sum(count[1] for count in held) == 5 and max(count[1] for count in held) == 1
    assert sum(count[0] < 2 for count in held) <= 2


def test_more_bundles_than_rows_are_all_packed():
    lengths = np.tile([[10, 0, 16]], (40, 1))
    plan = plan_packs(lengths, Budgets(40, 0, 64), quotas=Quotas(np.zeros(40, int), {0: 2}))
    check_plan(plan, lengths)
    assert plan.unmet == 0 and len(plan) <= 12


@pytest.mark.parametrize(
    ("least", "message"),
    [
        ({1: 1}, "group 1 has 0 records for a quota of 1"),
        ({0: 0}, "for a quota of 0"),
        ({0: 9}, r"need \[90, 0, 144\] tokens .* budgets are \[40, 0, 64\]"),
    ],
)
def test_impossible_quotas_are_refused(least, message):
    lengths = np.tile([[10, 0, 16]], (40, 1))
    with pytest.raises(ValueError, match=message):
        plan_packs(lengths, Budgets(40, 0, 64), quotas=Quotas(np.zeros(40, int), least))


def test_quotas_are_part_of_a_cached_plan(tmp_path):
    lengths = mixtures.world(200)
    quotas = Quotas(np.arange(200) % 4, {0: 1})
    budgets = Budgets(200, 64, 160)
    plans = [cached_plan(lengths, budgets, tmp_path, quotas=q) for q in (None, quotas, quotas)]
    assert len(list(tmp_path.iterdir())) == 2
    np.testing.assert_array_equal(plans[1].members, plans[2].members)
    assert plans[1].unmet == plans[2].unmet and not np.array_equal(
        plans[0].members, plans[1].members
    )
