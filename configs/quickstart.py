"""The embedded world on two CPU cores: one model that plans, draws, looks, reflects and refines.

Command:  make quickstart    (train configs/quickstart.py:alignment, then this file with
          --config.init_from=runs/quickstart/alignment, then evaluate; see the Makefile)
Hardware: two CPU cores, 4 GiB of memory.
Time:     15 to 16 minutes with the report, 24 to 27 of CPU time (README.md, "What you will see").
Result:   loss/ce near 0.21 and loss/flow near 0.27; the report with its pictures is in
          runs/quickstart/report.

The recipe is UniReason's stage 2 in small: plan, reflection and refined image are supervised, the
draft is not; text to image, editing, refinement traces and knowledge prompts share one step.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(stage: str = "joint") -> ConfigDict:
    if stage not in ("alignment", "joint"):
        raise ValueError(f"no stage {stage!r}; configs/quickstart.py: takes alignment or joint")
    config = common.get_config()
    config.init_from = "scratch"
    model = config.model
    model.variant = "world"
    model.llm.width, model.llm.layers, model.llm.mlp = 128, 4, 384
    model.llm.heads, model.llm.kv_heads, model.llm.head_dim = 4, 2, 32
    model.llm.vocab = 256
    model.dtype, model.chunk, model.unroll = "auto", 32, 4
    model.vit.width, model.vit.layers, model.vit.heads, model.vit.mlp = 64, 1, 2, 192
    # Neighbours of a 4 x 4 grid are four places apart in the tables: far enough to tell apart.
    model.vit.side, model.latent.side = 16, 16
    config.data.interpolate = True
    model.latent.channels, model.latent.patch = 24, 1

    config.data.examples = 100_000
    mixture = config.data.mixture
    mixture.t2i, mixture.think_t2i = 0.08, 0.18
    mixture.knowledge, mixture.think_knowledge = 0.02, 0.08
    mixture.edit, mixture.refine_t2i, mixture.refine_knowledge = 0.20, 0.28, 0.06
    mixture.vqa, mixture.caption = 0.06, 0.04
    config.data.tokens = 480
    config.data.rows = 4
    config.data.dropout = (0.1, 0.1, 0.1)
    config.mesh.data, config.mesh.fsdp = -1, 1  # rows for each of up to four devices

    # The latents are whitened, so an object stands three times above the noise and shows up to
    # t = 0.8. What to draw is decided before that; the shift puts most of the training there.
    config.loss.timestep_shift = 20.0
    config.loss.ce_weight = 0.4

    config.optim.lr, config.optim.min_lr = 2.5e-3, 5e-5
    config.optim.schedule, config.optim.warmup_steps = "cosine", 100
    config.optim.b2, config.optim.eps = 0.98, 1e-8
    config.optim.ema = 0.997

    config.train.steps = 2800
    config.train.log_every = 100
    config.train.save_every = 700
    config.eval.every, config.eval.samples = 700, 3  # pictures of three prompts as it learns
    return _alignment(config) if stage == "alignment" else config


def _alignment(config: ConfigDict) -> ConfigDict:
    """Captions only, as BAGEL's alignment stage: what stands where, before anything is drawn.

    In the joint mixture a caption is a copy of the plan but for a word or two, and perception is
    not learned from so little.
    """
    config.data.mixture.update(dict.fromkeys(config.data.mixture, 0.0))
    config.data.mixture.caption = 1.0
    config.data.examples = 20_000
    config.loss.ce_weight = 1.0
    config.optim.ema = 0.98
    config.train.steps = config.train.save_every = 400
    config.eval.every = 0
    return config
