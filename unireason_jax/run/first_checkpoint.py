"""A workdir whose weights were not trained there: they are its checkpoint 0.

The checkpoint's manifest is written last, so that a workdir which has one is whole; what an
interrupted command has left is thrown away by the next.
"""

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from unireason_jax.models.archive import DTYPES, write_archive
from unireason_jax.storage import atomic
from unireason_jax.training import checkpoint


def new(workdir: Path) -> Path:
    """The folder of checkpoint 0, made.

    Raises:
      ValueError: the workdir has checkpoints.
    """
    directory = workdir / checkpoint.FOLDER / "0"
    others = [step for step in checkpoint.steps(workdir) if step]
    if (directory / checkpoint.MANIFEST).exists() or others:
        exists = directory.parent / str(others[0]) if others else directory
        raise ValueError(f"{exists}: exists; choose another --output, or remove it.")
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    return directory


def write_leaves(
    directory: Path,
    leaves: Mapping[str, tuple[tuple[int, ...], str]],
    produce: Callable[[str], Iterable[np.ndarray]],
    shard_bytes: int,
) -> tuple[list[str], dict[str, list]]:
    """Writes leaves (shape and type by path); returns the names of the files, and the leaves as a
    manifest lists them."""
    files = write_archive(directory, "params", leaves, produce, shard_bytes=shard_bytes)
    known = {path: [list(shape), str(DTYPES[kind])] for path, (shape, kind) in leaves.items()}
    return [f"{checkpoint.FOLDER}/0/{name}" for name in files], known


def finish(directory: Path, leaves: dict[str, list]) -> None:
    """Makes the written leaves checkpoint 0."""
    facts = checkpoint.file_facts(directory, hashes=False)
    checkpoint.write_manifest(directory, step=0, data=None, leaves={"params": leaves}, files=facts)


def copy(source: Path, target: Path, names: Sequence[str]) -> list[str]:
    """Copies the files that are there; returns their names."""
    present = [name for name in names if (source / name).exists()]
    for name in present:
        with atomic.replacing(target / name) as part:
            shutil.copyfile(source / name, part)
    return present
