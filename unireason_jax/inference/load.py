"""From a run's directory, or a command line, to a reasoner."""

import argparse
import dataclasses
from typing import Any

import jax
from etils import epath

from unireason_jax import checkpoint, experiment, sharding
from unireason_jax.inference.reasoner import Reasoner, Settings
from unireason_jax.inference.sampler import FlowSettings
from unireason_jax.models import functional
from unireason_jax.world.scenes import CELL

WORLD_FLOW = FlowSettings(timesteps=20, text_scale=1.0, interval=(0.0, 1.0), renorm="none")


def load(
    workdir: epath.PathLike,
    *,
    which: str = "ema",
    step: int | None = None,
    settings: Settings | None = None,
    mesh: Any = None,
) -> Reasoner:
    """A reasoner with the weights, tokenizer and codec of a training run.

    Args:
      workdir: the run's directory.
      which: "ema" for the averaged weights, "params" for the last ones.
      step: a certain checkpoint; by default the newest sound one.
      settings: how to generate; by default those of the embedded world (`WORLD_FLOW`, with the
        timestep shift and the canvas of the run).
      mesh: spreads weights and rows over devices; None uses one.

    Raises:
      FileNotFoundError: no run or no sound checkpoint there.
      ValueError: the checkpoint does not fit the run's config.
    """
    made = experiment.load(workdir)
    shapes = functional.abstract(made.model)
    places = None
    if mesh is not None:
        places = sharding.shardings(mesh, shapes, functional.logical_axes(made.model))
    params = checkpoint.load_params(
        workdir, which=which, step=step, expected=shapes, shardings=places
    )
    data = made.config.data
    spec = dataclasses.replace(made.spec, max_text=data.budgets.text or data.tokens or None)
    if settings is None:
        side = data.side * CELL
        flow = dataclasses.replace(WORLD_FLOW, shift=made.config.loss.timestep_shift)
        settings = Settings(flow=flow, size=(side, side))
    return Reasoner(made.model, params, spec, settings, mesh=mesh)


_FLAGS = {
    "text": {"temperature": "temperature", "top_p": "top_p"},
    "flow": {
        "timesteps": "timesteps",
        "shift": "shift",
        "guidance": "text_scale",
        "image_guidance": "image_scale",
    },
    "": {"min_rounds": "min_rounds", "batch": "batch_rows"},
}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that `from_flags` reads, except --checkpoint."""
    group = parser.add_argument_group("sampling (defaults are those of the embedded world)")
    group.add_argument("--which", choices=("ema", "params"), default="ema", help="weights")
    group.add_argument("--step", type=int, help="a certain checkpoint instead of the newest")
    group.add_argument("--timesteps", type=int, help="points in flow time, Euler steps + 1")
    group.add_argument("--shift", type=float, help="timestep shift")
    group.add_argument("--guidance", type=float, help="scale of the text guidance, 1 is off")
    group.add_argument("--image_guidance", type=float, help="scale of the image guidance, 1 is off")
    group.add_argument("--temperature", type=float, help="of texts; 0 takes the likeliest word")
    group.add_argument("--top_p", type=float, help="nucleus of sampled texts")
    group.add_argument("--min_rounds", type=int, help="rounds before the model may stop")
    group.add_argument("--batch", type=int, help="conversations at a time")


def from_flags(arguments: argparse.Namespace) -> Reasoner:
    """The reasoner of --checkpoint on all devices, with the sampling flags applied.

    Raises:
      FileNotFoundError, ValueError: as `load`; or a flag is out of range.
    """
    mesh = sharding.make_mesh(sharding.preset("fsdp")) if jax.device_count() > 1 else None
    reasoner = load(arguments.checkpoint, which=arguments.which, step=arguments.step, mesh=mesh)
    given = {name: value for name, value in vars(arguments).items() if value is not None}
    changes: dict[str, Any] = {}
    for part, flags in _FLAGS.items():
        values = {field: given[flag] for flag, field in flags.items() if flag in given}
        if part and values:
            changes[part] = dataclasses.replace(getattr(reasoner.settings, part), **values)
        else:
            changes |= values
    reasoner.settings = dataclasses.replace(reasoner.settings, **changes)
    return reasoner
