"""A workdir whose weights were not trained there: they are its checkpoint 0.

The checkpoint's manifest is written last, so that a workdir which has one is whole; what an
interrupted command has left is thrown away by the next.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unireason_jax.models.archive import DTYPES, type_name, write_archive
from unireason_jax.models.config import ModelConfig
from unireason_jax.models.official_names import Tensor, layout
from unireason_jax.storage import atomic, paths
from unireason_jax.training import checkpoint

_BLOCK = 1 << 26


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
    paths.remove_tree(directory)
    directory.mkdir(parents=True, exist_ok=True)
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


def write_weights(
    directory: Path,
    config: ModelConfig,
    archive: Any,
    dtype: str | None,
    shard_bytes: int,
) -> tuple[list[str], dict[str, list]]:
    """Streams tensors of an archive into our stacked leaves; result as `write_leaves`."""
    table, shapes = layout(config), _shapes(config)
    kinds = {
        path: type_name(dtype) if dtype else archive.dtype(t.names[0]) for path, t in table.items()
    }

    def produce(path: str) -> Iterator[np.ndarray]:
        for name in table[path].names:
            yield from _blocks(table[path], archive.read(name), DTYPES[kinds[path]])

    announced = {path: (shapes[path], kinds[path]) for path in table}
    return write_leaves(directory, announced, produce, shard_bytes)


def _blocks(tensor: Tensor, official: np.ndarray, dtype: np.dtype) -> Iterator[np.ndarray]:
    """One tensor in our layout and type, a piece of its first dimension at a time."""
    ours = tensor.ours(official)
    count = max(1, len(ours) * _BLOCK // max(1, ours.size * dtype.itemsize)) if ours.ndim else 1
    for start in range(0, len(ours), count):
        yield ours[start : start + count].astype(dtype)


def _shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Shape of every leaf by path."""
    return {
        path: (len(t.names), *t.inner) if t.stacked else t.inner
        for path, t in layout(config).items()
    }


def finish(directory: Path, leaves: dict[str, list], base: Mapping[str, Any] | None = None) -> None:
    """Makes the written leaves checkpoint 0; adapters note their `base` (`adapter_base`)."""
    facts = checkpoint.file_facts(directory, hashes=False)
    known = {"leaves": {"params": leaves}, "files": facts, "base": base}
    checkpoint.write_manifest(directory, step=0, data=None, **known)


def copy(source: Path, target: Path, names: Sequence[str]) -> list[str]:
    """Copies the files that are there; returns their names."""
    present = [name for name in names if (source / name).exists()]
    for name in present:
        with atomic.replacing(target / name) as part:
            paths.copy(source / name, part)
    return present
