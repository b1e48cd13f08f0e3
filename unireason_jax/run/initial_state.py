"""The state that a run starts with: its own checkpoint's, another run's, or one around weights."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from absl import logging
from etils import epath

from unireason_jax.models import functional, lora
from unireason_jax.models.config import ModelConfig
from unireason_jax.run import init_from, records_match
from unireason_jax.run.configuration import ConfigError
from unireason_jax.run.run import Run
from unireason_jax.training import adapter_base, checkpoint, weights
from unireason_jax.training import state as states
from unireason_jax.training.checkpoint import Checkpoints
from unireason_jax.training.checkpoint_manifest import CheckpointMissing, find, read_manifest
from unireason_jax.training.optim import Params, flatten, merge, unflatten
from unireason_jax.training.state import TrainState

_HEAD = "latent_out/"


def starting_state(
    run: Run, checkpoints: Checkpoints
) -> tuple[TrainState, dict[str, Any] | None, str]:
    """(state, what else was saved with it or None, where it came from); see `train`'s top."""
    config = run.config
    if checkpoints.saved is not None:
        state, saved = checkpoints.load(run.abstract)
        told = f"own checkpoint of step {int(state.step)}"
        return _beside(run, checkpoints, checkpoints.workdir, state), saved, told
    if config.resume_from:
        state, saved = checkpoint.load_state(config.resume_from, run.abstract)
        told = f"{config.resume_from} at step {int(state.step)}"
        return _beside(run, checkpoints, config.resume_from, state), saved, told
    if init_from.named(config) == init_from.SCRATCH:
        refuse_scratch(run)
        key = jax.random.key(config.seed)
        made = states.initialize(
            lambda: run.optimizer.stored(functional.init(run.model, key)),
            run.optimizer,
            run.shardings,
        )
        return made, None, "random weights"
    told = f"{config.init_which} weights of {config.init_from}"
    made = states.adopt(initial_params(run), run.optimizer, run.shardings)
    if run.model.lora:
        checkpoints.base = adapter_base.note(
            config.init_from, config.init_which, run.model.lora.scale, checkpoints.workdir
        )
        told = f"{functional.count(_adapters(run)):,} in adapters beside the {told}"
    return made, None, told


def refuse_scratch(run: Run) -> None:
    """Raises ConfigError where weights that never move would be random ones."""
    what = "adapters stand beside" if run.model.lora else "few bits are kept of"
    if run.model.lora or run.model.quantized:
        raise ConfigError(
            f"config.init_from=scratch: {what} weights that were trained; set it to a run or a "
            "converted release."
        )


def check_weights(run: Run) -> None:
    """Whether `init_from` has weights that fit; raises as `initial_params` does, loads nothing."""
    shapes = functional.abstract(functional.unquantized(_given(run)))
    options = {"which": run.config.init_which, "expected": shapes}
    weights.leaf_loader(run.config.init_from, **options)


def initial_params(run: Run) -> Params:
    """The weights of `init_from`, laid out for the run, with its adapters fresh (or theirs)."""
    config, given = run.config, _given(run)
    options = {"which": config.init_which, "mesh": run.mesh, "dtypes": run.dtypes}
    params = weights.load_model(config.init_from, given, **options)
    params = with_new_words(run, params)
    moves = flatten(run.optimizer.split(run.abstract.params)[0])
    if functional.draws_noise(params) and not any(path.startswith(_HEAD) for path in moves):
        logging.warning(
            "config.init_from=%s: its head of velocities (latent_out, llm2vae of BAGEL) is zero "
            "and does not move in this run, so pictures will stay noise. Name weights that have "
            "learned to draw, or let it learn (config.lora.targets, config.optim.freeze).",
            config.init_from,
        )
    return params if given == run.model else merge(_fresh(run), params)


def with_new_words(run: Run, params: Params) -> Params:
    """The weights with newly drawn rows for the words that they have not seen."""
    known = records_match.known_words(run)
    if known is None:
        return params
    axes, places = flatten(functional.logical_axes(run.model)), flatten(run.shardings.params)
    found = flatten(params)
    names = [name for name in found if "vocab" in axes[name]]

    def renewed(old: dict[str, jax.Array]) -> dict[str, jax.Array]:
        new = flatten(functional.init(run.model, jax.random.key(run.config.seed)))
        out = {}
        for name in names:
            rows = jax.lax.broadcasted_iota(jnp.int32, old[name].shape, axes[name].index("vocab"))
            out[name] = jnp.where(rows < known, old[name], new[name].astype(old[name].dtype))
        return out

    shardings = {name: places[name] for name in names}
    made = jax.jit(renewed, out_shardings=shardings)({name: found[name] for name in names})
    return unflatten(found | made)


def _given(run: Run) -> ModelConfig:
    """What `init_from` has of a run's model: not its adapters, unless it is one of adapters."""
    is_adapter = "base" in read_manifest(find(run.config.init_from))
    return run.model if is_adapter else functional.with_adapters(run.model, None)


def _adapters(run: Run) -> Params:
    """Shapes of the adapters of a run, by path."""
    return lora.own(flatten(run.abstract.params))


def _fresh(run: Run) -> Params:
    """Newly drawn adapters, in their shards."""
    places = lora.own(flatten(run.shardings.params))
    draw = functools.partial(functional.init_adapters, run.model, jax.random.key(run.config.seed))
    return unflatten(jax.jit(draw, out_shardings=places)())


def _beside(
    run: Run, checkpoints: Checkpoints, where: epath.PathLike, state: TrainState
) -> TrainState:
    """A state that was loaded; where it is one of adapters, with the weights they stand beside."""
    if not run.model.lora:
        return state
    directory = find(where, int(state.step))
    base = read_manifest(directory)["base"]
    weights_at = _located(run, base, directory)
    scale = {"scale": run.model.lora.scale}
    checkpoints.base = adapter_base.moved(base, weights_at, checkpoints.workdir) | scale
    alone = functional.with_adapters(run.model, None)
    options = {"which": base["which"], "mesh": run.mesh, "dtypes": run.dtypes}
    params = merge(state.params, weights.load_model(weights_at, alone, **options))
    return TrainState(state.step, params, state.opt_state, state.ema)


def _located(run: Run, base: dict[str, Any], directory: epath.Path) -> epath.Path:
    """The weights that adapters stand beside: where they were, or moved to `init_from`."""
    try:
        return adapter_base.locate(base, directory)
    except CheckpointMissing:
        given = run.config.init_from
        if not given or given == init_from.SCRATCH:
            raise
        moved = base | {"path": str(find(given)), "relative": ""}
        return adapter_base.locate(moved, directory)
