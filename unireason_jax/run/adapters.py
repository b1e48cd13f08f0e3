"""Adapters by name or by folder: those of a training run, and those in the form of PEFT.

    <checkpoint>/adapters/<name>/    a run's folder or PEFT's, found by its name

Any other folder is found by its path.
"""

from etils import epath

from unireason_jax.models import peft
from unireason_jax.models.config import ModelConfig
from unireason_jax.run import configuration
from unireason_jax.training import adapter_base
from unireason_jax.training.checkpoint_manifest import find, read_manifest
from unireason_jax.training.weights import Adapter, adapters_of

FOLDER = "adapters"


def find_folder(name: str, checkpoint: epath.PathLike) -> epath.Path:
    """The folder of an adapter: `adapters/<name>` of the checkpoint, else the path itself.

    Raises:
      FileNotFoundError: there is neither; the message lists the names that there are.
    """
    beside = epath.Path(checkpoint) / FOLDER
    for folder in (beside / name, epath.Path(name)):
        if folder.is_dir():
            return folder
    there = sorted(path.name for path in beside.iterdir()) if beside.is_dir() else []
    raise FileNotFoundError(
        f"--adapter {name}: no such folder, and {beside} has {', '.join(there) or 'none'}."
    )


def read(
    name: str, checkpoint: epath.PathLike, model: ModelConfig, *, which: str = "ema"
) -> Adapter:
    """An adapter that is put beside the weights of a checkpoint.

    Args:
      name: in the checkpoint's `adapters`, or a folder.
      checkpoint: the weights.
      model: their model.
      which: "ema" or "params", of a run's.

    Raises:
      FileNotFoundError, ValueError: there is none, or it is of another model.
    """
    folder = find_folder(name, checkpoint)
    if peft.is_peft(folder):
        made, leaves = peft.read(folder, model)
        return Adapter(leaves, made.scale, made)
    directory = find(folder)
    made = configuration.lora_config(configuration.load_workdir(folder))
    if made is None or "base" not in read_manifest(directory):
        raise ValueError(
            f"--adapter {name}: {folder} holds whole weights; give it as --checkpoint."
        )
    return Adapter(adapters_of(directory, which), made.scale, made)


def stranger(name: str, checkpoint: epath.PathLike) -> str:
    """What has to be said where an adapter of a run was trained beside other weights, or ""."""
    folder = find_folder(name, checkpoint)
    base = {} if peft.is_peft(folder) else read_manifest(find(folder)).get("base", {})
    if not base or adapter_base.is_same(base, find(checkpoint)):
        return ""
    return f"the adapter {name} was trained beside other weights than those of {checkpoint}"
