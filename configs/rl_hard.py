"""Reinforcement in the harder world: `rl_reflect` and `rl_t2i` for a model of `hard_world`.

Command:  unireason rl --config configs/rl_hard.py:small --workdir runs/hard_rl
          --config.init_from=runs/hard_longer
          small,text and small,flow reinforce one of the two, small,t2i single pictures; without
          `small` the same for 48 pixels.
Hardware: as the supervised training.
Time:     `small`: 6 s an iteration on one core of an idle CPU, 15 to 20 s on a shared one.
Result:   not shown to pay: right after refinement 0.52 -> 0.54 on 192 held-out prompts from the
          weights of `hard_world:longer`, 0.30 -> 0.31 on 384 from those of `:small`
          (configs/README.md).
"""

from ml_collections import ConfigDict

from configs import rl_reflect, rl_t2i


def get_config(parts: str = "") -> ConfigDict:
    small, part = parts.startswith("small"), parts.removeprefix("small").removeprefix(",")
    config = rl_t2i.get_config() if part == "t2i" else rl_reflect.get_config(part)
    config.rl.tasks = ConfigDict({"t2i": 0.0, "knowledge": 0.0, "hard_t2i": 1.0})
    config.rl.rounds, config.rl.max_text = 3, 96
    # A trajectory of three rounds: 350 words, four looks at 36 patches, ten copies of 36 latents.
    config.rl.budgets.text, config.rl.budgets.vit, config.rl.budgets.latent = 640, 180, 432
    if small:
        # As much for 16 patches and latents, and shorter texts.
        config.rl.budgets.text, config.rl.budgets.vit, config.rl.budgets.latent = 400, 80, 192
        config.rl.max_text = 72
        config.rl.prompts, config.rl.group = 8, 6
        # Few drafts are right: a price for stopping at a wrong one would teach never to stop.
        config.rl.reward.wrong_stop, config.rl.text.kl = 0.0, 0.01
        config.optim.lr = 3e-5  # six times the default: about a hundred iterations, not thousands
        config.train.steps = 110
    return config
