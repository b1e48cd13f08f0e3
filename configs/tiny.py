"""The smallest complete run: a dwarf model in the embedded world, for tests and a first look.

Command:  python -m unireason_jax.train --config=configs/tiny.py --workdir=runs/tiny
Hardware: one CPU core, 1.3 GiB of memory.
Time:     30 seconds of CPU, most of them compilation; 25 steps/s afterwards.
Result:   loss/ce falls from 5.6 to 1.8 and loss/flow from 2.0 to 1.8 in 60 steps; on held-out packs
          they end at 1.9 and 1.7. The model is far too small to draw; `configs/quickstart.py` is
          the one that can.
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    config = common.get_config()
    config.init_from = "scratch"
    config.model.variant = "nano"
    config.model.llm.vocab = 384
    config.model.vit.patch = 8
    config.model.latent.channels = 24
    config.model.latent.patch = 1
    config.data.examples = 256
    config.data.mixture.think_t2i = 0.5
    config.data.mixture.edit = 0.25
    config.data.mixture.refine_t2i = 0.25
    config.data.tokens = 320
    config.data.rows = 4
    config.data.window = 64
    config.optim.lr = 3e-3
    config.optim.eps = 1e-8
    config.optim.warmup_steps = 5
    config.optim.schedule = "cosine"
    config.optim.ema = 0.9
    config.train.steps = 60
    config.train.log_every = 10
    config.train.save_every = 30
    config.eval.every = 30
    config.eval.examples = 64
    config.eval.batches = 2
    return config
