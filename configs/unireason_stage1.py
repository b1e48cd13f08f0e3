"""UniReason, stage 1: align image generation and editing, the understanding branch frozen.

Command:  python -m unireason_jax.train --config=configs/unireason_stage1.py
          --workdir=runs/unireason_stage1
          (--dry_run first; checkpoints/bagel from `unireason convert --from bagel`)
Data:     `unireason prepare --format unireason --tokenizer checkpoints/bagel/tokenizer` for each
          group, then `unireason encode --config` as in configs/bagel_finetune.py.
Hardware: half of the parameters train, so moments, average and gradients take half of stage 2's
          memory. As it is: 64 devices of 80 GB or more (a v5p-128, 64 H100) with
          --config.mesh.preset; on fewer --config.train.microbatches, on smaller ones
          --config.mesh.context (launch/README.md). The paper does not name its hardware.
Time:     not measured; 30,000 steps in the paper.
Result:   weights for configs/unireason_stage2.py.
Twin:     configs/world_twin.py:unireason_stage1 trains the same recipe on a CPU.

From the paper (5.1): the steps, the schedule, image loss only, about 7 M text-to-image and 500 k
editing records. Nothing else of this stage was released; what is our choice says so.
"""

from ml_collections import ConfigDict

from configs import common

UNDERSTANDING = (
    "^embed$",  # word embeddings, and below the language head
    "^head/",
    "^vit/",  # vision tower, and its connector
    "^connector_",
    "^stack/blocks/und/",  # the understanding expert of every layer, and its last norm
    "^stack/und_norm/",
)
"""The understanding branch: all that text and ViT tokens pass through. The paper says that it is
frozen, not which parameters that is; this is what BAGEL's freeze_und leaves without a gradient."""


def get_config() -> ConfigDict:
    config = common.get_config()
    config.init_from = "checkpoints/bagel"
    config.model.variant = "bagel_7b_mot"

    config.data.source = "data/stage1"
    # Our choice: 7 M to 500 k records, edits ten times as often as their number would have it.
    config.data.groups = ConfigDict({"t2i": 0.6, "edit": 0.4})
    # Our choice, as in stage 2: rows of 50k tokens, and these dropout rates.
    config.data.dropout = (0.1, 0.1, 0.0)
    config.data.budgets = ConfigDict({"text": 1_280, "vit": 5_776, "latent": 45_056})
    config.data.rows = 64

    config.optim.freeze = UNDERSTANDING
    config.loss.detach_und = True
    config.loss.ce_weight = 0.0  # no text of this stage is supervised
    config.loss.timestep_shift = 4.0  # our choice, as in stage 2

    config.optim.lr, config.optim.min_lr = 5e-5, 1e-5
    config.optim.schedule, config.optim.warmup_steps = "cosine", 3000
    config.optim.eps, config.optim.ema = 1e-8, 0.995  # our choice, as in stage 2
    config.train.steps = 30_000
    config.train.save_every = 2500
    return config
