"""Janus-Pro: questions about pictures and pictures from words, text and codes in one step.

Command:  python -m unireason_jax.train --config=configs/janus_finetune.py --workdir=runs/janus
          (--dry_run first; --config.model.variant=janus_pro_7b for the large one)
Data:     `unireason prepare --format ... --tokenizer checkpoints/janus/tokenizer`; pictures stay
          pictures: their codes are made while training, by config.data.vq.
Start:    `unireason convert --from janus --input Janus-Pro-1B --output checkpoints/janus`.
Hardware: as it is, with --config.mesh.preset: 1B on 16 chips of 32 GiB (compiled for a v6e-16: 19.6
          GiB of a chip), 7B on a v5p-16 (67 of 96); 1B on 8 chips of 32 GiB with
          --config.train.microbatches=2 (23 GiB).
Time:     not measured.
Result:   the report gives no figures for fine-tuning; users find that a rate above this one and
          pictures alone make it forget.
Twin:     configs/world_twin.py:janus_finetune trains the same recipe on a CPU.

Rate, batch and optimiser are those of the report's stage 3; what stands still there, the VQ
tokenizer, is no part of the model here. Shares of the groups, packing and steps are our choice, and
so is one mean over text and codes: the report weighs nothing.
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    config = common.get_config()
    config.init_from, config.init_which = "checkpoints/janus", "params"
    config.model.variant = "janus_pro_1b"

    config.data.source = "data/janus"
    config.data.groups = ConfigDict({"understanding": 0.5, "text": 0.1, "t2i": 0.4})
    config.data.sizes = "bagel"
    config.data.vq = "checkpoints/janus/vq.safetensors"
    config.data.dropout = (0.1, 0.0, 0.0)  # of prompts
    config.data.budgets = ConfigDict({"text": 1024, "vit": 1152, "latent": 1728})  # our choice
    config.data.rows = 128

    config.loss.pooled = True
    config.optim.lr, config.optim.warmup_steps = 4e-5, 0
    config.optim.b1, config.optim.b2, config.optim.eps = 0.9, 0.95, 1e-8
    config.optim.weight_decay, config.optim.clip_norm = 0.0, 1.0
    config.optim.ema = 0.9999
    config.train.steps, config.train.save_every = 10_000, 1000  # our choice
    return config
