"""Reinforcement in the harder world: `rl_reflect` and `rl_t2i` for a model of `hard_world`.

Command:  unireason rl --config configs/rl_hard.py --workdir runs/hard_rl
          --config.init_from=runs/hard
          (configs/rl_hard.py:text and :flow reinforce one of the two, :t2i single pictures)
Hardware: as the supervised training.
Time:     not measured.
"""

from ml_collections import ConfigDict

from configs import rl_reflect, rl_t2i


def get_config(part: str = "") -> ConfigDict:
    config = rl_t2i.get_config() if part == "t2i" else rl_reflect.get_config(part)
    config.rl.tasks = ConfigDict({"t2i": 0.0, "knowledge": 0.0, "hard_t2i": 1.0})
    config.rl.rounds, config.rl.max_text = 3, 96
    # A trajectory of three rounds: 350 words, four looks at 36 patches, ten copies of 36 latents.
    config.rl.budgets.text, config.rl.budgets.vit, config.rl.budgets.latent = 640, 180, 432
    return config
