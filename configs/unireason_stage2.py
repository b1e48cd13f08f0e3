"""UniReason, stage 2: interleaved reasoning, everything trains.

Command:  python -m unireason_jax.train --config=configs/unireason_stage2.py
          --workdir=runs/unireason_stage2
          (--dry_run first; runs/unireason_stage1 from configs/unireason_stage1.py)
Data:     `unireason prepare --format unireason --tokenizer checkpoints/bagel/tokenizer` for each
          group, then `unireason encode --config` as in configs/bagel_finetune.py.
Hardware: the release trained on 64 GPUs. Parameters, moments, average and gradients take 272 GiB in
          float32, shared out over the mesh. As it is: 64 devices of 80 GB or more (a v5p-128, 64
          H100) with --config.mesh.preset; on fewer --config.train.microbatches, on smaller ones
          --config.mesh.context (launch/README.md, "Which recipe fits where").
Time:     not measured; 10,000 steps.
Result:   the paper reports WISE 0.78, KRIS 68.2, UniREditBench 70.1, GenEval 0.90 (tables 1 to 5).
Twin:     configs/world_twin.py:unireason_stage2 trains the same recipe on a CPU.

From the paper (4.3, 5.1) and the released script: the steps, the schedule, text to image loss 2 to
1, rows of 50k tokens, shift, average, epsilon, dropout, and twelve groups of equal weight.
"""

from ml_collections import ConfigDict

from configs import common

GROUPS = (
    "t2i_blip3o",
    "t2i_sharegpt4o",
    "t2i_open4o",
    "t2i_echo4o",
    "edit_sharegpt4o",
    "edit_open4o",
    "edit_nano150k",
    "edit_picobanana",
    "think_t2i",
    "think_edit",
    "refine_t2i",
    "refine_edit",
)


def get_config() -> ConfigDict:
    config = common.get_config()
    config.init_from, config.init_which = "runs/unireason_stage1", "ema"
    config.model.variant = "bagel_7b_mot"

    config.data.source = "data/stage2"
    config.data.groups = ConfigDict(dict.fromkeys(GROUPS, 1.0))
    config.data.dropout = (0.1, 0.1, 0.0)
    # 50k tokens; how they are shared out is our choice: they fill to 98.8, 100 and 98.9 % with
    # images of 1024 pixels (`unireason bench packing --mixture stage2`).
    config.data.budgets = ConfigDict({"text": 1_334, "vit": 7_220, "latent": 45_056})
    config.data.rows = 64  # a row for each of the release's GPUs

    config.loss.ce_weight, config.loss.flow_weight = 2.0, 1.0
    config.loss.timestep_shift = 4.0
    config.optim.lr, config.optim.min_lr = 2e-5, 1e-6
    config.optim.schedule, config.optim.warmup_steps = "cosine", 1000
    config.optim.eps, config.optim.ema = 1e-8, 0.995
    config.train.steps = 10_000
    config.train.save_every = 1000  # our choice; the release saves every 5000
    return config
