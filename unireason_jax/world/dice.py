"""Random draws that are a pure function of (seed, index, stream).

One counter-based generator per example (Philox, Salmon et al. 2011) makes any example reachable
without drawing the ones before it, so resuming, sharding and shuffling never change an example.
"""

import zlib
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")
_BLOCK = 64


class Dice:
    """Scalar draws for one example, served from blocks of uniform doubles.

    Args:
        seed: data seed, 0 <= seed < 2**64.
        index: example number, 0 <= index < 2**64.
        stream: name that separates the draws of different tasks at the same (seed, index).

    Raises:
        ValueError: when seed or index is out of range.
    """

    __slots__ = ("_draws", "_generator")

    def __init__(self, seed: int, index: int, stream: str = ""):
        if not (0 <= seed < 2**64 and 0 <= index < 2**64):
            raise ValueError(f"seed {seed} and index {index} must lie in [0, 2**64)")
        key = np.array([seed, index], np.uint64)
        counter = np.array([0, 0, 0, zlib.crc32(stream.encode())], np.uint64)
        self._generator = np.random.Generator(np.random.Philox(key=key, counter=counter))
        self._draws: list[float] = []

    def uniform(self) -> float:
        """Return one uniform double in [0, 1)."""
        if not self._draws:
            self._draws = self._generator.random(_BLOCK).tolist()
        return self._draws.pop()

    def below(self, n: int) -> int:
        """Return a uniform integer in [0, n)."""
        return int(self.uniform() * n)

    def chance(self, probability: float) -> bool:
        """Return True with the given probability."""
        return self.uniform() < probability

    def pick(self, items: Sequence[T]) -> T:
        """Return one item of a non-empty sequence, uniformly."""
        return items[int(self.uniform() * len(items))]

    def distinct(self, items: Sequence[T], k: int) -> list[T]:
        """Return k different positions' items in random order (partial Fisher-Yates).

        Raises:
            ValueError: when k exceeds the number of items.
        """
        if k > len(items):
            raise ValueError(f"cannot draw {k} distinct items from {len(items)}")
        pool = list(items)
        for i in range(k):
            j = i + self.below(len(pool) - i)
            pool[i], pool[j] = pool[j], pool[i]
        return pool[:k]
