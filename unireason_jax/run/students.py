"""Runs that learn from a teacher: `config.distill` -> what the train step needs for it."""

import functools
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from unireason_jax.models.janus.config import JanusConfig
from unireason_jax.run import configuration
from unireason_jax.run.configuration import ConfigError
from unireason_jax.training import distillation, objective, weights
from unireason_jax.training.checkpoint_manifest import find, read_manifest
from unireason_jax.training.distillation import Distillation, Guidance

GUIDANCE = ("draw", "edit")


def is_student(config: ConfigDict) -> bool:
    """Whether a run learns from a teacher; runs from before there were any do not."""
    return bool(config.get("distill") and config.distill.substeps)


def distillation_of(config: ConfigDict, markers: tuple[int, int]) -> Distillation:
    """What the student of a config learns.

    Args:
      config: the resolved config.
      markers: ids that begin and end an image.

    Raises:
      ConfigError: values that cannot work.
    """
    values = dict(config.distill.items())
    guidance = {}
    try:
        for name in GUIDANCE:
            own = dict(values[name].items())
            if own.pop("text_free", None) not in (None, "all"):
                raise ValueError("text_free: a student learns 'all' only, no text at all.")
            guidance[name] = configuration.build(Guidance, own, f"distill.{name}")
        return Distillation(
            values["steps"],
            values["substeps"],
            values["shift"] or config.loss.timestep_shift,
            markers,
            **guidance,
        )
    except ValueError as error:
        raise ConfigError(f"config.distill: {error}") from None


def train_step_of(run: Any) -> Callable[..., Any]:
    """The train step of a `Run`: of the loss alone, or towards a teacher.

    Raises:
      ConfigError: what cannot be distilled.
    """
    if not is_student(run.config):
        return objective.train_step
    if isinstance(run.model, JanusConfig):
        raise ConfigError("config.distill: only models that draw by flow have few-step students.")
    markers = run.tokenizer.soi, run.tokenizer.eoi
    how = distillation_of(run.config, markers)
    return functools.partial(distillation.train_step, how=how)


def teacher_of(run: Any, *, abstract: bool = False) -> dict[str, Any]:
    """{"teacher": the weights of `init_from`}; nothing for a run without one, and with adapters,
    which stand beside them.

    Args:
      run: a `Run`.
      abstract: their shapes instead.

    Raises:
      CheckpointMissing, CheckpointMismatch: they are not there, or are another model's.
      ConfigError: adapters beside adapters.
    """
    config = run.config
    if not is_student(config):
        return {}
    if abstract:
        return {} if run.model.lora else {"teacher": run.abstract.params}
    directory = find(config.init_from, config.distill.teacher_step)
    if run.model.lora:
        if "base" in read_manifest(directory):
            raise ConfigError(
                f"config.init_from: {config.init_from} holds adapters, and a student of adapters "
                "learns from what they stand beside; merge them first (`unireason convert`)."
            )
        return {}
    options = {"which": config.init_which, "step": config.distill.teacher_step}
    options |= {"mesh": run.mesh, "dtypes": run.dtypes}
    return {"teacher": weights.load_model(config.init_from, run.model, **options)}
