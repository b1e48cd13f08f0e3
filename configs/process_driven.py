"""Process-driven generation ("Think in strokes"): plan, sketch, inspect, repair, step by step.

Command:  python -m unireason_jax.train --config=configs/process_driven.py --workdir=runs/process
          (--dry_run first)
Data:     `unireason prepare --format examples --style process --sizes bagel --tokenizer
          checkpoints/bagel/tokenizer` for each subset, then `unireason encode --config` as in
          configs/bagel_finetune.py.
Hardware: the paper trained on 8 H100. As it is: those, a v5p-16, a v6e-16 or four chips of
          tpu7x (compiled, 60 GiB of 8 H200), with --config.mesh.preset (launch/README.md, "Which
          recipe fits where").
Time:     not measured; 10,000 steps.
Result:   the paper reports GenEval 0.83 and WISE 0.76 with 2.6 images a prompt.
Twin:     configs/world_twin.py:process_driven trains the same recipe on a CPU.

Known: the steps, rows of 33,000 tokens, a cosine from 2e-5, and the sizes of the three subsets.
Neither code nor data was released; everything else is our choice.
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    config = common.get_config()
    config.init_from = "checkpoints/bagel"
    config.model.variant = "bagel_7b_mot"

    config.data.source = "data/process"
    # Every record once: 32,012 trajectories, 15,201 conflicts, 15,000 alignments.
    config.data.groups = ConfigDict({"process": 0.515, "conflict": 0.244, "alignment": 0.241})
    # Our choice: the dropout of UniReason, and how the tokens are shared out.
    config.data.dropout = (0.1, 0.1, 0.0)
    config.data.budgets = ConfigDict({"text": 2_648, "vit": 5_776, "latent": 24_576})
    config.data.rows = 8

    # Our choice: weights 1 to 1, the shift and average of the other reasoning recipes, a warm-up of
    # a tenth, no end of the cosine above BAGEL's.
    config.loss.ce_weight, config.loss.flow_weight = 1.0, 1.0
    config.loss.timestep_shift = 4.0
    config.optim.lr, config.optim.min_lr = 2e-5, 1e-7
    config.optim.schedule, config.optim.warmup_steps = "cosine", 1000
    config.optim.ema = 0.995
    config.train.steps = 10_000
    return config
