"""Reinforcement of whole reflection trajectories: look, say what is wrong, draw again, or stop.

Command:  unireason rl --config configs/rl_reflect.py --workdir runs/rl
          --config.init_from=runs/quickstart
Hardware: as the checkpoint's own training; two CPU cores for the quickstart's.
Method:   UMM-Reflection: siblings share plan and draft; one reward for a trajectory (last score,
          progress, damage, stopping too early), one advantage for its texts and its drawings.
"""

from ml_collections import ConfigDict

from configs import rl_common


def get_config(only: str = "") -> ConfigDict:
    if only not in ("", "text", "flow"):
        raise ValueError(f"no part {only!r}; configs/rl_reflect.py: takes text or flow, or nothing")
    config = rl_common.get_config()
    if only == "text":
        config.rl.flow.weight = 0.0
    if only == "flow":
        config.rl.text.weight = 0.0
    return config
