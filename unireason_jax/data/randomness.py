"""Random numbers that are a function of what they are for: Philox (Salmon et al. 2011) by key."""

import numpy as np


def generator(first: int, second: int) -> np.random.Generator:
    """The generator of a pair of numbers, e.g. (seed, example).

    Args:
      first, second: in [0, 2**64), as they are: a list of Python integers would become float64
        from 2**63 on, and lose its low bits.

    Raises:
      OverflowError: a number out of range.
    """
    return np.random.Generator(np.random.Philox(key=np.array([first, second], np.uint64)))
