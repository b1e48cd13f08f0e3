"""Checkpoints: asynchronous, sharded, checked before use (`manifest`), restored onto any mesh.

    <workdir>/checkpoints/<step>/{params,opt_state,ema}/   Orbax trees
    <workdir>/checkpoints/<step>/manifest.json             written last, see `manifest`

An unfinished or damaged step is named, set aside, and the step before it is used; where every step
is damaged, nothing is touched and the run has to be told to start over. A step is deleted only
after a newer one has its manifest, so a run killed at any moment keeps a sound checkpoint. (Orbax
would delete it when the newer one is written, before anything says that it is whole.)
"""

import concurrent.futures
import contextlib
import errno
import functools
import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath
from orbax.checkpoint import v1 as ocp

from unireason_jax.models.archive import Archive, place
from unireason_jax.pods import pod
from unireason_jax.storage import atomic, paths
from unireason_jax.training.fallback import SAVING, clear, newest_usable
from unireason_jax.training.manifest import (
    FOLDER,
    MANIFEST,
    CheckpointMissing,
    faults,
    file_facts,
    find,
    is_hashed,
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


class CheckpointFailed(RuntimeError):
    """A checkpoint that could not be written; the message says why and what stays."""


FAULTS = (CheckpointFailed, CheckpointMismatch, CheckpointMissing)
"""What a run ends with in one line."""


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
            loaded = _arrays(directory, wanted)
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


def check_state(path: epath.PathLike, abstract: TrainState) -> None:
    """Whether `load_state` would find a sound checkpoint that fits; raises as it does."""
    _fits(find(path), abstract)


def _fits(directory: epath.Path, abstract: TrainState) -> dict[str, Any]:
    """The manifest of a step directory; CheckpointMismatch where it is of another run."""
    manifest, parts = read_manifest(directory), _parts(abstract)
    for part in PARTS:
        hint = _OTHER_MODEL if part == "params" else _OTHER_OPTIMIZER
        _compare(directory, part, manifest["leaves"].get(part, {}), _leaves(parts.get(part)), hint)
    return manifest


def _load(directory: epath.Path, abstract: TrainState) -> tuple[TrainState, Any]:
    """`load_state` of a step directory that is known to be sound."""
    manifest, parts = _fits(directory, abstract), _parts(abstract)
    with ocp.Context():
        loaded = _arrays(directory, parts)
    step = jax.device_put(jnp.int32(manifest["step"]), abstract.step.sharding)
    state = TrainState(step, loaded["params"], loaded["opt_state"], loaded.get("ema", {}))
    return state, manifest["data"]


def _arrays(directory: epath.Path, wanted: dict[str, Any]) -> dict[str, Any]:
    """What Orbax reads. Whatever it raises over files becomes CheckpointMissing naming them."""
    try:
        return ocp.load_checkpointables(directory, wanted)
    except (MemoryError, jax.errors.JaxRuntimeError):
        raise  # of this machine, not of the files
    except Exception as error:
        raise CheckpointMissing(
            f"{directory}: its arrays cannot be loaded ({_line(error)})."
        ) from error


def _line(error: BaseException) -> str:
    """The first line of an error, or its kind where it says nothing."""
    text = str(error).strip().splitlines()
    return text[0][:300] if text else type(error).__name__


def _parts(state: TrainState) -> dict[str, Any]:
    """The trees of a state that are saved, by name; an absent average is left out."""
    parts = {"params": state.params, "opt_state": state.opt_state}
    return parts | ({"ema": state.ema} if state.ema else {})


def _is_not_orbax(record: logging.LogRecord) -> bool:
    """Whether a message is not Orbax's of an error, which it also raises and which is told once."""
    return record.levelno < logging.ERROR or "orbax" not in record.pathname


class Checkpoints:
    """The checkpoints of one run: saves in the background, keeps the newest, finds the last good.

    Args:
      workdir: the run's directory.
      keep: how many of the newest steps to keep.
      keep_every: additionally keep every step that is a multiple of this; 0 keeps none.
      hashes: store checksums too, not only sizes; outside of buckets each save is read once more.
      start_over: go on without a checkpoint where all of them are damaged.

    Raises:
      CheckpointMissing: there are checkpoints, none is sound, and `start_over` is False.
    """

    def __init__(
        self,
        workdir: epath.PathLike,
        *,
        keep: int = 2,
        keep_every: int = 0,
        hashes: bool = True,
        start_over: bool = False,
    ):
        logging.getLogger("absl").addFilter(_is_not_orbax)
        self.workdir, self.hashes = epath.Path(workdir), hashes
        self._keep, self._keep_every = keep, keep_every
        where = paths.absolute(self.workdir)
        self._newest_usable = functools.partial(newest_usable, where, start_over=start_over)
        self._background = concurrent.futures.ThreadPoolExecutor(1, "checkpoint manifest")
        self._describing: concurrent.futures.Future | None = None
        self._folder = where / FOLDER
        self.saved: int | None = self._newest_usable(faults)
        self._orbax = ocp.training.Checkpointer(
            self._folder,
            save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
            cleanup_tmp_directories=True,
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        if kind is None:
            self.close()
        elif jax.process_count() == 1:  # elsewhere, waiting for the other processes could hang
            with contextlib.suppress(CheckpointFailed):  # the first error is the one to tell
                self.close()

    def load(self, abstract: TrainState) -> tuple[TrainState, Any]:
        """`load_state` of the step `saved`, whose files were checked when this was made.

        Files without checksums can be damaged all the same: then the step before is loaded.

        Raises:
          CheckpointMissing: there is none, or none can be loaded.
          CheckpointMismatch: as `load_params`.
        """
        loaded = None

        def look(directory: epath.Path) -> list[str]:
            nonlocal loaded
            wrong, loaded = [], None
            try:
                loaded = _load(directory, abstract)
            except CheckpointMissing as error:
                if is_hashed(directory):
                    raise  # the files are as they were written: nothing is gained by moving them
                wrong = [str(error)]
            return [fault for part in pod.gather(f"arrays of {directory}", wrong) for fault in part]

        if self.saved is not None:
            newest, self.saved = self.saved, self._newest_usable(look)
            if self.saved != newest:
                self._orbax.reload()
        if self.saved is None:
            raise CheckpointMissing(f"{self.workdir}: no usable checkpoint.")
        return loaded

    def save(self, step: int, state: TrainState, data: Any) -> None:
        """Starts to save; returns as soon as the arrays are copied out of the devices.

        Args:
          step: number of finished steps.
          state: the state after them.
          data: JSON state of the data iterator, before the batch of the next step is drawn.

        Raises:
          CheckpointFailed: this save could not begin, or the one before could not be finished.
        """
        self.wait()
        parts = _parts(state)
        leaves = {part: _leaves(tree) for part, tree in parts.items()}
        with self._telling(step):
            if clear(self.workdir, step):
                self._orbax.reload()
            if jax.process_index() == 0:
                atomic.write_text(self.workdir / SAVING, str(step))
            writing = self._orbax.save_checkpointables_async(step, parts, force=True)
        self._describing = self._background.submit(self._describe, step, data, leaves, writing)
        self.saved = step

    def _describe(self, step: int, data: Any, leaves: dict, writing: Any) -> None:
        """Waits until Orbax has committed the step, then writes its manifest."""
        with self._telling(step):
            writing.result()
            directory = self._folder / str(step)
            files = file_facts(directory, hashes=self.hashes)
            if jax.process_index() == 0:
                write_manifest(directory, step=step, data=data, leaves=leaves, files=files)
                (self.workdir / SAVING).unlink(missing_ok=True)
                self._delete_before(step)

    @contextlib.contextmanager
    def _telling(self, step: int) -> Iterator[None]:
        """Turns what fails while a step is written into CheckpointFailed."""
        try:
            yield
        except Exception as error:
            full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
            full = full or "No space left" in str(error) or "Disk quota" in str(error)
            why = "no space is left on that disk" if full else _line(error)
            older = [n for n in steps(self.workdir) if n < step]
            stay = f"that of step {older[-1]} stays" if older else "there is no older one"
            raise CheckpointFailed(
                f"the checkpoint of step {step} could not be written to {self._folder}: {why}; "
                f"{stay}. Make room or mend the place, and give the same command again."
            ) from error

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
        """Returns when nothing is being saved; raises CheckpointFailed where a save failed."""
        describing, self._describing = self._describing, None
        if describing is not None:
            describing.result()

    def close(self) -> None:
        """Finishes what is being saved and releases the directory; raises as `wait`."""
        try:
            self.wait()
        finally:
            self._background.shutdown()
            with contextlib.suppress(Exception):  # of a failed save, which has been told
                self._orbax.close()
