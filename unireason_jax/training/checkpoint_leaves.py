"""Leaves of checkpoints: how they are described, compared with a run's, and read from Orbax."""

from collections.abc import Mapping
from typing import Any

import jax
from etils import epath

from unireason_jax.training.checkpoint_manifest import CheckpointMissing


class CheckpointMismatch(ValueError):
    """A checkpoint that belongs to another model or another training set-up."""


def describe(tree: Any) -> dict[str, list]:
    """[shape, dtype] of every leaf by path."""
    flat = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): [list(x.shape), str(x.dtype)]
        for path, x in flat
    }


def compare(directory: epath.Path, part: str, stored: Mapping, expected: Mapping, hint: str):
    """Raises CheckpointMismatch naming the first leaf that differs."""
    for name in sorted(set(stored) | set(expected)):
        there, here = stored.get(name), expected.get(name)
        if there is None or here is None:
            which = "is missing in the checkpoint" if there is None else "exists only there"
            problem = f"leaf {part}/{name} {which}"
        elif list(there[0]) != list(here[0]):
            problem = f"leaf {part}/{name} has shape {tuple(there[0])} there, {tuple(here[0])} here"
        else:
            continue
        raise CheckpointMismatch(f"{directory} does not fit this run: {problem}. {hint}")


OTHER_MODEL = (
    "It belongs to another model: give the same --config.model.* and --config.lora.* (see "
    "config.json in its workdir), or another --workdir / --config.init_from."
)
OTHER_OPTIMIZER = (
    "Keep --config.optim.freeze, .ema, .clip_norm and .spike_window as they were, or start a new "
    "--workdir with --config.init_from pointing at this one."
)


def read_arrays(
    directory: epath.Path, wanted: dict[str, Any], *, partly: bool = False
) -> dict[str, Any]:
    """What Orbax reads. Whatever it raises over files becomes CheckpointMissing naming them.

    Args:
      directory: of one step.
      wanted: trees of ShapeDtypeStruct with shardings, by name.
      partly: they have some of the leaves only.
    """
    from orbax.checkpoint import v1 as ocp  # costs a start more than the weights of the demo do

    context = ocp.Context()
    context.pytree.loading.partial_load = partly
    try:
        with context:
            return ocp.load_checkpointables(directory, wanted)
    except (MemoryError, jax.errors.JaxRuntimeError):
        raise  # of this machine, not of the files
    except Exception as error:
        raise CheckpointMissing(
            f"{directory}: its arrays cannot be loaded ({line_of(error)})."
        ) from error


def line_of(error: BaseException) -> str:
    """The first line of an error, or its kind where it says nothing."""
    text = str(error).strip().splitlines()
    return text[0][:300] if text else type(error).__name__
