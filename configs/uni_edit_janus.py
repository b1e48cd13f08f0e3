"""Uni-Edit on Janus-Pro: questions hidden in edits, drawn with codes.

Command:  python -m unireason_jax.train --config=configs/uni_edit_janus.py
          --workdir=runs/uni_edit_janus    (--dry_run first)
Data:     `unireason prepare --format uni_edit --tokenizer checkpoints/janus/tokenizer`.
Hardware: as configs/janus_finetune.py.
Time:     not measured.
Result:   Uni-Edit's paper says that Janus-Pro gains as well, and gives neither recipe nor code for
          it. All of this is our choice: the tower looks at the source, the target is drawn, and its
          codes are all that is supervised.
Twin:     configs/world_twin.py:uni_edit_janus trains the same recipe on a CPU.
"""

from ml_collections import ConfigDict

from configs import janus_finetune


def get_config() -> ConfigDict:
    config = janus_finetune.get_config()
    config.data.source, config.data.groups = "data/uni_edit", ConfigDict()
    config.data.budgets = ConfigDict({"text": 512, "vit": 1728, "latent": 1728})
    config.loss.ce_weight = 0.0  # no text is supervised
    config.optim.freeze = ("^vit/",)
    config.optim.lr, config.optim.warmup_steps = 2e-5, 500
    config.train.steps, config.train.save_every = 5000, 500
    return config
