"""Rates with 95 % intervals: how sure a count of successes makes us."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

Z95 = 1.959963984540054
RESAMPLES = 2000


@dataclasses.dataclass(frozen=True)
class Rate:
    """A share of successes, or another mean.

    Attributes:
      value: the share in [0, 1], or the mean; nan when nothing was counted.
      low, high: ends of the 95 % interval; nan with `value`.
      count: how many were judged.
    """

    value: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        if not self.count:
            return "-"
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; an empty rate has null values."""
        values = dataclasses.asdict(self)
        return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in values.items()}


def wilson(outcomes: Iterable[bool]) -> Rate:
    """Share of true outcomes with Wilson's score interval (Wilson, 1927)."""
    outcomes = [bool(x) for x in outcomes]
    n = len(outcomes)
    if not n:
        return Rate(math.nan, math.nan, math.nan, 0)
    p = sum(outcomes) / n
    middle = (p + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 / (1 + Z95**2 / n) * math.sqrt(p * (1 - p) / n + Z95**2 / (4 * n**2))
    return Rate(p, max(middle - half, 0.0), min(middle + half, 1.0), n)


def mean_of_groups(groups: Mapping[str, Sequence[bool]], *, seed: int = 0) -> Rate:
    """Mean of the groups' shares, as GenEval averages over its tags.

    The interval is a percentile bootstrap that resamples within each group. Where all outcomes
    agree the bootstrap has no width; then Wilson's interval of the pooled outcomes is given.
    """
    filled = {name: np.asarray(values, float) for name, values in groups.items() if len(values)}
    total = sum(len(values) for values in filled.values())
    if not filled:
        return Rate(math.nan, math.nan, math.nan, 0)
    value = float(np.mean([values.mean() for values in filled.values()]))
    if all(values.min() == values.max() for values in filled.values()):
        pooled = wilson(np.concatenate(list(filled.values())) > 0)
        low, high = min(pooled.low, value), max(pooled.high, value)
        return Rate(value, low, high, total)
    rng = np.random.default_rng(seed)
    means = [
        rng.binomial(len(values), values.mean(), RESAMPLES) / len(values)
        for values in filled.values()
    ]
    low, high = np.percentile(np.mean(means, axis=0), [2.5, 97.5])
    return Rate(value, float(low), float(high), total)


def mean_over_runs(runs: Sequence[Mapping[str, Sequence[float]]], *, seed: int = 0) -> Rate:
    """Mean of the groups' means over runs that answered the same prompts (training seeds).

    The interval is a bootstrap over prompts: a prompt is drawn with the answers of all runs, so
    more runs do not pretend to be more prompts. Where nothing varies, Wilson's interval.

    Raises:
      ValueError: the runs did not answer the same prompts.
    """
    groups = _stacked(runs)
    if not groups:
        return Rate(math.nan, math.nan, math.nan, 0)
    count = sum(values.shape[1] for values in groups.values())
    if all(values.min() == values.max() for values in groups.values()):
        return dataclasses.replace(
            mean_of_groups({name: values.mean(0) for name, values in groups.items()}), count=count
        )
    return _bootstrap({name: values.mean(0) for name, values in groups.items()}, seed)


def mean_difference(
    larger: Sequence[Mapping[str, Sequence[float]]],
    smaller: Sequence[Mapping[str, Sequence[float]]],
    *,
    seed: int = 0,
) -> Rate:
    """Mean of the groups' means of `larger` minus those of `smaller`, prompt by prompt.

    Where no prompt differs from another the bootstrap has no width; then the share of prompts that
    may differ unseen, by Wilson's interval of none in as many, is the width to both sides.

    Raises:
      ValueError: the runs did not answer the same prompts.
    """
    one, two = _stacked(larger), _stacked(smaller)
    if {k: v.shape[1] for k, v in one.items()} != {k: v.shape[1] for k, v in two.items()}:
        raise ValueError("the rows were not asked the same prompts; evaluate both with one setting")
    gaps = {name: one[name].mean(0) - two[name].mean(0) for name in one}
    if gaps and all(np.ptp(values) == 0 for values in gaps.values()):
        value = float(np.mean([values.mean() for values in gaps.values()]))
        unseen = wilson([False] * sum(map(len, gaps.values())))
        return Rate(value, value - unseen.high, value + unseen.high, unseen.count)
    return _bootstrap(gaps, seed)


def _stacked(runs: Sequence[Mapping[str, Sequence[float]]]) -> dict[str, np.ndarray]:
    """Answers by group, float [runs, prompts]."""
    shapes = [{name: len(values) for name, values in run.items() if len(values)} for run in runs]
    if any(shape != shapes[0] for shape in shapes):
        raise ValueError("the runs were not asked the same prompts; evaluate all with one setting")
    return {name: np.array([run[name] for run in runs], float) for name in shapes[0]}


def _bootstrap(groups: Mapping[str, np.ndarray], seed: int) -> Rate:
    """Mean of the groups' means, prompts [n] resampled within each group."""
    rng = np.random.default_rng(seed)
    means = [x[rng.integers(0, len(x), (RESAMPLES, len(x)))].mean(1) for x in groups.values()]
    low, high = np.percentile(np.mean(means, axis=0), [2.5, 97.5])
    value = float(np.mean([x.mean() for x in groups.values()]))
    return Rate(value, float(low), float(high), sum(map(len, groups.values())))


def average(values: Sequence[float], *, seed: int = 0) -> Rate:
    """Mean of numbers (not shares) with a percentile bootstrap interval."""
    if not len(values):
        return Rate(math.nan, math.nan, math.nan, 0)
    x = np.asarray(values, float)
    picks = np.random.default_rng(seed).integers(0, len(x), (RESAMPLES, len(x)))
    low, high = np.percentile(x[picks].mean(1), [2.5, 97.5])
    return Rate(float(x.mean()), float(low), float(high), len(x))


def by_group(items: Iterable[tuple[str, bool]]) -> dict[str, list[bool]]:
    """Outcomes by group name, groups in order of first appearance."""
    groups: dict[str, list[bool]] = {}
    for name, outcome in items:
        groups.setdefault(name, []).append(bool(outcome))
    return groups
