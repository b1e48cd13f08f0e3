"""The search that fills rows: who joins the oldest open record, under three budgets at once.

Three ideas make the fill high:

1. the stream of records is stratified by length (`stratified_order`), so that any stretch of it
   has the composition of the whole and no stream drifts ahead of the others;
2. a pool of `window` records stays open; each pack starts with the oldest one, which bounds how
   long any record waits to `window` packs, and grows by the records that keep the remaining
   budgets in the proportion of the pool;
3. the last two records of a pack are chosen by an exhaustive search over pairs.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

_GOLDEN = (5**0.5 - 1) / 2
_PAIRS = 96  # candidates of the exhaustive pair search
_GREEDY = 16  # candidates looked at when a pack grows by one record
_LEAST = 4  # the same after several failed starts
_STARTS = 12  # packs built before the best one is taken
_BUNDLES = 32  # bundles of a quota looked at for one that fits beside the oldest record
_GOOD = 0.004  # relative waste at which the search stops
_ABSENT = np.float32(1e9)  # relative length of an empty slot: never fits
_FIELD = 2**21  # tokens of a stream below which three of them make one int64


def stratified_order(lengths: np.ndarray, rng: np.random.Generator, strata: int = 128):
    """A random order of records in which every stretch has the composition of the whole.

    Records are sorted by (vit, latent, text), cut into `strata` equal parts, shuffled inside each
    part, and dealt evenly from all parts.

    Args:
      lengths: int [n, 3] tokens by stream.
      rng: decides everything that the strata leave open.
      strata: number of parts.

    Returns:
      int64 [n], a permutation.
    """
    count = len(lengths)
    tie = rng.permutation(count)
    ordered = tie[_by_size(lengths, tie)]
    strata = max(1, min(strata, count))
    starts = [-(-number * count // strata) for number in range(strata + 1)]
    key = rng.random(count)
    phase = (np.arange(strata) * _GOLDEN + rng.random()) % 1.0  # like parts take turns
    for first, end, ahead in zip(starts, starts[1:], phase):  # in place: there may be 10^8
        inside = np.argsort(key[first:end], kind="stable")
        ordered[first:end] = ordered[first:end][inside]
        key[first:end] = (np.arange(end - first) + ahead) / (end - first)  # now: its turn
    return ordered[np.argsort(key, kind="stable")]


def _by_size(lengths: np.ndarray, order: np.ndarray) -> np.ndarray:
    """The places in `order` of its records by (vit, latent, text), equal ones as they come."""
    if lengths.max(initial=0) < _FIELD:  # one number a record is sorted sooner than three
        size = lengths[:, 1].astype(np.int64) * _FIELD + lengths[:, 2]
        size *= _FIELD
        size += lengths[:, 0]
        return np.argsort(size[order], kind="stable")
    return np.lexsort((lengths[order, 0], lengths[order, 2], lengths[order, 1]))


class _Pool:
    """The open records: relative lengths by slot, refilled from the ordered stream."""

    def __init__(self, relative: np.ndarray, window: int):
        self.relative = relative  # float32 [records, 3] in stream order
        self.next = min(window, len(relative))
        self.slots = relative[: self.next].copy()
        self.entry = np.arange(self.next)  # place in the stream of the record in each slot
        self.born = np.zeros(self.next, np.int64)  # packs built before it entered
        self.sum = self.slots.sum(0, dtype=np.float64)

    def replace(self, used: list[int], built: int) -> None:
        """Removes the records of slots `used`; new ones enter, or the pool shrinks."""
        self.sum -= self.relative[self.entry[used]].sum(0, dtype=np.float64)
        fresh = min(len(used), len(self.relative) - self.next)
        into = used[:fresh]
        incoming = np.arange(self.next, self.next + fresh)
        self.slots[into] = self.relative[incoming]
        self.entry[into] = incoming
        self.born[into] = built
        self.sum += self.slots[into].sum(0, dtype=np.float64)
        self.next += fresh
        if fresh < len(used):
            keep = np.ones(len(self.entry), bool)
            keep[used[fresh:]] = False
            self.slots, self.entry = self.slots[keep], self.entry[keep]
            self.born = self.born[keep]


def _grow(pool: _Pool, oldest: int, room: np.ndarray, mean: np.ndarray, reach: int, rng):
    """A pack started with slot `oldest` and grown until about two records are missing.

    `room` is what the relative budgets have without the records that the pack must hold.

    Returns the slots and the remaining relative budgets, float64 [3].
    """
    used = [oldest]
    remaining = room - pool.slots[oldest].astype(np.float64)
    live = mean > 0
    missing = float((remaining[live] / mean[live]).mean())
    while missing > 2.7 and len(used) < len(pool.slots):
        start = int(rng.integers(len(pool.slots)))
        near = np.arange(start, start + min(reach, len(pool.slots))) % len(pool.slots)
        left = remaining - pool.slots[near]
        ratio = left[:, live] / mean[live]
        imbalance = ratio.max(1) - ratio.min(1)
        imbalance[left.min(1) < -1e-6] = np.inf
        for slot in used:
            imbalance[near == slot] = np.inf
        best = int(imbalance.argmin())
        if not np.isfinite(imbalance[best]):
            break
        used.append(int(near[best]))
        remaining = left[best]
        missing = float(ratio[best].mean())
    return used, remaining


def _finish(pool: _Pool, used: list[int], remaining: np.ndarray, slack: np.ndarray, start: int):
    """The best zero, one or two further slots, the cost they reach and what they waste.

    The cost is the summed distance of the remaining relative budgets from `slack`, the part of
    each budget that the pool's composition cannot fill; the waste is what remains beyond it.
    """
    size = len(pool.slots)
    near = np.arange(start, start + min(_PAIRS, size)) % size
    candidates = np.zeros((len(near) + 1, 3), np.float32)  # row 0: take none
    candidates[1:] = pool.slots[near]
    for slot in used:
        candidates[1:][near == slot] = _ABSENT
    first = remaining.astype(np.float32) - candidates
    left = first[:, None, 0] - candidates[None, :, 0]
    least = left.copy()
    cost = np.abs(left - np.float32(slack[0]))
    for stream in (1, 2):
        np.subtract(first[:, None, stream], candidates[None, :, stream], out=left)
        np.minimum(least, left, out=least)
        left -= np.float32(slack[stream])
        cost += np.abs(left, out=left)
    cost[least < -1e-6] = np.inf
    cost.ravel()[len(candidates) + 1 :: len(candidates) + 1] = np.inf  # no record twice
    flat = int(cost.argmin())
    pair = divmod(flat, len(candidates))
    end = first[pair[0]] - candidates[pair[1]]
    waste = float(np.maximum(end - slack, 0.0).sum())
    return [int(near[i - 1]) for i in pair if i > 0], float(cost.ravel()[flat]), waste


def _build(pool: _Pool, room: np.ndarray, ratio: np.ndarray, rng: np.random.Generator) -> list[int]:
    """Slots of the best pack found that contains the oldest record of the pool."""
    oldest = int(pool.entry.argmin())
    mean = np.maximum(pool.sum / len(pool.slots), 0.0)
    mean[ratio == 0] = 0.0
    slack = 1.0 - mean / max(mean.max(), 1e-12)
    slack[ratio == 0] = 1.0
    best, best_cost = [oldest], np.inf
    for attempt in range(_STARTS):
        reach = max(_GREEDY >> attempt, _LEAST)  # wider variety after each failure
        used, remaining = _grow(pool, oldest, room, mean, reach, rng)
        start = int(rng.integers(len(pool.slots)))
        more, cost, waste = _finish(pool, used, remaining, slack, start)
        if cost < best_cost:
            best, best_cost = used + more, cost
        if waste < _GOOD or len(best) == len(pool.slots):
            break
    return best


class Filled(NamedTuple):
    """Packs of places in a stream, and what `PackPlan` reports of them.

    Attributes:
      packs: (places, bundles) of every pack.
      left: bundles in no pack.
      open: places in no pack, int64: the records that were open when a stream to be continued
        ended.
      steady: packs built while records entered the pool.
      staleness: most packs any record waited in the pool.
    """

    packs: list[tuple[np.ndarray, list[int]]]
    left: list[int]
    open: np.ndarray
    steady: int
    staleness: int


def fill_rows(
    ordered,
    bundles,
    limit,
    ratio,
    window: int,
    rng: np.random.Generator,
    *,
    continued: bool = False,
    tell: Callable[[int], Any] = lambda records: None,
) -> Filled:
    """Packs a stream of records [n, 3], each pack beside one of the bundles [m, 3] while any fits.

    A bundle is chosen to fit beside the oldest record, whose wait stays bounded. Where the stream
    is `continued` elsewhere, the search ends with a full pool, whose records go on there. `tell`
    hears of every pack how many records it took.
    """
    relative = (ordered / np.maximum(limit, 1)).astype(np.float32)
    packs, steady, staleness = [], 0, 0
    pool, left = _Pool(relative, window), list(range(len(bundles)))
    while len(pool.slots) and not (continued and pool.next == len(relative)):
        room = limit - ordered[pool.entry.min()]
        bundle = [b for b in left[:_BUNDLES] if (bundles[b] <= room).all()][:1]
        for taken in bundle:
            left.remove(taken)
        free = limit - bundles[bundle].sum(0)
        used = _build(pool, np.where(limit > 0, free / np.maximum(limit, 1), 1.0), ratio, rng)
        chosen = pool.entry[used]
        while (ordered[chosen].sum(0) > free).any():  # float32 search, integer law
            used, chosen = used[:-1], chosen[:-1]
        staleness = max(staleness, len(packs) - int(pool.born[used].min()))
        packs.append((chosen, bundle))
        tell(len(chosen))
        pool.replace(used, len(packs))
        if pool.next < len(relative):
            steady = len(packs)
    return Filled(packs, left, np.sort(pool.entry), steady, staleness)
