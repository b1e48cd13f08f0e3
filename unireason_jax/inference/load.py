"""From a run's directory, or a command line, to a reasoner."""

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from absl import logging
from etils import epath
from ml_collections import ConfigDict

from unireason_jax.inference import default_preset
from unireason_jax.inference.cache import KV_DTYPES
from unireason_jax.inference.code_drawing import CodeSettings
from unireason_jax.inference.reasoner import VERBS, Reasoner
from unireason_jax.inference.settings import FlowSettings, Settings, with_options
from unireason_jax.inference.step_cache import CACHES
from unireason_jax.inference.systems import catalog
from unireason_jax.models import functional
from unireason_jax.models.janus.vq import VQTokenizer
from unireason_jax.models.sizes import QUANTIZED, QuantizedConfig
from unireason_jax.models.vae import Autoencoder
from unireason_jax.pods import sharding
from unireason_jax.rules.flow import RENORMS, SOLVERS
from unireason_jax.run import adapters, corpus, drawing_assets
from unireason_jax.run.run import Run
from unireason_jax.run.students import is_student
from unireason_jax.training import checkpoint, weights
from unireason_jax.world.scenes import CELL

WORLD_FLOW = FlowSettings(timesteps=20, text_scale=1.0, interval=(0.0, 1.0), renorm="none")
WORLD_CODES = CodeSettings(guidance=1.0)
RELEASED_TEXT = 32768
"""Most text tokens of a released model's conversation (its configured positions)."""


def load(
    workdir: epath.PathLike,
    *,
    which: str = "ema",
    step: int | None = None,
    settings: Settings | None = None,
    mesh: Any = None,
    dtype: str | None = None,
    weights_dtype: str | None = None,
    kv_dtype: str | None = None,
    adapter: str | None = None,
    merged: bool = True,
) -> Reasoner:
    """A reasoner with the weights, tokenizer and codec of a run or of a converted folder.

    Args:
      workdir: the directory of a training run, or what `unireason convert` wrote. Of a run of
        adapters, they and the weights that they stand beside.
      which: "ema" for the averaged weights, "params" for the last ones.
      step: a certain checkpoint; by default the newest sound one.
      settings: how to generate; by default those of the embedded world (`WORLD_FLOW`, with the
        timestep shift of the run), or BAGEL's where the codec is an autoencoder; both draw at the
        size of the run's own pictures.
      mesh: spreads weights and rows over devices; None uses one.
      dtype: of the matmuls and of the weights they read, "float32" or "bfloat16"; by default the
        config's.
      weights_dtype: "int8" or "nf4" keeps the kernels of the layers in few bits.
      kv_dtype: "bfloat16" or "float8_e4m3fn" keeps keys and values in fewer bits.
      adapter: its name in the workdir's `adapters`, or its folder (see `run.adapters`).
      merged: adapters are added to the kernels, which costs nothing while sampling; else they, and
        those beside kernels of few bits, are multiplied on their own.

    Raises:
      FileNotFoundError: no run, no adapter or no sound checkpoint there.
      ValueError: the checkpoint or the adapter does not fit the run's config.
    """
    run = Run.load(workdir)
    model = dataclasses.replace(run.model, dtype=dtype) if dtype else run.model
    if weights_dtype:
        model = dataclasses.replace(model, quantized=QuantizedConfig(weights_dtype))
    found = None
    if adapter:
        if model.lora:
            raise ValueError(f"{workdir}: has adapters of its own; give its weights instead.")
        found = adapters.read(adapter, workdir, functional.bare(model), which=which)
        if told := adapters.stranger(adapter, workdir):
            logging.warning("%s", told)
        model = functional.with_adapters(model, found.config)
    if merged and not model.quantized:
        model = functional.with_adapters(model, None)
    run = dataclasses.replace(run, model=model)
    options = {"which": which, "step": step, "mesh": mesh, "adapter": found}
    params = weights.load_model(workdir, model, merged_dtype=model.dtype, **options)
    if functional.draws_noise(params):
        logging.warning(
            "%s: its head of velocities (latent_out, llm2vae of BAGEL) is zero, so pictures will "
            "be noise; train it on pictures first, or name other weights.",
            workdir,
        )
    return around(run, params, settings or usual_settings(run, workdir), mesh, kv_dtype)


def around(
    run: Run, params: Any, settings: Settings, mesh: Any = None, kv_dtype: str | None = None
) -> Reasoner:
    """A reasoner with these weights of a run, laid out as `mesh` says; see `load`."""
    model, params = functional.for_sampling(run.model, params)
    data, released = run.config.data, isinstance(run.codec, Autoencoder | VQTokenizer)
    longest = RELEASED_TEXT if released else data.budgets.text or data.tokens or None
    spec = dataclasses.replace(run.spec, max_text=longest)
    style = corpus.style_of(run.config)
    more = {"mesh": mesh, "presets": verbs(run), "style": style, "kv_dtype": kv_dtype}
    return Reasoner(model, params, spec, settings, **more)


def verbs(run: Run) -> Mapping[str, str]:
    """Presets of "generate", "edit" and "ask" of a run's model: its system's, or the templates."""
    if isinstance(run.codec, VQTokenizer):
        return catalog.verbs_of("janus")
    if isinstance(run.codec, Autoencoder):
        return catalog.verbs_of(run.config.get("system", ""))
    return VERBS


def usual_settings(run: Run, workdir: epath.PathLike) -> Settings:
    """How the model of a workdir samples unless told otherwise, at the size of its own pictures
    (where it has none: BAGEL's, or the world's canvas)."""
    size = drawing_assets.size_of(workdir)
    if isinstance(run.codec, VQTokenizer):
        side = run.codec.stride * run.model.codes.side  # no other was ever drawn
        usual = Settings(batch_rows=4, size=(side, side), by_codes=True)
        return catalog.find("janus_t2i").settings(usual)
    if isinstance(run.codec, Autoencoder):
        settings = catalog.find(verbs(run)["generate"]).settings(Settings(batch_rows=4))
    else:
        side = run.config.data.side * CELL
        flow = dataclasses.replace(WORLD_FLOW, shift=run.config.loss.timestep_shift)
        settings = Settings(flow=flow, codes=WORLD_CODES, size=(side, side))
    settings = dataclasses.replace(settings, size=size or settings.size)
    return _as_learned(settings, run.config.distill) if is_student(run.config) else settings


def _as_learned(settings: Settings, distill: ConfigDict) -> Settings:
    """Settings of a student: without guidance, in the steps that it was taught, if any."""
    flow = dataclasses.replace(settings.flow, text_scale=1.0, image_scale=1.0)
    if distill.steps:
        flow = dataclasses.replace(flow, timesteps=distill.steps + 1, shift=distill.shift)
    return dataclasses.replace(settings, flow=flow, refine=None, is_student=True)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that `from_flags` and `with_flags` read, except --checkpoint and --preset."""
    group = parser.add_argument_group("sampling (defaults: the preset's, else the checkpoint's)")
    group.add_argument("--which", choices=("ema", "params"), default="ema", help="weights")
    group.add_argument("--step", type=int, help="a certain checkpoint instead of the newest")
    group.add_argument("--dtype", choices=("float32", "bfloat16"), help="of the matmuls")
    group.add_argument("--timesteps", type=int, help="points in flow time, steps + 1")
    group.add_argument("--shift", type=float, help="timestep shift")
    group.add_argument("--guidance", type=float, help="scale of the text guidance, 1 is off")
    group.add_argument("--image_guidance", type=float, help="scale of the image guidance, 1 is off")
    about = "shifted times between which guidance acts"
    group.add_argument("--interval", type=float, nargs=2, metavar=("LOW", "HIGH"), help=about)
    about = "of guided velocities: none, global, channel or text_channel"
    group.add_argument("--renorm", choices=RENORMS, metavar="RULE", help=about)
    about = f"of the steps: {', '.join(SOLVERS)}"
    group.add_argument("--solver", choices=SOLVERS, metavar="NAME", help=about)
    about = f"foretells velocities between computed ones: {', '.join(CACHES)}"
    group.add_argument("--cache", choices=CACHES, metavar="NAME", help=about)
    group.add_argument("--temperature", type=float, help="of texts; 0 takes the likeliest word")
    group.add_argument("--top_p", type=float, help="nucleus of sampled texts")
    group.add_argument("--max_text", type=int, help="most tokens of one text")
    group.add_argument("--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="in pixels")
    group.add_argument("--min_rounds", type=int, help="rounds before the model may stop")
    group.add_argument("--batch", type=int, help="conversations at a time")
    about = "one at a time: the same bits whatever else is asked, in any dtype; slower"
    group.add_argument("--exact", action="store_true", default=None, help=about)
    about = "its name in the checkpoint's adapters/, or its folder: a run's, or PEFT's"
    group.add_argument("--adapter", metavar="NAME", help=about)
    about = "multiply adapters on their own instead of adding them to the weights"
    group.add_argument("--unmerged", action="store_true", help=about)
    about = "keep the kernels of the layers in few bits"
    group.add_argument("--weights_dtype", choices=QUANTIZED, help=about)
    about = "keep keys and values in fewer bits, for more conversations in the same memory"
    group.add_argument("--kv_dtype", choices=KV_DTYPES, help=about)
    about = "how a process's devices are laid out, e.g. fsdp=4,tensor=2 (default: all on fsdp)"
    group.add_argument("--mesh", type=mesh_axes, metavar="AXIS=N,...", help=about)


def from_flags(
    arguments: argparse.Namespace, devices: Sequence[jax.Device] | None = None
) -> Reasoner:
    """The reasoner of --checkpoint, sampling as the flags say.

    Args:
      arguments: the flags.
      devices: where it lies; by default on all of this process.

    Raises:
      FileNotFoundError, ValueError: as `load`; an unknown preset, or a flag is out of range.
    """
    devices, sizes = devices or jax.local_devices(), arguments.mesh
    mesh = sharding.make_mesh(sizes, devices=devices) if sizes or len(devices) > 1 else None
    names = ("which", "step", "dtype", "weights_dtype", "kv_dtype", "adapter")
    options = {name: getattr(arguments, name) for name in names}
    options["merged"] = not arguments.unmerged
    reasoner = load(arguments.checkpoint, mesh=mesh, **options)
    default_preset.use(reasoner, getattr(arguments, "preset", None))
    reasoner.settings = with_flags(reasoner.settings, arguments)
    return reasoner


def told(arguments: argparse.Namespace) -> str:
    """In words, which weights --checkpoint and the flags of weights name."""
    return f"{arguments.checkpoint}, {weights_told(arguments)}"


def weights_told(arguments: argparse.Namespace) -> str:
    """In words, which weights of a checkpoint the flags name, and what they are kept in."""
    step = checkpoint.find(arguments.checkpoint, arguments.step).name
    more = [f", adapter {arguments.adapter}"] if arguments.adapter else []
    more += [f", kernels in {arguments.weights_dtype}"] if arguments.weights_dtype else []
    more += [f", keys and values in {arguments.kv_dtype}"] if arguments.kv_dtype else []
    return f"{arguments.which} of step {step}{''.join(more)}"


def mesh_axes(text: str) -> dict[str, int]:
    """Axis sizes of --mesh; ValueError, which argparse reports, unless AXIS=N,..."""
    return {name: int(size) for name, size in (part.split("=") for part in text.split(","))}


def with_flags(settings: Settings, arguments: argparse.Namespace) -> Settings:
    """Settings with the sampling flags that were given in their place.

    Raises:
      ValueError: a flag is out of range.
    """
    if arguments.batch is not None:
        settings = dataclasses.replace(settings, batch_rows=arguments.batch)
    if arguments.exact:
        settings = dataclasses.replace(settings, exact=True)
    return with_options(settings, vars(arguments))
