"""Which weights an adapter stands beside: noted in every checkpoint of it, found again, checked.

    manifest.json: "base": {"path", "relative", "which", "checksum", "scale"}

`path` is the step's directory, `relative` the way there from the adapter's workdir (the two may be
moved together), `which` of its weights ("ema" or "params"), and `scale` what the product of the
adapter's matrices counts (see `models.lora`).
"""

import os
from collections.abc import Mapping
from typing import Any

from etils import epath

from unireason_jax.training.checkpoint_leaves import CheckpointMismatch
from unireason_jax.training.checkpoint_manifest import (
    CheckpointMissing,
    checksum,
    find,
    read_manifest,
    workdir_of,
)


def note(weights: epath.PathLike, which: str, scale: float, workdir: epath.PathLike) -> dict:
    """What the checkpoints of an adapter in `workdir` say of the weights it stands beside.

    Those of an adapter are the ones that it stands beside itself.
    """
    directory = find(weights)
    theirs = read_manifest(directory).get("base")
    if theirs:
        directory, which = locate(theirs, directory), theirs["which"]
    known = {"which": which, "checksum": checksum(directory), "scale": scale}
    return known | _place(directory, workdir)


def moved(base: Mapping[str, Any], directory: epath.Path, workdir: epath.PathLike) -> dict:
    """The same note for weights that lie in `directory` now, and an adapter in `workdir`."""
    return {**base, **_place(directory, workdir)}


def _place(directory: epath.Path, workdir: epath.PathLike) -> dict[str, str]:
    """Where weights lie, and the way there from a workdir; "" where one is in a bucket."""
    in_bucket = "://" in f"{directory}{workdir}"
    relative = "" if in_bucket else os.path.relpath(directory, workdir)
    return {"path": str(directory), "relative": relative}


def is_same(base: Mapping[str, Any], directory: epath.PathLike) -> bool:
    """Whether a step's directory holds the weights that `note` was told of."""
    return checksum(directory) == base["checksum"]


def locate(base: Mapping[str, Any], adapter: epath.PathLike) -> epath.Path:
    """The step directory of the weights that an adapter's checkpoint stands beside.

    Args:
      base: as `note` made it.
      adapter: a directory of the adapter's checkpoint, or its workdir.

    Raises:
      CheckpointMissing: they are not where they were.
      CheckpointMismatch: they are others now.
    """
    home = workdir_of(adapter)
    moved = [epath.Path(os.path.normpath(home / base["relative"]))] if base["relative"] else []
    for directory in (epath.Path(base["path"]), *moved):
        if not (directory / "manifest.json").exists():
            continue
        if not is_same(base, directory):
            raise CheckpointMismatch(
                f"{directory}: not the weights that the adapter in {home} was trained beside "
                "(checksum differs). Put those back, or give others on purpose: --checkpoint "
                f"OTHERS --adapter {home}."
            )
        return directory
    raise CheckpointMissing(
        f"{base['path']}: missing; the adapter in {home} stands beside these weights. Put them "
        f"back, or give where they are now: --checkpoint WEIGHTS --adapter {home} (when training: "
        "--config.init_from=WEIGHTS)."
    )
