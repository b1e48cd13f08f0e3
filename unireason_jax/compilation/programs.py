"""The programs that are checked: train step, writing and drawing, and those of reinforcement."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from unireason_jax.data.rows import Budgets
from unireason_jax.inference import cache, sampler, stochastic, writing
from unireason_jax.models import functional
from unireason_jax.models.config import ModelConfig
from unireason_jax.models.janus.config import JanusConfig
from unireason_jax.pods import batches, sharding
from unireason_jax.reinforcement import settings, update
from unireason_jax.run.run import Run
from unireason_jax.training.state import with_shardings

# And what a run of each makes.
PROGRAMS = {
    "train": "step",
    "text": "token",
    "image": "image",
    "reinforce": "update",
    "rollout": "image of every row",
}


def budgets_of(config: ConfigDict, program: str = "train") -> Budgets:
    """Tokens of a row by stream: the config's, or those advised for its data."""
    if program in ("reinforce", "rollout"):
        return settings.policy(config).budgets
    if sum(config.data.budgets.values()):
        return Budgets(**config.data.budgets)
    pipeline = Run.of(config).pipeline(whole=True)
    pipeline.close()
    return pipeline.budgets


def run_of(name: str, config: ConfigDict, devices: Sequence[jax.Device]) -> Run:
    """The run that one of `PROGRAMS` is of, with as many rows as that has.

    Args:
      name: of the program.
      config: the resolved config.
      devices: where it would run.

    Raises:
      ConfigError, ValueError: config and devices do not fit together.
    """
    if name == "reinforce":
        config.data.rows = settings.policy(config).rows
    if name == "rollout":  # the sampler fills a batch up with empty rows
        parts = batches.row_parts(sharding.configured_mesh(config.mesh, devices))
        config.data.rows = -(-settings.policy(config).batch_rows // parts) * parts
    return Run.of(config, devices, has_records=False)


def lower(name: str, run: Run, budgets: Budgets) -> jax.stages.Lowered:
    """One of `PROGRAMS`, traced for the devices of a run.

    Args:
      name: "train": a step; "text": a turn of text written after a full row; "image": an image
        drawn after a full row, with text guidance; "reinforce": an update of `unireason rl`;
        "rollout": images drawn with stochastic steps behind whole trajectories, as many rows
        together as `rl.batch_rows` (their texts are the program "text").
      run: see `run_of`.
      budgets: tokens of a row by stream; the sampler's cache holds as many.

    Raises:
      ConfigError, ValueError: config and devices do not fit together.
    """
    with jax.set_mesh(run.mesh):
        if name == "reinforce":
            tokens = min(run.model.latent.side**2, budgets.latent)
            return update.lower(run, settings.policy(run.config), tokens)
        if name == "rollout":
            return _lower_rollout(run, settings.policy(run.config), budgets)
        if name == "train":
            return run.lower_step(run.batch_spec(budgets))
        return _lower_sampler(name, run, budgets)


def _lower_rollout(run: Run, policy: settings.Policy, budgets: Budgets) -> jax.stages.Lowered:
    """`draw_moves` behind whole trajectories."""
    mesh, rows = run.mesh, run.config.data.rows
    model, params = _sampled(run)
    # A row of the budgets holds every image of its trajectory, clean and in its stochastic steps.
    drawn, given = (policy.rounds, 1) if policy.template == "refine_t2i" else (1, 0)
    copies = drawn * (policy.window + 1) + given
    tokens = min(model.latent.side**2, budgets.latent // copies)
    timesteps = {"timesteps": policy.timesteps} if policy.timesteps else {}
    return stochastic.draw_moves.lower(
        params,
        _cache(run, rows, budgets.total),
        _rows(mesh, (rows, tokens), jnp.uint32),
        _rows(mesh, (rows, tokens, model.latent.features), jnp.float32),
        _rows(mesh, (rows, tokens), jnp.int32),
        _rows(mesh, (rows,), jnp.int32),
        jax.ShapeDtypeStruct((), jnp.int32),
        jax.ShapeDtypeStruct((), jnp.float32),
        config=model,
        markers=_markers(model),
        settings=sampler.FlowSettings(**timesteps),
        window=policy.window,
    )


def _lower_sampler(name: str, run: Run, budgets: Budgets) -> jax.stages.Lowered:
    """`write_text`, `draw_image` or `draw_codes`, one conversation for each data x fsdp part."""
    mesh = run.mesh
    rows = batches.row_parts(mesh)
    model, params = _sampled(run)
    markers = _markers(model)
    context = _cache(run, rows, budgets.total)
    if name == "text":
        return writing.write_text.lower(
            params,
            context,
            _rows(mesh, (rows,), bool),
            _rows(mesh, (rows,), jnp.uint32),
            jax.ShapeDtypeStruct((), jnp.int32),
            *[jax.ShapeDtypeStruct((), jnp.float32)] * 2,
            config=model,
            markers=markers,
            vocab=model.llm.vocab,
            max_tokens=512,
            greedy=True,
        )
    if isinstance(model, JanusConfig):
        return sampler.draw_codes.lower(
            params,
            (context, context),
            _rows(mesh, (rows,), jnp.uint32),
            *[jax.ShapeDtypeStruct((), jnp.float32)] * 2,
            config=model,
            markers=markers,
            count=model.codes.count,
        )
    tokens = min(model.latent.side**2, max(budgets.latent, 1))
    return sampler.draw_image.lower(
        params,
        (context, context),
        _rows(mesh, (rows, tokens, model.latent.features), jnp.float32),
        _rows(mesh, (rows, tokens), jnp.int32),
        _rows(mesh, (rows,), jnp.int32),
        (_rows(mesh, (rows,), jnp.float32),) * 2,
        config=model,
        markers=markers,
        settings=sampler.FlowSettings(),
    )


def _sampled(run: Run) -> tuple[ModelConfig, Any]:
    """Config and shapes of the parameters as a sampler loads them, spread over the mesh."""
    model, shapes = _for_sampling(run.model)
    spread = sharding.shardings(run.mesh, shapes, functional.logical_axes(model))
    return model, with_shardings(shapes, spread)


def _for_sampling(model: ModelConfig) -> tuple[ModelConfig, Any]:
    """Config and shapes of the parameters as a sampler loads them."""
    found: list[ModelConfig] = []

    def read(params: Any) -> Any:
        config, params = functional.for_sampling(model, params)
        found.append(config)
        return params

    shapes = jax.eval_shape(read, functional.abstract(model))
    return found[0], shapes


def _markers(model: ModelConfig) -> cache.Markers:
    """Some control ids; which ones does not change the program."""
    vocab = model.llm.vocab
    return cache.Markers(bos=vocab - 4, eos=vocab - 3, soi=vocab - 2, eoi=vocab - 1)


def _rows(mesh: jax.sharding.Mesh, shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
    """An array with its rows spread over the mesh."""
    return jax.ShapeDtypeStruct(shape, dtype, sharding=batches.batch_sharding(mesh))


def _cache(run: Run, rows: int, slots: int) -> cache.Cache:
    """A cache with its rows spread as the reasoner spreads them."""
    made: Mapping[str, Any] = jax.eval_shape(lambda: cache.empty(run.model, rows, slots))
    flat = batches.batch_sharding(run.mesh)
    wide = NamedSharding(run.mesh, PartitionSpec(None, *flat.spec))
    return with_shardings(made, cache.Cache(k=wide, v=wide, lengths=flat, positions=flat))
