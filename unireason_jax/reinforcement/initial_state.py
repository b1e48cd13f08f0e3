"""Where a reinforcement run stands: what it is made of, its state, and its reference."""

import dataclasses

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from unireason_jax.models.janus.config import JanusConfig
from unireason_jax.pods import batches, pod, sharding
from unireason_jax.reinforcement.settings import Policy
from unireason_jax.run import configuration
from unireason_jax.run.configuration import ConfigError
from unireason_jax.run.initial_state import initial_params
from unireason_jax.run.run import Run
from unireason_jax.training import checkpoint, weights
from unireason_jax.training.checkpoint import Checkpoints
from unireason_jax.training.checkpoint_manifest import CheckpointMissing
from unireason_jax.training.optim import Params
from unireason_jax.training.state import TrainState

REFERENCE = "reference"
_OWN = ("seed", "init_from", "init_which", "optim", "train", "mesh", "rl")


def run_of(config: ConfigDict, policy: Policy, workdir: epath.Path) -> Run:
    """The run: model, tokenizer and codec of the weights, everything else of the config.

    They come from the workdir itself once it has a checkpoint, else from `init_from`.

    Raises:
      ConfigError: no weights are named, or they are of a model that draws with codes.
      FileNotFoundError, ValueError: the folder is not that of a run.
    """
    goes_on = bool(checkpoint.steps(workdir))
    if not goes_on and not config.init_from:
        raise ConfigError(
            "what is reinforced? Set --config.init_from to the workdir of a training run, or to a "
            "converted folder."
        )
    base = Run.load(workdir if goes_on else config.init_from)
    if isinstance(base.model, JanusConfig):
        raise ConfigError(
            f"config.init_from: {config.init_from} draws with codes; only flows are reinforced."
        )
    made = base.config.copy_and_resolve_references()
    with made.unlocked():
        for key in _OWN:
            made[key] = config[key]
        made.resume_from = ""
        made.data.rows = policy.rows
        if config.lora.rank:
            made.lora = config.lora
    if made.train.microbatches != 1:
        raise ConfigError(
            f"config.train.microbatches={made.train.microbatches}: an iteration is divided by "
            "rl.rows; leave it at 1."
        )
    return dataclasses.replace(base, config=made, model=configuration.model_config(made))


def reference_of(run: Run, policy: Policy, state: TrainState, workdir: epath.Path) -> Params:
    """The trainable leaves that the policy is kept close to: those the run began with.

    They are written once, to <workdir>/reference, so that a run that goes on keeps to the same.
    Adapters begin as nothing beside the weights of `init_from`: of them nothing is written.

    Raises:
      CheckpointMissing: the run has begun, and its reference is not there.
    """
    if not policy.has_reference:
        return {}
    if run.model.lora:
        return run.optimizer.split(initial_params(run))[0]
    folder = workdir / REFERENCE
    with Checkpoints(folder) as kept:
        if kept.saved is None:
            if int(state.step):
                raise CheckpointMissing(
                    f"{folder}: not found; the run has begun and keeps to the weights there. Put "
                    "it back, or start a new --workdir."
                )
            nothing = jax.device_put(np.zeros((), np.float32), sharding.replicated(run.mesh))
            kept.save(0, TrainState(state.step, state.params, {"none": nothing}, {}), None)
    pod.gather("reference is saved", None)  # the first process ends it
    options = {"which": "params", "mesh": run.mesh, "dtypes": run.dtypes}
    return run.optimizer.split(weights.load_model(folder, run.model, **options))[0]


def check_rows(run: Run) -> None:
    """Raises ConfigError where the devices cannot divide the rows of a microbatch."""
    rows = run.config.data.rows
    parts = batches.row_parts(sharding.configured_mesh(run.config.mesh, run.devices))
    if rows % parts:
        raise ConfigError(
            f"config.rl.rows={rows} must be a multiple of data x fsdp = {parts}; set "
            f"--config.rl.rows={-(-rows // parts) * parts}, or have devices share a row "
            "(--config.mesh.context, with fewer on mesh.fsdp)."
        )


def check(config: ConfigDict) -> None:
    """Raises ConfigError for a seed that would be cut to 32 bits without a word."""
    if not 0 <= config.seed < 2**32:
        raise ConfigError(f"config.seed is {config.seed}; it must be in [0, 2**32).")
