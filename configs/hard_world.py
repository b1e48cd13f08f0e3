"""The harder world: 48 pixels, 3 to 9 objects, plans that leave places open, drafts that fail.

Command:  unireason train --config configs/hard_world.py --workdir runs/hard
          then: unireason rl --config configs/rl_hard.py --workdir runs/hard_rl
          --config.init_from=runs/hard
Hardware: two CPU cores; or one GPU with more rows (--config.data.rows).
Time:     not measured.
Result:   not measured. What is wanted is a supervised model whose drafts are right in 0.4 to 0.7
          of the hard prompts: then there is something to repair.
"""

from ml_collections import ConfigDict

from configs import quickstart


def get_config() -> ConfigDict:
    config = quickstart.get_config()
    config.model.llm.vocab = 288
    config.data.side = 6
    config.data.mixture.update(dict.fromkeys(config.data.mixture, 0.0))
    mixture = config.data.mixture
    mixture.hard_t2i, mixture.hard_think_t2i = 0.1, 0.35
    mixture.hard_refine_t2i, mixture.hard_caption = 0.4, 0.15
    config.data.tokens = 960
    return config
