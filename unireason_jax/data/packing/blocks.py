"""A stream of records in blocks, packed by several processes; the result depends on neither.

A block is a stretch of the stratified order, so it has the composition of the whole. The records
that are open at its end, and what its quotas held ready for further rows, go on to further blocks,
until one is left: no block ends in emptier rows.
"""

import collections
import concurrent.futures
import itertools
import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np

from unireason_jax.data import worker_processes
from unireason_jax.data.packing.bin_search import fill_rows
from unireason_jax.data.randomness import generator

SIZE = 2**17  # records of a block: half a minute of a processor
_WINDOWS = 4  # a block is as many windows at least, so that few of its records go on


class Bundler(Protocol):
    """What of `packs.Quotas` a block needs."""

    def subset(self, records: np.ndarray) -> "Bundler":
        """The same for some of the records, renumbered in their order."""

    def bundles(self, order: np.ndarray, lengths: np.ndarray, limit: np.ndarray) -> tuple:
        """Bundles of records for a row each, and the records left."""


class Rows(NamedTuple):
    """What a row can hold, and how the search goes.

    Attributes:
      limit: int64 [3], the row's budgets by stream.
      ratio: float64 [3], rows that all records together would fill, by stream.
      window: open records.
    """

    limit: np.ndarray
    ratio: np.ndarray
    window: int


class Packed(NamedTuple):
    """Packs of a block.

    Attributes:
      members: int32, records pack after pack.
      sizes: int32 [packs], how many of them each pack holds.
      open: int32, records that go on to another block.
      steady: packs built while records entered the pool.
      staleness: most packs any record waited in the pool.
    """

    members: np.ndarray
    sizes: np.ndarray
    open: np.ndarray
    steady: int
    staleness: int

    def of(self, block: np.ndarray) -> "Packed":
        """The same with the records that the places of a block stand for."""
        return self._replace(members=block[self.members], open=block[self.open])


def pack_stream(
    rows: Rows,
    lengths: np.ndarray,
    order: np.ndarray,
    quotas: Bundler | None,
    rng: np.random.Generator,
    seeds: tuple[int, int],
    *,
    processes: int = 1,
    tell: Callable[[int], Any] = lambda records: None,
) -> Iterator[Packed]:
    """Packs a stream of any length, block by block.

    Args:
      rows: what a row can hold.
      lengths: int [n, 3], tokens of every record by stream.
      order: int32, the stream.
      quotas: what every row should hold; of all `n` records.
      rng: of a stream that is one block.
      seeds: generators of further blocks are those of (the first, the second + 2^32 times the
        block's number).
      processes: that pack blocks at once.
      tell: hears how many records were packed, now and then.

    Yields:
      The packs of a block, of records. All records of the stream are in one.

    Raises:
      RuntimeError: a process died.
    """
    size, number = max(SIZE, _WINDOWS * rows.window), itertools.count(1)
    before = 2 * len(order)
    while size < len(order) <= before / 2:
        before = len(order)
        blocks = np.array_split(order, -(-len(order) // size))
        tasks = (
            (rows, lengths[block], quotas and quotas.subset(block), _generator(seeds, number))
            for block in blocks
        )
        left = []
        for block, packed in zip(blocks, _each(tasks, min(processes, len(blocks)))):
            yield packed.of(block)._replace(open=block[:0])
            left.append(block[packed.open])
            tell(len(packed.members))
        order, rng = np.concatenate(left), _generator(seeds, number)
    quotas = quotas and quotas.subset(order)
    yield _pack(rows, lengths[order], quotas, rng, continued=False, tell=tell).of(order)


def _generator(seeds: tuple[int, int], number: Iterator[int]) -> np.random.Generator:
    return generator(seeds[0], seeds[1] + (next(number) << 32))


def _pack(
    rows: Rows,
    lengths: np.ndarray,
    quotas: Bundler | None,
    rng: np.random.Generator,
    *,
    continued: bool = True,
    tell: Callable[[int], Any] = lambda records: None,
) -> Packed:
    """Packs a block; its records are numbered by their places."""
    order = np.arange(len(lengths), dtype=np.int32)
    bundles, order = quotas.bundles(order, lengths, rows.limit) if quotas else ([], order)
    sums = np.array([lengths[bundle].sum(0) for bundle in bundles], np.int64).reshape(-1, 3)
    search = (rows.limit, rows.ratio, rows.window, rng)
    found = fill_rows(lengths[order], sums, *search, continued=continued, tell=tell)
    packs = [np.concatenate([*(bundles[b] for b in bs), order[e]]) for e, bs in found.packs]
    steady, staleness = found.steady, found.staleness
    left = [bundles[b] for b in found.left]
    if left and not continued:  # more bundles than rows: the last rows hold several
        last = fill_rows(sums[found.left], sums[:0], *search)
        packs += [np.concatenate([left[i] for i in entries]) for entries, _ in last.packs]
        left, staleness = [], max(staleness, last.staleness)
    members = np.concatenate(packs) if packs else order[:0]
    sizes = np.fromiter(map(len, packs), np.int32)
    left = np.sort(np.concatenate([*left, order[found.open]]))
    return Packed(members, sizes, left, steady, staleness)


def _each(tasks: Iterable[tuple], processes: int) -> Iterator[Packed]:
    """The tasks' packs, in their order; two for each process are made ahead."""
    if processes < 2:
        yield from itertools.starmap(_pack, tasks)
        return
    pool = concurrent.futures.ProcessPoolExecutor(
        processes, multiprocessing.get_context("spawn"), worker_processes.end_with_parent
    )
    ahead: collections.deque[concurrent.futures.Future] = collections.deque()
    try:
        for task in tasks:
            ahead.append(pool.submit(_pack, *task))
            if len(ahead) > 2 * processes:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    except concurrent.futures.process.BrokenProcessPool:
        raise RuntimeError(
            "a process that planned packs died, perhaps for lack of memory; run the same command "
            "again, on a machine with more"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
