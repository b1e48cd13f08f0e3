"""Intervals against published values and against simulation."""

import math

import numpy as np
import pytest

from unireason_jax.evals.rates import by_group, mean_of_groups, wilson


@pytest.mark.parametrize(
    ("hits", "count", "low", "high"),
    [
        (8, 10, 0.4902, 0.9433),
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (50, 100, 0.4038, 0.5962),
    ],
)
def test_wilson(hits, count, low, high):
    rate = wilson([True] * hits + [False] * (count - hits))
    assert rate.value == hits / count and rate.count == count
    assert (rate.low, rate.high) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


def test_nothing_counted():
    for rate in (wilson([]), mean_of_groups({}), mean_of_groups({"a": []})):
        assert math.isnan(rate.value) and rate.count == 0 and str(rate) == "-"
        assert rate.to_dict() == {"value": None, "low": None, "high": None, "count": 0}


def test_mean_of_groups_weighs_groups_alike():
    groups = {"a": [True] * 90 + [False] * 10, "b": [True] * 2 + [False] * 8}
    rate = mean_of_groups(groups)
    assert rate.value == pytest.approx((0.9 + 0.2) / 2) and rate.count == 110
    spread = 1.96 * math.sqrt((0.9 * 0.1 / 100 + 0.2 * 0.8 / 10) / 4)
    assert rate.low == pytest.approx(rate.value - spread, abs=0.03)
    assert rate.high == pytest.approx(rate.value + spread, abs=0.03)
    assert mean_of_groups(groups) == rate


def test_mean_of_groups_covers_the_truth():
    rng = np.random.default_rng(0)
    truth = {"a": 0.3, "b": 0.8, "c": 0.5}
    covered = 0
    for seed in range(200):
        groups = {name: rng.random(40) < p for name, p in truth.items()}
        rate = mean_of_groups(groups, seed=seed)
        covered += rate.low <= np.mean(list(truth.values())) <= rate.high
    assert 0.89 <= covered / 200 <= 0.99


@pytest.mark.parametrize("value", [True, False])
def test_an_interval_without_spread_still_has_width(value):
    rate = mean_of_groups({"a": [value] * 10, "b": [value] * 10})
    assert rate.value == value and rate.high - rate.low == pytest.approx(0.161, abs=0.01)
    mixed = mean_of_groups({"a": [True] * 10, "b": [False] * 10})
    assert mixed.value == 0.5 and mixed.low < 0.5 < mixed.high


def test_by_group_keeps_order():
    assert by_group([("b", 1), ("a", 0), ("b", 0)]) == {"b": [True, False], "a": [False]}
