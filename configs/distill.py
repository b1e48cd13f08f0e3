"""A student that draws in six passes an image: guidance and steps of its teacher, in its weights.

Command:  unireason distill --workdir=runs/student --config.init_from=runs/quickstart
          (what is open is as the teacher samples; --dry_run first)
Hardware: two CPU cores, 4 GiB of memory.
Time:     8 minutes of CPU time.
Result:   loss/flow falls from 0.015 to 0.006. `generate`, `evaluate` and `serve` draw six steps
          with the run, unguided, whatever preset is named; what that costs in quality is in
          unireason_jax/speed/README.md.

In each of its steps it learns what four of its teacher's do, which so takes 24, at a smaller shift.
Only what latents pass through learns; words are supervised on, so that they stay what they were.
"""

from ml_collections import ConfigDict

from configs import quickstart
from configs.unireason_stage1 import UNDERSTANDING


def get_config() -> ConfigDict:
    config = quickstart.get_config()
    config.init_from = "runs/quickstart"
    # At a shift of 20, the teacher's, the last of six steps would go from t = 0.8 to 0 at once.
    config.distill.substeps, config.distill.steps, config.distill.shift = 4, 6, 10.0

    config.data.dropout = (0.0, 0.0, 0.0)  # a student is never asked without its context
    config.data.seed = 1  # records that its teacher has not seen
    config.data.mixture.vqa = config.data.mixture.caption = 0.0  # nothing to draw
    config.optim.freeze = UNDERSTANDING
    # A student begins close to what it learns: at three times this rate it first moves away.
    config.optim.lr, config.optim.min_lr, config.optim.warmup_steps = 3e-4, 1e-5, 50
    config.optim.ema = 0.99
    config.data.examples = 20_000
    config.train.steps, config.train.save_every = 800, 400
    config.train.log_every = 50
    config.eval.every = 0
    return config
