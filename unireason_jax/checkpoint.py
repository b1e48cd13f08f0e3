"""Checkpoints: asynchronous, sharded, checked before use, restored onto any mesh.

    <workdir>/checkpoints/<step>/{params,opt_state,ema}/   Orbax trees
    <workdir>/checkpoints/<step>/manifest.json             written last: what is in it

The manifest holds the data iterator's state, shape and dtype of every leaf, and size and CRC-32 of
every file. A step without a manifest was never finished; a step that disagrees with it is
damaged. Either is named, set aside, and the step before it is used.
"""

import concurrent.futures
import json
import time
import zlib
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from absl import logging
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from unireason_jax.models.archive import Archive, place
from unireason_jax.optim import Params, flatten, unflatten
from unireason_jax.state import TrainState

MANIFEST = "manifest.json"
FOLDER = "checkpoints"
PARTS = ("params", "opt_state", "ema")
CONVERTED = ("params.safetensors", "params.safetensors.index.json")  # instead of Orbax trees
_CHUNK = 1 << 22


class CheckpointMismatch(ValueError):
    """A checkpoint that belongs to another model or another training set-up."""


class CheckpointMissing(FileNotFoundError):
    """No sound checkpoint where one was asked for."""


def _leaves(tree: Any) -> dict[str, list]:
    """[shape, dtype] of every leaf by path."""
    flat = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): [list(x.shape), str(x.dtype)]
        for path, x in flat
    }


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


def write_manifest(
    directory: epath.PathLike, *, step: int, data: Any, leaves: Mapping[str, Any], hashes: bool
) -> None:
    """Describes a finished step directory, in one atomic write."""
    directory = epath.Path(directory)
    files = {
        str(path.relative_to(directory)): [path.stat().length, _crc(path) if hashes else None]
        for path in _walk(directory)
    }
    text = json.dumps({"step": step, "data": data, "leaves": leaves, "files": files})
    temporary = directory / (MANIFEST + ".tmp")
    temporary.write_text(text)
    temporary.rename(directory / MANIFEST)


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
    directory = epath.Path(directory)
    try:
        manifest = read_manifest(directory)
    except CheckpointMissing as error:
        return [str(error)]
    found = []
    for name, (size, crc) in manifest["files"].items():
        path = directory / name
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


def _compare(directory: epath.Path, part: str, stored: Mapping, expected: Mapping, hint: str):
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


_OTHER_MODEL = (
    "It belongs to another model: give the same --config.model.* (see config.json in its workdir), "
    "or another --workdir / --config.init_from."
)
_OTHER_OPTIMIZER = (
    "Keep --config.optim.freeze, .ema, .clip_norm and .spike_window as they were, or start a new "
    "--workdir with --config.init_from pointing at this one."
)


def load_params(
    path: epath.PathLike,
    *,
    which: str = "ema",
    step: int | None = None,
    expected: Params | None = None,
    shardings: Params | None = None,
    dtype: str | None = None,
) -> Params:
    """The weights of a checkpoint, nothing else of it.

    Args:
      path: a workdir, or one step's directory.
      which: "ema" for the moving average (frozen leaves come from the weights), or "params".
        Converted weights are one set, and given for both.
      step: a certain step; by default the newest sound one.
      expected: tree of ShapeDtypeStruct of the model; checked leaf by leaf when given.
      shardings: NamedSharding per leaf; by default everything on the first local device.
      dtype: dtype to cast floating leaves to, as they are read.

    Raises:
      CheckpointMissing: there is none.
      CheckpointMismatch: another model, or `which="ema"` where no average was kept.
    """
    options = {"which": which, "step": step, "expected": expected}
    names, load = leaf_loader(path, **options, shardings=shardings, dtype=dtype)
    return unflatten(load(names))


def leaf_loader(
    path: epath.PathLike,
    *,
    which: str = "ema",
    step: int | None = None,
    expected: Params | None = None,
    shardings: Params | None = None,
    dtype: str | None = None,
) -> tuple[list[str], Callable[[Collection[str]], dict[str, jax.Array]]]:
    """`load_params` in parts: the paths of all leaves, and a function that loads some of them."""
    if which not in ("ema", "params"):
        raise ValueError(f"which={which!r}: choose 'ema' or 'params'.")
    directory = find(path, step)
    leaves = read_manifest(directory)["leaves"]
    if expected is not None:
        _compare(directory, "params", leaves["params"], _leaves(expected), _OTHER_MODEL)
    averaged = leaves.get("ema") or {}
    converted = _converted(directory)
    if which == "ema" and not averaged and converted is None:
        raise CheckpointMismatch(
            f"{directory}: no moving average was kept; ask for 'params' instead of 'ema' "
            "(--config.init_which when training, --which when sampling)."
        )
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    places = flatten(shardings) if shardings is not None else {}

    def target(name: str) -> jax.ShapeDtypeStruct:
        shape, stored = leaves["params"][name]
        floating = jnp.issubdtype(jnp.dtype(stored), jnp.floating)
        wanted = jnp.dtype(dtype if dtype and floating else stored)
        return jax.ShapeDtypeStruct(tuple(shape), wanted, sharding=places.get(name, here))

    def load(names: Collection[str]) -> dict[str, jax.Array]:
        if converted is not None:
            return place(converted, {name: target(name) for name in names})
        own = {n: "ema" if which == "ema" and n in averaged else "params" for n in names}
        wanted = {
            part: unflatten({name: target(name) for name, owner in own.items() if owner == part})
            for part in set(own.values())
        }
        context = ocp.Context()
        context.pytree.loading.partial_load = True
        with context:
            loaded = ocp.load_checkpointables(directory, wanted)
        return {k: v for part in loaded.values() for k, v in flatten(part).items()}

    return list(leaves["params"]), load


def converted_weights(path: epath.PathLike, step: int | None = None) -> Archive | None:
    """The weights that `convert` wrote, by leaf path; None for a checkpoint of a training run."""
    return _converted(find(path, step))


def _converted(directory: epath.Path) -> Archive | None:
    """The archive in a step's directory, if that is how its weights are kept."""
    present = [directory / name for name in CONVERTED if (directory / name).exists()]
    return Archive(present[0]) if present else None


def load_state(path: epath.PathLike, abstract: TrainState) -> tuple[TrainState, Any]:
    """The complete state of a checkpoint and its data iterator's state.

    Args:
      path: a workdir or one step's directory.
      abstract: the state's ShapeDtypeStructs *with shardings*; they decide where it is put, the
        mesh it was saved from does not matter.

    Raises:
      CheckpointMissing, CheckpointMismatch: as `load_params`.
    """
    directory = find(path)
    manifest = read_manifest(directory)
    parts = _parts(abstract)
    for part in PARTS:
        hint = _OTHER_MODEL if part == "params" else _OTHER_OPTIMIZER
        expected = _leaves(parts[part]) if part in parts else {}
        _compare(directory, part, manifest["leaves"].get(part, {}), expected, hint)
    with ocp.Context():
        loaded = ocp.load_checkpointables(directory, parts)
    step = jax.device_put(jnp.int32(manifest["step"]), abstract.step.sharding)
    state = TrainState(step, loaded["params"], loaded["opt_state"], loaded.get("ema", {}))
    return state, manifest["data"]


def _parts(state: TrainState) -> dict[str, Any]:
    """The trees of a state that are saved, by name; an absent average is left out."""
    parts = {"params": state.params, "opt_state": state.opt_state}
    return parts | ({"ema": state.ema} if state.ema else {})


class Checkpoints:
    """The checkpoints of one run: saves in the background, keeps the newest, finds the last good.

    Args:
      workdir: the run's directory.
      keep: how many of the newest steps to keep.
      keep_every: additionally keep every step that is a multiple of this; 0 keeps none.
      hashes: store a CRC-32 of every file (reads each save once more, in the background); without
        it only sizes are checked.
    """

    def __init__(
        self, workdir: epath.PathLike, *, keep: int = 2, keep_every: int = 0, hashes: bool = True
    ):
        self.workdir, self.hashes = epath.Path(workdir), hashes
        self._background = concurrent.futures.ThreadPoolExecutor(1, "checkpoint manifest")
        self._describing: concurrent.futures.Future | None = None
        self._set_aside_damaged()
        policies = ocp.training.preservation_policies
        rules = [policies.LatestN(keep)]
        if keep_every:
            rules.append(policies.EveryNSteps(keep_every))
        self._orbax = ocp.training.Checkpointer(
            (self.workdir / FOLDER).resolve(),
            save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
            preservation_policy=policies.AnyPreservationPolicy(rules),
            cleanup_tmp_directories=True,
        )
        self.saved: int | None = max(steps(self.workdir), default=None)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _set_aside_damaged(self) -> None:
        """Moves unusable newest steps to <workdir>/damaged, so that they can be written anew."""
        if jax.process_index() == 0:
            for step in reversed(steps(self.workdir)):
                directory = self.workdir / FOLDER / str(step)
                wrong = faults(directory)
                if not wrong:
                    break
                aside = self.workdir / "damaged" / f"{step}-{time.time_ns()}"
                aside.parent.mkdir(parents=True, exist_ok=True)
                directory.rename(aside)
                logging.error(
                    "CHECKPOINT OF STEP %d IS UNUSABLE, falling back to the one before it. "
                    "Moved to %s. Faults: %s",
                    step,
                    aside,
                    " ".join(wrong[:5]),
                )
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("checkpoints checked")

    def save(self, step: int, state: TrainState, data: Any) -> None:
        """Starts to save; returns as soon as the arrays are copied out of the devices.

        Args:
          step: number of finished steps.
          state: the state after them.
          data: JSON state of the data iterator, before the batch of the next step is drawn.
        """
        self.wait()
        parts = _parts(state)
        leaves = {part: _leaves(tree) for part, tree in parts.items()}
        self._orbax.save_checkpointables_async(step, parts, force=True)
        self.saved = step
        if jax.process_index() == 0:
            self._describing = self._background.submit(self._describe, step, data, leaves)

    def _describe(self, step: int, data: Any, leaves: dict) -> None:
        """Waits until Orbax has committed the step, then writes its manifest."""
        while self._orbax.is_saving_in_progress():
            time.sleep(0.02)
        directory = self.workdir / FOLDER / str(step)
        if directory.exists():
            write_manifest(directory, step=step, data=data, leaves=leaves, hashes=self.hashes)

    def wait(self) -> None:
        """Returns when nothing is being saved; raises what a background save failed with."""
        self._orbax.wait()
        if self._describing is not None:
            self._describing.result()
            self._describing = None

    def close(self) -> None:
        """Finishes what is being saved and releases the directory."""
        self.wait()
        self._background.shutdown()
        self._orbax.close()
