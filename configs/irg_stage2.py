"""Interleaving reasoning (IRG), stage 2: whole traces only, long and without warm-up.

Command:  python -m unireason_jax.train --config=configs/irg_stage2.py --workdir=runs/irg_stage2
          (--dry_run first; runs/irg_stage1 from configs/irg_stage1.py)
Hardware: as stage 1.
Time:     not measured; 30,000 steps in the paper.
Result:   the paper reports GenEval 0.85 and WISE 0.77 after its two turns.
Twin:     configs/world_twin.py:irg_stage2 trains the same recipe on a CPU.
"""

from ml_collections import ConfigDict

from configs import irg_stage1


def get_config() -> ConfigDict:
    config = irg_stage1.get_config()
    config.init_from, config.init_which = "runs/irg_stage1", "ema"
    config.data.groups = ConfigDict({"initial_full": 1.0, "improving_full": 1.0})
    config.data.quotas = ConfigDict({"initial_full": 1, "improving_full": 1})
    config.optim.warmup_steps = 0
    config.train.steps = 30_000
    config.train.save_every = 2500  # our choice
    return config
