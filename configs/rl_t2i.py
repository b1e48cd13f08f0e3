"""Flow-GRPO: single pictures, reinforced in the flow alone; or with the plan before them.

Command:  unireason rl --config configs/rl_t2i.py --workdir runs/rl_t2i
          --config.init_from=runs/quickstart
          (configs/rl_t2i.py:think writes a plan first, and reinforces it too: UniGRPO)
Hardware: as the checkpoint's own training; two CPU cores for the quickstart's.
Result:   not shown yet. From `notebooks/demo` (bare prompts, groups of 8, 8 of 11 steps stochastic
          at 0.7, one seed) 192 held-out prompts went from 0.48 [0.41, 0.55] right to 0.52
          [0.45, 0.59] in 12 updates at lr 2e-4, and to 0.45 [0.38, 0.52] in 20 at 3e-5: no
          difference that counts.
"""

from ml_collections import ConfigDict

from configs import rl_common


def get_config(plan: str = "") -> ConfigDict:
    if plan not in ("", "think"):
        raise ValueError(f"no part {plan!r}; configs/rl_t2i.py: takes think, or nothing")
    config = rl_common.get_config()
    config.rl.template = "think_t2i" if plan else "t2i"
    config.rl.text.weight = 1.0 if plan else 0.0
    config.rl.prompts, config.rl.group = 4, 12
    config.rl.tasks.t2i, config.rl.tasks.knowledge = 0.7, 0.3
    if not plan:
        config.rl.budgets.text, config.rl.budgets.vit = 256, 0  # nothing is written or looked at
    return config
