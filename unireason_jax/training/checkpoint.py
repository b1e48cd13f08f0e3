"""Checkpoints: asynchronous, sharded, checked before use, restored onto any mesh.

    <workdir>/checkpoints/<step>/{params,opt_state,ema}/   Orbax trees
    <workdir>/checkpoints/<step>/manifest.json             written last, see `manifest`

An unfinished or damaged step is named, set aside, and the step before it is used. A step is deleted
only after a newer one has its manifest, so a run killed at any moment keeps a sound checkpoint.
"""

import concurrent.futures
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from absl import logging
from etils import epath
from orbax.checkpoint import v1 as ocp

from unireason_jax.models.archive import Archive, place
from unireason_jax.pods import pod
from unireason_jax.training.manifest import (
    FOLDER,
    MANIFEST,
    CheckpointMissing,
    faults,
    file_facts,
    find,
    read_manifest,
    steps,
    write_manifest,
)
from unireason_jax.training.optim import Params, flatten, unflatten
from unireason_jax.training.state import TrainState

PARTS = ("params", "opt_state", "ema")
CONVERTED = ("params.safetensors", "params.safetensors.index.json")  # instead of Orbax trees


class CheckpointMismatch(ValueError):
    """A checkpoint that belongs to another model or another training set-up."""


def _leaves(tree: Any) -> dict[str, list]:
    """[shape, dtype] of every leaf by path."""
    flat = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): [list(x.shape), str(x.dtype)]
        for path, x in flat
    }


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
    return _load(find(path), abstract)


def _load(directory: epath.Path, abstract: TrainState) -> tuple[TrainState, Any]:
    """`load_state` of a step directory that is known to be sound."""
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
        self._keep, self._keep_every = keep, keep_every
        self._background = concurrent.futures.ThreadPoolExecutor(1, "checkpoint manifest")
        self._describing: concurrent.futures.Future | None = None
        self._folder = (self.workdir / FOLDER).resolve()
        self.saved: int | None = self._newest_sound()
        pod.gather("checkpoints are checked", None)
        self._orbax = ocp.training.Checkpointer(
            self._folder,
            save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
            cleanup_tmp_directories=True,
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        if kind is None or jax.process_count() == 1:
            self.close()  # after an error elsewhere, waiting for the other processes could hang

    def _newest_sound(self) -> int | None:
        """The newest sound step; unusable newer ones are moved to <workdir>/damaged."""
        for step in reversed(steps(self.workdir)):
            directory = self._folder / str(step)
            wrong = faults(directory)
            if not wrong:
                return step
            if jax.process_index() == 0:
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
        return None

    def load(self, abstract: TrainState) -> tuple[TrainState, Any]:
        """`load_state` of the step `saved`, whose files were checked when this was made."""
        if self.saved is None:
            raise CheckpointMissing(f"{self.workdir}: no usable checkpoint.")
        return _load(self._folder / str(self.saved), abstract)

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
        self._describing = self._background.submit(self._describe, step, data, leaves)

    def _describe(self, step: int, data: Any, leaves: dict) -> None:
        """Waits until Orbax has committed the step, then writes its manifest."""
        while self._orbax.is_saving_in_progress():
            time.sleep(0.02)
        directory = self._folder / str(step)
        if not directory.exists():
            return  # the save failed; `wait` raises why
        files = file_facts(directory, hashes=self.hashes)
        if jax.process_index() == 0:
            write_manifest(directory, step=step, data=data, leaves=leaves, files=files)
            self._delete_before(step)

    def _delete_before(self, newest: int) -> None:
        """Deletes what need not be kept now that the newest step is described."""
        older = [step for step in steps(self.workdir) if step < newest]
        kept = set(older[max(0, len(older) - self._keep + 1) :])
        for step in set(older) - kept:
            if not self._keep_every or step % self._keep_every:
                directory = self._folder / str(step)
                (directory / MANIFEST).unlink(missing_ok=True)  # first: half of a step is none
                directory.rmtree()

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
