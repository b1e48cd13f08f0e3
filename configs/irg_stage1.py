"""Interleaving reasoning (IRG), stage 1: six lessons on thinking, drawing and improving.

Command:  python -m unireason_jax.train --config=configs/irg_stage1.py --workdir=runs/irg_stage1
          (--dry_run first)
Data:     `unireason prepare --format irg --tokenizer checkpoints/bagel/tokenizer` for each lesson,
          then `unireason encode --config` as in configs/bagel_finetune.py.
Hardware: the release trained on 8 GPUs. As it is: a v5p-16 (compiled, 65 GiB of a chip's 96), four
          chips of tpu7x or 8 GPUs of 80 GB, with --config.mesh.preset (launch/README.md).
Time:     not measured; 2000 steps in the paper.
Result:   weights for configs/irg_stage2.py.
Twin:     configs/world_twin.py:irg_stage1 trains the same recipe on a CPU.

From the paper and the released run.sh and yaml, but for what says "our choice". The 300 k records
were not published. The release can also switch a loss off or freeze a part at a given step: here
`loss.ce_until`, `loss.flow_until` and `optim.freeze_from`, which its script leaves unused.
"""

from ml_collections import ConfigDict

from configs import common

LESSONS = {
    "initial_thinking_understanding": 0.5,
    "initial_thinking_generation": 0.5,
    "initial_full": 1.0,
    "improving_thinking_understanding": 0.5,
    "improving_thinking_generation": 0.5,
    "improving_full": 1.0,
}
"""Weights of the data groups."""

MANDATORY = {
    "initial_thinking_generation": 1,
    "initial_full": 1,
    "improving_thinking_generation": 1,
    "improving_full": 1,
}
"""Groups that every row holds at least one record of."""


def get_config() -> ConfigDict:
    config = common.get_config()
    config.init_from = "checkpoints/bagel"
    config.model.variant = "bagel_7b_mot"

    config.data.source = "data/irg"
    config.data.groups = ConfigDict(LESSONS)
    config.data.quotas = ConfigDict(MANDATORY)
    config.data.dropout = (0.0, 0.3, 0.0)
    # 40,000 tokens; how they are shared out is our choice (ViT copies of up to 980 pixels here).
    config.data.budgets = ConfigDict({"text": 4_096, "vit": 12_288, "latent": 24_576})
    config.data.rows = 8

    config.loss.timestep_shift = 4.0
    config.optim.lr, config.optim.warmup_steps = 2e-5, 500
    config.optim.eps, config.optim.ema = 1e-15, 0.995
    config.train.steps = 2000
    return config
