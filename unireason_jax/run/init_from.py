"""Where a run's weights come from, and what else it takes over from there: shape and schedule.

A run that goes on keeps its schedule; a new one that starts from given weights has their shape,
unless its config says otherwise.
"""

from collections.abc import Mapping
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from unireason_jax.run import configuration
from unireason_jax.run.configuration import ConfigError
from unireason_jax.training import checkpoint

SCRATCH = "scratch"
NOT_SHAPE = (
    "dtype",
    "remat",
    "attention",
    "chunk",
    "unroll",
    "frozen_dtype",
)  # how a model is computed
_OF_RECORDS = {"system": "", "data.style": "plain", "data.sizes": ""}
"""Values with which a config leaves these to its records (`run.detected_system.told`)."""
_HERE = ("train.", "eval.", "mesh.", "data.workers", "data.prefetch", "resume_from", "init_")


def settle(config: ConfigDict, workdir: epath.PathLike) -> list[str]:
    """Takes over, in place, what the config leaves open; returns lines that say what and why.

    The newest weights win, as in training: the workdir's own, those of `resume_from`, those of
    `init_from`. A directory without config.json has nothing to take over.

    Args:
      config: the resolved config.
      workdir: of the run.
    """
    goes_on = bool(checkpoint.steps(workdir))
    where = workdir if goes_on else config.resume_from or config.init_from
    if not where or where == SCRATCH:
        return []
    try:
        theirs = configuration.load_workdir(home(epath.Path(where)))
    except (FileNotFoundError, ValueError):
        return []  # whoever loads the weights says what is wrong
    lines = _take_shape(config, theirs, where)
    if goes_on or config.resume_from:
        lines += _keep_schedule(config, theirs) + _changes(config, theirs)
    return lines


def named(config: ConfigDict) -> str:
    """`init_from`. Raises ConfigError where nothing says where the weights come from."""
    if not config.init_from:
        raise ConfigError(
            "where do the weights come from? Set --config.init_from to a run, or to 'scratch' "
            "for random weights; or --config.resume_from to go on with another run."
        )
    return config.init_from


def home(path: epath.Path) -> epath.Path:
    """The workdir of a path that may name its checkpoints or one of them."""
    if path.name.isdigit() and path.parent.name == checkpoint.FOLDER:
        return path.parent.parent
    return path.parent if path.name == checkpoint.FOLDER else path


def _take_shape(config: ConfigDict, theirs: ConfigDict, where: epath.PathLike) -> list[str]:
    """Sizes of the model that nobody chose: those of the weights."""
    default = configuration.leaves(configuration.load("configs/common.py").model)
    ours, given = (configuration.leaves(c.get("model", {})) for c in (config, theirs))
    told = {key for key, value in ours.items() if value != default.get(key)}
    if "variant" in told and ours["variant"] != given.get("variant"):
        return []
    taken = {
        key: value
        for key, value in given.items()
        if key in ours and key not in told and key not in NOT_SHAPE and value != ours[key]
    }
    configuration.apply(config, {f"model.{key}": value for key, value in taken.items()})
    sizes = ", ".join(f"model.{key} {value}" for key, value in taken.items())
    return [f"the model has the shape of {where}: {sizes}"] if taken else []


def _keep_schedule(config: ConfigDict, theirs: ConfigDict) -> list[str]:
    """The learning rate's end, unless `optim.total_steps` chooses another on purpose."""
    before = theirs.optim.total_steps or theirs.train.steps
    if config.optim.total_steps is not None:
        return []  # `_changes` tells of another
    if before == config.train.steps:
        return []
    config.optim.total_steps = before
    if config.optim.schedule == "constant":
        return []
    return [
        f"the learning rate's schedule ends at step {before} as before, though train.steps is now "
        f"{config.train.steps}; --config.optim.total_steps={config.train.steps} changes that"
    ]


def _changes(config: ConfigDict, theirs: ConfigDict) -> list[str]:
    """Lines of what a run that goes on does otherwise from now on."""
    before, now = (_flat(c) for c in (theirs, config))
    before["optim.total_steps"] = before.get("optim.total_steps") or before.get("train.steps")
    now["optim.total_steps"] = now["optim.total_steps"] or now["train.steps"]
    return [
        f"changed since the last start: {key} {before[key]!r} -> {now[key]!r}"
        for key in now
        if key in before
        and before[key] != now[key]
        and not key.startswith(_HERE)
        and _OF_RECORDS.get(key) != now[key]
    ]


def _flat(config: ConfigDict) -> dict[str, Any]:
    """Leaves of a config as JSON has them, in which both are compared."""
    plain: Mapping[str, Any] = configuration.plain(config)
    return configuration.leaves(plain)
