"""When a flow target is noised, and with which noise: drawn by example, never by row or host."""

import numpy as np


def draw(targets: int, rng: np.random.Generator) -> tuple[list[float], list[int]]:
    """Timestep and noise of every flow target of a sample.

    Returns:
      (logits, seeds): normal draws z, of which the training step makes t = shift(sigmoid(z))
      (`rules.flow.timesteps`), and the uint32 seed of each target's noise.
    """
    if not targets:
        return [], []
    logits = rng.standard_normal(targets).tolist()
    return logits, rng.integers(0, 1 << 32, targets, np.uint32).tolist()
