"""The budgets of a row, advised from the data.

The ratio of the three budgets must follow the mixture: with a wrong ratio one stream fills up
while another stays empty (69 % instead of 99 % in our measurements). ViT and latent budgets are
whole multiples of what images bring, so not every ratio can be had at every row length; the
advisor looks for the best one near the wished length and proves it by packing a sample.
"""

import dataclasses

import numpy as np

from unireason_jax.data.packing import bin_search, packs
from unireason_jax.data.packing.packs import plan_packs
from unireason_jax.data.randomness import generator
from unireason_jax.data.rows import Budgets

_OUTLIER = 2  # times the longest record that must fit; longer ones may be left out
_STRETCH = 8  # times the median record, from which on a record stretches its row
_SAMPLE = 2048  # records packed to compare candidates
_FINALISTS = 6  # candidates packed
_STEPS = 48  # budgets looked at per stream
_FAR = 0.05  # what a row twice as long (or half) as wished costs, in fill, times log


@dataclasses.dataclass(frozen=True)
class Advice:
    """Budgets for a mixture, and what a sample of it reaches with them.

    Attributes:
      budgets: the advice.
      und_per_gen: (text + vit) / latent; infinite without latents.
      fill: tokens / budget by stream of a packed sample without its last packs, float64 [3].
      records_per_pack: mean records in a row.
      left_out: numbers of the records that are too long for the row, int64 [n], longest first.
      longest: number of a record that is much longer than most, for which alone the row is as long
        as it is; None where there is none.
    """

    budgets: Budgets
    und_per_gen: float
    fill: np.ndarray
    records_per_pack: float
    left_out: np.ndarray
    longest: int | None

    def __str__(self) -> str:
        b = self.budgets
        return (
            f"row of {b.total} tokens: text {b.text}, vit {b.vit}, latent {b.latent}; "
            f"und:gen {self.und_per_gen:.3f}; {self.records_per_pack:.1f} records a row; "
            f"fill {packs.fill_told(self.fill, b)}"
        )


def advise_budgets(
    lengths: np.ndarray,
    tokens_per_row: int,
    *,
    text_slack: float = 0.008,
    coverage: float = 0.999,
    seed: int = 0,
) -> Advice:
    """Budgets near `tokens_per_row` that the mixture fills best in every stream.

    Args:
      lengths: int [n, 3] tokens of every record by stream (text, vit, latent).
      tokens_per_row: wished sum of the budgets; reached within about 20 % where the data allow.
      text_slack: part of the text budget left free, which makes the image streams fit exactly.
      coverage: part of the records that must fit; of the others, those that are far longer than
        these come out as oversized.
      seed: of the sample and its packing.

    Returns:
      An `Advice`.

    Raises:
      ValueError: for unusable lengths, or a row length below 1.
    """
    lengths = packs.checked_lengths(lengths)
    if tokens_per_row < 1:
        raise ValueError(f"tokens_per_row must be >= 1, not {tokens_per_row}")
    if not 0 < coverage <= 1:
        raise ValueError(f"coverage must be in (0, 1], not {coverage}")
    left_out = _outliers(lengths, coverage)
    everything, lengths = lengths, np.delete(lengths, left_out, 0)
    rng = generator(seed, packs.VERSION)
    sample = lengths[bin_search.stratified_order(lengths, rng)[:_SAMPLE]]
    best, best_score = None, -np.inf
    for budgets in _candidates(lengths, tokens_per_row, text_slack):
        plan = plan_packs(sample, budgets, window=256, seed=seed)
        # The last packs of a sample are emptier than those of a corpus; its mixture is not exact.
        fill = plan.fill_steady if len(sample) == _SAMPLE else plan.fill
        fill = np.minimum(fill, _attainable(lengths, budgets))
        score = fill.min() - _FAR * abs(np.log2(budgets.total / tokens_per_row))
        if score > best_score:
            best_score = score
            ratio = budgets.und / budgets.latent if budgets.latent else float("inf")
            best = Advice(budgets, ratio, fill, len(plan.members) / len(plan), left_out, None)
    left_out = left_out[(everything[left_out] > best.budgets.array()).any(1)]
    return dataclasses.replace(best, left_out=left_out, longest=_longest(everything, best.budgets))


def _outliers(lengths: np.ndarray, coverage: float) -> np.ndarray:
    """Numbers of records outside of `coverage`, `_OUTLIER` times as long as those inside."""
    allowed = int(round(len(lengths) * (1 - coverage), 6))
    inside = np.sort(lengths, axis=0)[len(lengths) - 1 - allowed]
    excess = (lengths / np.maximum(inside, 1)).max(1)
    order = np.argsort(-excess, kind="stable")[:allowed]
    return order[excess[order] > _OUTLIER]


def _longest(lengths: np.ndarray, budgets: Budgets) -> int | None:
    """The record for which alone a stream of the row is as long as it is, if there is one."""
    limit = budgets.array()
    inside = np.flatnonzero((lengths <= limit).all(1))
    ordered = np.sort(lengths[inside], axis=0)
    longest, usual = ordered[-1], np.maximum(ordered[(len(ordered) - 1) // 2], 1)
    stretched = (longest > _STRETCH * usual) & (limit < 2 * longest)
    if not stretched.any():
        return None
    return int(inside[lengths[inside, int(stretched.argmax())].argmax()])


def _attainable(lengths: np.ndarray, budgets: Budgets) -> np.ndarray:
    """Fill by stream that no packing can exceed, float64 [3]."""
    mean, limit = lengths.mean(0), budgets.array()
    per_row = (limit[mean > 0] / mean[mean > 0]).min()
    return np.where(limit > 0, per_row * mean / np.maximum(limit, 1), 1.0)


def _candidates(lengths: np.ndarray, tokens_per_row: int, text_slack: float) -> list[Budgets]:
    """The most promising budgets, judged by ratio and total alone, best first."""
    mean, longest = lengths.mean(0), lengths.max(0)
    share = tokens_per_row * mean / mean.sum()
    grids = [_grid(lengths[:, stream], share[stream]) for stream in (1, 2)]
    vit, latent = (g.ravel() for g in np.meshgrid(*grids, indexing="ij"))
    with np.errstate(divide="ignore", invalid="ignore"):
        records = np.stack([vit / mean[1], latent / mean[2]])  # NaN for an absent stream
    if mean[1] == mean[2] == 0:
        per_row = np.full(1, share[0] / max(mean[0], 1e-9) / (1 + text_slack))
        fill = np.ones(1)
    else:
        per_row = np.nanmin(records, axis=0)
        fill = per_row / np.nanmax(records, axis=0)
    text = np.ceil(per_row * mean[0] * (1 + text_slack))
    text = np.maximum(text, longest[0]).astype(np.int64)
    fill = np.minimum(fill, per_row * mean[0] / np.maximum(text, 1) if mean[0] else 1.0)
    total = text + vit + latent
    score = fill - _FAR * np.abs(np.log2(total / tokens_per_row))
    order = np.argsort(-score, kind="stable")[:_FINALISTS]
    return [Budgets(int(text[i]), int(vit[i]), int(latent[i])) for i in order]


def _grid(lengths: np.ndarray, share: float) -> np.ndarray:
    """Budgets of one image stream worth trying: multiples of its unit, int64, at least one."""
    longest = int(lengths.max())
    if longest == 0:
        return np.zeros(1, np.int64)
    unit = int(np.gcd.reduce(lengths))
    low = max(longest, int(0.6 * share))
    high = max(1.5 * share, 2.0 * longest)
    steps = np.arange(-(-low // unit), int(high / unit) + 1, dtype=np.int64)
    if len(steps) > _STEPS:
        steps = np.unique(np.linspace(steps[0], steps[-1], _STEPS).round().astype(np.int64))
    return steps * unit
