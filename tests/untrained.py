"""What a training run leaves after step 0: config, tokenizer, codec, weights, their average."""

import jax
from ml_collections import ConfigDict

from unireason_jax.models import functional
from unireason_jax.run import configuration
from unireason_jax.run.run import Run
from unireason_jax.training.checkpoint import Checkpoints
from unireason_jax.training.optim import make_optimizer
from unireason_jax.training.state import new_state


def write(folder, **model):
    """Writes such a run of `configs/tiny.py`, with changes to its model; returns the folder."""
    config = configuration.load("configs/tiny.py")
    config.model.update(model)
    return write_config(folder, config)


def write_codes(folder):
    """Writes such a run of a model that draws with codes; returns the folder."""
    return write_config(folder, codes_config())


def codes_config():
    """A dwarf of `configs/world_twin.py:janus_finetune`."""
    config = configuration.load("configs/world_twin.py:janus_finetune")
    llm = {"width": 32, "layers": 1, "heads": 2, "kv_heads": 2, "head_dim": 16, "mlp": 48}
    config.model.llm.update(llm)
    config.model.unroll = 1
    config.data.update({"examples": 120, "tokens": 0, "rows": 4, "window": 64})
    config.data.budgets = ConfigDict({"text": 240, "vit": 112, "latent": 160})
    config.train.update({"steps": 2, "save_every": 2, "log_every": 1, "tensorboard": False})
    config.eval.every = config.optim.warmup_steps = 0
    config.init_from = "scratch"
    return config


def write_drawing(folder):
    """Writes such a run whose pictures, too, depend on what was said; returns the folder."""

    def moving(params):
        kernel = params["latent_out"]["kernel"]
        params["latent_out"]["kernel"] = 0.3 * jax.random.normal(jax.random.key(2), kernel.shape)
        return params

    return write_config(folder, configuration.load("configs/tiny.py"), moving)


def write_config(folder, config, change=lambda params: params):
    """Writes such a run of a config, with changes to its parameters; returns the folder."""
    made = Run.of(config)
    made.save(folder)
    params = jax.jit(functional.init, static_argnums=0)(made.model, jax.random.key(0))
    params = change(params)
    optimizer = make_optimizer(
        configuration.optim_config(made.config), functional.logical_axes(made.model)
    )
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(1, new_state(params, optimizer), {"next_row": 0})
    return folder
