"""What a training run leaves after step 0: config, tokenizer, codec, weights, their average."""

import jax

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
    made = Run.of(config)
    made.save(folder)
    params = jax.jit(functional.init, static_argnums=0)(made.model, jax.random.key(0))
    optimizer = make_optimizer(
        configuration.optim_config(made.config), functional.logical_axes(made.model)
    )
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(1, new_state(params, optimizer), {"next_row": 0})
    return folder
