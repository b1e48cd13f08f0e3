"""What a finished checkpoint holds, file by file, and whether it still does.

    <workdir>/checkpoints/<step>/manifest.json

The manifest is written last: a step without one was never finished, and a step that disagrees with
it is damaged. It holds the data iterator's state, shape and dtype of every leaf, and size and
CRC-32 of every file. Several processes share the reading of the files, so all of them must call
`file_facts`, `faults` and `find`, and in the same order.
"""

import json
import zlib
from collections.abc import Mapping
from typing import Any

import jax
from absl import logging
from etils import epath

from unireason_jax.pods import pod
from unireason_jax.storage import atomic

MANIFEST = "manifest.json"
FOLDER = "checkpoints"
_CHUNK = 1 << 22


class CheckpointMissing(FileNotFoundError):
    """No sound checkpoint where one was asked for."""


def _crc(path: epath.Path) -> int:
    """CRC-32 of a file, read in pieces."""
    value = 0
    with path.open("rb") as file:
        while piece := file.read(_CHUNK):
            value = zlib.crc32(piece, value)
    return value


def _walk(directory: epath.Path) -> list[epath.Path]:
    """All files below a directory."""
    found = []
    for path in directory.iterdir():
        found += _walk(path) if path.is_dir() else [path]
    return found


def _share(names: list[str]) -> list[str]:
    """The files that this process reads."""
    return sorted(names)[jax.process_index() :: jax.process_count()]


def file_facts(directory: epath.PathLike, *, hashes: bool) -> dict[str, list]:
    """[bytes, CRC-32 or None] of every file of a step directory, by relative path."""
    directory = epath.Path(directory)
    own = {
        name: [(directory / name).stat().length, _crc(directory / name) if hashes else None]
        for name in _share([str(path.relative_to(directory)) for path in _walk(directory)])
    }
    parts = pod.gather(f"files of {directory}", own)
    return {name: facts for part in parts for name, facts in part.items()}


def write_manifest(
    directory: epath.PathLike,
    *,
    step: int,
    data: Any,
    leaves: Mapping[str, Any],
    files: Mapping[str, list],
) -> None:
    """Describes a finished step directory, in one atomic write.

    Args:
      directory: the step's directory.
      step: its step.
      data: JSON state of the data iterator and of the meter; None where there is none.
      leaves: {"params": {path: [shape, dtype]}, ...}.
      files: result of `file_facts`.
    """
    directory = epath.Path(directory)
    text = json.dumps({"step": step, "data": data, "leaves": leaves, "files": files})
    atomic.write_text(directory / MANIFEST, text)


def read_manifest(directory: epath.PathLike) -> dict[str, Any]:
    """The manifest of a step directory. Raises CheckpointMissing when there is none."""
    path = epath.Path(directory) / MANIFEST
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise CheckpointMissing(f"{directory}: no {MANIFEST}; the save was not finished.") from None
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise CheckpointMissing(f"{path}: not readable as JSON; the save is damaged.") from None


def faults(directory: epath.PathLike) -> list[str]:
    """What is wrong with a step directory, one sentence per fault; empty when it is sound."""
    parts = pod.gather(f"faults of {directory}", _own_faults(epath.Path(directory)))
    return list(dict.fromkeys(fault for part in parts for fault in part))


def _own_faults(directory: epath.Path) -> list[str]:
    """The faults among the files that this process reads."""
    try:
        files = read_manifest(directory)["files"]
    except CheckpointMissing as error:
        return [str(error)]
    found = []
    for name in _share(list(files)):
        path, (size, crc) = directory / name, files[name]
        if not path.exists():
            found.append(f"{path}: the file is missing.")
        elif path.stat().length != size:
            found.append(f"{path}: {path.stat().length} bytes instead of {size}.")
        elif crc is not None and _crc(path) != crc:
            found.append(f"{path}: the content changed (checksum differs).")
    return found


def steps(workdir: epath.PathLike) -> list[int]:
    """Steps present in a workdir, sound or not, ascending."""
    folder = epath.Path(workdir) / FOLDER
    if not folder.exists():
        return []
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit() and p.is_dir())


def find(path: epath.PathLike, step: int | None = None) -> epath.Path:
    """The directory of the newest sound step, or of the step asked for.

    Args:
      path: a workdir, its `checkpoints` folder, or one step's directory.
      step: a certain step; by default the newest that is sound (damaged ones are logged).

    Raises:
      CheckpointMissing: nothing there, or nothing sound; the message names each fault.
    """
    path = epath.Path(path)
    if "://" not in str(path):
        path = path.absolute()  # Orbax refuses relative paths
    if path.name.isdigit() and not (path / FOLDER).exists() and (path / MANIFEST).exists():
        path, step = path.parent.parent, int(path.name)
    if path.name == FOLDER:
        path = path.parent
    present = steps(path)
    if step is not None and step not in present:
        raise CheckpointMissing(
            f"{path}: no checkpoint of step {step}; there are {present or 'none'}."
        )
    told = []
    for candidate in [step] if step is not None else reversed(present):
        directory = path / FOLDER / str(candidate)
        wrong = faults(directory)
        if not wrong:
            return directory
        told += wrong
        logging.error("checkpoint of step %d is unusable: %s", candidate, " ".join(wrong[:3]))
    raise CheckpointMissing(
        f"{path}: no usable checkpoint." + ("".join(f"\n  {line}" for line in told[:6]))
        if told
        else f"{path}: no checkpoint here; is this the --workdir of a training run?"
    )
