"""What a finished checkpoint holds, file by file, and whether it still does.

    <workdir>/checkpoints/<step>/manifest.json

The manifest is written last: a step without one was never finished, and a step that disagrees with
it is damaged. It holds the data iterator's state, shape and dtype of every leaf, size and checksum
of every file, and at its end the CRC-32 of itself. The checksum is a CRC-32, or in a bucket that
keeps one itself (Google's) that CRC-32C. Files of arrays have theirs in their chunks, made while
they are written (`checkpoint_chunks`): in both cases nothing is read back after a save. Several
processes share the reading of the files, so all of them must call `file_facts`, `faults` and
`find`, and in the same order.

A step that cannot be used is moved away, or in a bucket, where folders cannot be moved, gets the
mark `damaged.txt` and is no step any more.
"""

import base64
import functools
import itertools
import json
import zlib
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any

import jax
import jax.numpy as jnp
from absl import logging
from etils import epath

from unireason_jax.pods import pod
from unireason_jax.storage import atomic, paths, sealed
from unireason_jax.training import checkpoint_chunks

MANIFEST = "manifest.json"
FOLDER = "checkpoints"
MARK = "damaged.txt"
_CHUNK = 1 << 22
_KEYS = {"step", "data", "leaves", "files"}


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


def _share(names: Iterable[str]) -> list[str]:
    """The files that this process reads."""
    return sorted(names)[jax.process_index() :: jax.process_count()]


def file_facts(directory: epath.PathLike, *, hashes: bool) -> dict[str, list]:
    """What a manifest says of every file of a step directory, by relative path.

    Returns:
      [bytes, CRC-32], [bytes, None, the bucket's own CRC-32C], [bytes, None, that its chunks have
      theirs], or without hashes [bytes, None].
    """
    directory = epath.Path(directory)
    known, checked = _known(directory), functools.cache(checkpoint_chunks.are_checked)
    names = known or [str(path.relative_to(directory)) for path in _walk(directory)]

    def facts(name: str) -> list:
        size, checksum = known.get(name) or ((directory / name).stat().length, None)
        if hashes and not checksum and checkpoint_chunks.are_in(name, size):
            part = directory / name.partition("/")[0]
            checksum = checkpoint_chunks.MARK if checked(part) else None
        if hashes and checksum:
            return [size, None, checksum]
        return [size, _crc(directory / name) if hashes else None]

    own = {name: facts(name) for name in _share(names)}
    parts = pod.gather(f"files of {directory}", own)
    return {name: facts for part in parts for name, facts in part.items()}


def _known(directory: epath.Path) -> dict[str, tuple[int, str | None]]:
    """What a bucket's listing tells of the files of a directory; nothing on a file system."""
    return {} if paths.is_local(directory) else paths.below(paths.of(directory))


def write_manifest(
    directory: epath.PathLike,
    *,
    step: int,
    data: Any,
    leaves: Mapping[str, Any],
    files: Mapping[str, list],
    base: Mapping[str, Any] | None = None,
) -> None:
    """Describes a finished step directory, in one atomic write.

    Args:
      directory: the step's directory.
      step: its step.
      data: JSON state of the data iterator and of the meter; None where there is none.
      leaves: {"params": {path: [shape, dtype]}, ...}.
      files: result of `file_facts`.
      base: of adapters, which weights they stand beside (see `adapter_base`).
    """
    values = {"step": step, "data": data, "leaves": leaves, "files": files}
    values |= {"base": base} if base else {}
    atomic.write_text(epath.Path(directory) / MANIFEST, sealed.seal(values))


def read_manifest(directory: epath.PathLike) -> dict[str, Any]:
    """The manifest of a step directory.

    Raises:
      CheckpointMissing: there is none, or it is damaged.
    """
    path = epath.Path(directory) / MANIFEST
    try:
        return _opened(path.read_bytes())
    except FileNotFoundError:
        raise CheckpointMissing(f"{directory}: no {MANIFEST}; the save was not finished.") from None
    except OSError as error:
        raise CheckpointMissing(f"{path}: cannot be read ({error.strerror or error}).") from None
    except ValueError as error:
        raise CheckpointMissing(f"{path}: {error}; the save is damaged.") from None


def _opened(data: bytes) -> dict[str, Any]:
    """The manifest in the bytes of its file. Raises ValueError saying what is wrong with them.

    Those of earlier versions have no checksum; of them only the form is checked.
    """
    found = sealed.unseal(data)
    if set(found) - {"base"} != _KEYS or not isinstance(found.get("base", {}), dict):
        raise ValueError("its keys are not those of a manifest")
    if type(found["step"]) is not int or not isinstance(found["data"], dict | None):
        raise ValueError("'step' or 'data' is not what a manifest has there")
    files, leaves = found["files"], found["leaves"]
    if not isinstance(files, dict) or not all(_is_file(*entry) for entry in files.items()):
        raise ValueError("'files' is not what a manifest has there")
    if not isinstance(leaves, dict) or not all(
        isinstance(part, dict) and all(map(_is_leaf, part.values())) for part in leaves.values()
    ):
        raise ValueError("'leaves' is not what a manifest has there")
    return found


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _is_file(name: str, facts: Any) -> bool:
    """Whether an entry of `files` names a file inside the directory, as `file_facts` does."""
    inside = not name.startswith("/") and ".." not in PurePosixPath(name).parts and "\0" not in name
    if not (inside and isinstance(facts, list) and len(facts) in (2, 3) and _is_count(facts[0])):
        return False
    told = len(facts) == 2 or (facts[1] is None and isinstance(facts[2], str))
    return told and (facts[1] is None or _is_count(facts[1]))


def _is_leaf(value: Any) -> bool:
    """Whether an entry of `leaves` is a shape and the name of a dtype."""
    if not (isinstance(value, list) and len(value) == 2 and isinstance(value[0], list)):
        return False
    try:
        jnp.dtype(value[1])
    except TypeError:
        return False
    return isinstance(value[1], str) and all(map(_is_count, value[0]))


def checksum(directory: epath.PathLike) -> int:
    """CRC-32 that stands for all files of a finished step; reads those that have none yet."""
    directory = epath.Path(directory)
    facts = read_manifest(directory)["files"]
    if not is_hashed(directory):
        known = file_facts(directory, hashes=True)
        facts = {name: known[name] for name in facts}
    return zlib.crc32(json.dumps(sorted(facts.items())).encode())


def is_hashed(directory: epath.PathLike) -> bool:
    """Whether the manifest of a step has the checksums of all files; not where it has none."""
    if not (epath.Path(directory) / MANIFEST).exists():
        return False
    return all(facts[-1] is not None for facts in read_manifest(directory)["files"].values())


def faults(directory: epath.PathLike) -> list[str]:
    """What is wrong with a step directory, one sentence per fault; empty when it is sound."""
    parts = pod.gather(f"faults of {directory}", _own_faults(epath.Path(directory)))
    return list(dict.fromkeys(fault for part in parts for fault in part))


def _own_faults(directory: epath.Path) -> list[str]:
    """The faults among the files that this process reads."""
    try:
        manifest = read_manifest(directory)
    except CheckpointMissing as error:
        return [str(error)]
    if str(manifest["step"]) != directory.name:
        return [f"{directory / MANIFEST}: describes step {manifest['step']}, not this one."]
    found, known = [], _known(directory)
    for name in _share(manifest["files"]):
        try:
            found += _file_faults(directory / name, known.get(name), *manifest["files"][name])
        except OSError as error:
            found.append(f"{directory / name}: cannot be read ({error.strerror or error}).")
    return found or _chunk_faults(directory, manifest["files"])


def _chunk_faults(directory: epath.Path, files: Mapping[str, list]) -> list[str]:
    """The faults among the chunks that this process reads, of arrays that have checksums there."""
    marked = (name for name, facts in files.items() if facts[-1] == checkpoint_chunks.MARK)
    parts = sorted({name.partition("/")[0] for name in marked})
    share = slice(jax.process_index(), None, jax.process_count())
    faults = (checkpoint_chunks.faults(directory / part, share) for part in parts)
    return list(itertools.chain.from_iterable(faults))


def _file_faults(
    path: epath.Path,
    known: tuple[int, str | None] | None,
    size: int,
    crc: int | None,
    checksum: str | None = None,
) -> list[str]:
    """What is wrong with one file, given what a bucket's listing tells of it."""
    if not known and not path.exists():
        return [f"{path}: the file is missing."]
    found, stored = known or (path.stat().length, None)
    if found != size:
        return [f"{path}: {found} bytes instead of {size}."]
    if checksum == checkpoint_chunks.MARK:
        return []  # see `_chunk_faults`
    if checksum is not None:
        same = (stored or _crc32c(path)) in (checksum, None)
    else:
        same = crc is None or _crc(path) == crc
    return [] if same else [f"{path}: the content changed (checksum differs)."]


def _crc32c(path: epath.Path) -> str | None:
    """CRC-32C of a file as Google's buckets write it; None where nothing computes it here."""
    try:
        import google_crc32c
    except ImportError:
        return None
    value = google_crc32c.Checksum()
    with path.open("rb") as file:
        while piece := file.read(_CHUNK):
            value.update(piece)
    return base64.b64encode(value.digest()).decode()


def steps(workdir: epath.PathLike) -> list[int]:
    """Steps present in a workdir, sound or not, ascending."""
    folder = epath.Path(workdir) / FOLDER
    if not folder.is_dir():
        return []
    found = [p for p in folder.iterdir() if _is_step(p.name) and p.is_dir()]
    return sorted(int(p.name) for p in found if not (p / MARK).exists())


def marked(workdir: epath.PathLike) -> list[int]:
    """Steps that have the mark of damage, ascending."""
    folder = epath.Path(workdir) / FOLDER
    present = folder.iterdir() if folder.is_dir() else []
    return sorted(int(p.name) for p in present if _is_step(p.name) and (p / MARK).exists())


def _is_step(name: str) -> bool:
    """Whether a directory's name is that of a step."""
    return name.isascii() and name.isdigit() and str(int(name)) == name


def workdir_of(path: epath.PathLike) -> epath.Path:
    """The workdir that a path names: itself, its `checkpoints` folder, or one step's directory."""
    return _named(epath.Path(path), None)[0]


def _named(path: epath.Path, step: int | None) -> tuple[epath.Path, int | None]:
    """Workdir and step of a path, the step being `step` where the path names none."""
    if "://" not in str(path):
        path = path.absolute()  # Orbax refuses relative paths
    if _is_step(path.name) and not (path / FOLDER).exists() and (path / MANIFEST).exists():
        path, step = path.parent.parent, int(path.name)
    return (path.parent if path.name == FOLDER else path), step


def find(path: epath.PathLike, step: int | None = None) -> epath.Path:
    """The directory of the newest sound step, or of the step asked for.

    Args:
      path: a workdir, its `checkpoints` folder, or one step's directory.
      step: a certain step; by default the newest that is sound (damaged ones are logged).

    Raises:
      CheckpointMissing: nothing there, or nothing sound; the message names each fault.
    """
    path, step = _named(epath.Path(path), step)
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
