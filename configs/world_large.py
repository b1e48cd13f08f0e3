"""The embedded world on one GPU: five times the quickstart's parameters, and far more pictures.

Command:  unireason train --config configs/world_large.py:alignment --workdir runs/large/alignment
          unireason train --config configs/world_large.py --workdir runs/large
          --config.init_from=runs/large/alignment
          unireason evaluate --checkpoint runs/large --out runs/large/report
Hardware: one GPU, and the CPU cores that render its records: a worker each, which feed 80,000
          tokens a second; an H200 takes more than twelve give.
Time:     six minutes for three seeds at once on an H200 with 16 cores.
Result:   configs/README.md, "The larger world"; `notebooks/demo` is seed 0.
"""

from ml_collections import ConfigDict

from configs import quickstart

# So large a model learns refinement from fewer traces, which leaves room for edits.
MIXTURE = {
    "t2i": 0.11,
    "think_t2i": 0.19,
    "knowledge": 0.03,
    "think_knowledge": 0.08,
    "edit": 0.28,
    "refine_t2i": 0.16,
    "refine_knowledge": 0.04,
    "vqa": 0.07,
    "caption": 0.04,
}


def get_config(stage: str = "joint") -> ConfigDict:
    config = quickstart.get_config(stage)
    llm, vit = config.model.llm, config.model.vit
    llm.width, llm.layers, llm.mlp = 256, 6, 768
    llm.heads, llm.kv_heads, llm.head_dim = 4, 2, 64
    vit.width, vit.layers, vit.heads, vit.mlp = 128, 2, 4, 384
    config.model.unroll = 6
    config.data.rows, config.data.tokens, config.data.workers = 32, 960, 12
    config.data.examples = 100_000
    config.optim.lr, config.optim.warmup_steps = 1e-3, 200
    config.train.steps = config.train.save_every = 3100
    config.train.log_every, config.eval.every = 200, 0
    if stage == "alignment":
        config.data.examples = 20_000
        config.train.steps = config.train.save_every = 250
    else:
        config.data.mixture.update(MIXTURE)
        config.optim.ema = 0.998
    return config
