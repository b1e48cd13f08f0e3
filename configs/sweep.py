"""Learning rates side by side: the smallest run with a `sweep()`, as an example of one.

Command:  for n in 0 1 2 3; do python -m unireason_jax.train --config=configs/sweep.py
          --workdir=runs/sweep --sweep_index=$n; done
          (each entry gets a directory of its own, runs/sweep/sweep_000 and so on; `launch/` starts
          the entries on several machines)
Hardware: one CPU core, 1.3 GiB of memory.
Time:     as configs/tiny.py for each entry.
Result:   the held-out losses of the entries lie beside each other in TensorBoard
          (`tensorboard --logdir runs/sweep`), or as one group at Weights & Biases.
"""

from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from configs import tiny


def get_config() -> ConfigDict:
    return tiny.get_config()


def sweep() -> Iterator[dict[str, Any]]:
    """Overrides of each entry by dotted key."""
    for lr in (1e-3, 3e-3):
        for shift in (1.0, 4.0):
            yield {"optim.lr": lr, "loss.timestep_shift": shift}
