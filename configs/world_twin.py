"""Any recipe in small: the same losses, schedule, freezes and hand-over in the embedded world.

Command:  python -m unireason_jax.train --config=configs/world_twin.py:unireason_stage1
          --workdir=runs/twins/unireason_stage1
          (or another key of TWINS; launch/world_stages.sh runs both stages of UniReason)
Hardware: two CPU cores, 4 GiB of memory.
Time:     400 to 1500 steps, some minutes.
Result:   loss/flow, and loss/ce where text is supervised, fall from the first line on. A model of
          this size shows that a recipe runs as it should, not how good it is.

A twin keeps what a recipe says about losses, shift, dropout, average, freezing and switches. It
takes the model of configs/quickstart.py (or one of its size that draws with codes) and two of its
rows, tasks of the world in the place of the
data groups, a twentieth of the steps, and fifty times the learning rates, as that small a model
bears. The styles of the recipes are left out, because the world has no words for them. Where a
recipe starts from BAGEL its twin starts from random weights, so that what stage 1 freezes stays
random; any run of the same model can take BAGEL's place:
--config.init_from=runs/twins/bagel_finetune.
"""

import importlib

from ml_collections import ConfigDict

from configs import common, quickstart

TWINS = {
    "bagel_finetune": {"t2i": 0.4, "edit": 0.3, "vqa": 0.3},
    "unireason_stage1": {"t2i": 0.6, "edit": 0.4},
    "unireason_stage2": {
        "t2i": 0.2,
        "edit": 0.2,
        "think_knowledge": 0.15,
        "think_edit": 0.15,
        "refine_t2i": 0.15,
        "refine_edit": 0.15,
    },
    "irg_stage1": {
        "irg_initial_thinking_understanding": 0.5,
        "irg_initial_thinking_generation": 0.5,
        "irg_initial_full": 1.0,
        "irg_improving_thinking_understanding": 0.5,
        "irg_improving_thinking_generation": 0.5,
        "irg_improving_full": 1.0,
    },
    "irg_stage2": {"irg_initial_full": 1.0, "irg_improving_full": 1.0},
    "process_driven": {"process": 0.515, "process_conflict": 0.244, "process_alignment": 0.241},
    "uni_edit": {"uni_edit": 1.0},
    "janus_finetune": {"t2i": 0.4, "vqa": 0.3, "caption": 0.3},
    "uni_edit_janus": {"uni_edit": 1.0},
}
"""Recipes, and the world's tasks that stand for their data groups."""

STEPS, RATE = 0.05, 50.0
LEAST_STEPS = 400


def get_config(recipe: str = "unireason_stage2") -> ConfigDict:
    if recipe not in TWINS:
        raise ValueError(f"no recipe {recipe!r}; configs/world_twin.py: takes {', '.join(TWINS)}")
    config = importlib.import_module(f"configs.{recipe}").get_config()
    world = quickstart.get_config()
    is_janus = config.model.variant.startswith("janus")
    config.model = janus_model() if is_janus else world.model
    config.data.vq, config.data.sizes = "", "world"
    for key in ("source", "examples", "tokens", "window", "side", "interpolate", "style"):
        config.data[key] = world.data[key]
    config.data.rows = 2
    config.data.groups, config.data.quotas = ConfigDict(), ConfigDict()
    config.data.budgets = world.data.budgets
    config.data.mixture.update(TWINS[recipe])
    scale = max(STEPS, LEAST_STEPS / config.train.steps)
    config.optim.lr *= RATE
    config.optim.min_lr *= RATE
    config.optim.warmup_steps = round(config.optim.warmup_steps * scale)
    config.train.steps = round(config.train.steps * scale)
    config.train.save_every = config.train.steps
    config.train.log_every = max(1, config.train.steps // 20)
    previous = config.init_from.removeprefix("runs/")
    config.init_from = f"runs/twins/{previous}" if previous in TWINS else "scratch"
    config.eval = world.eval
    config.eval.every = config.train.steps
    return config


def janus_model() -> ConfigDict:
    """The size of configs/quickstart.py's model, drawing with codes."""
    model = common.get_config().model
    model.variant, model.dtype = "janus_world", "auto"
    model.llm.width, model.llm.layers, model.llm.mlp = 192, 4, 576
    model.llm.heads, model.llm.kv_heads, model.llm.head_dim = 6, 6, 32
    model.llm.vocab, model.unroll = 256, 4
    model.vit.width, model.vit.layers, model.vit.heads, model.vit.mlp = 64, 1, 2, 192
    model.codes.size = 72
    return model
