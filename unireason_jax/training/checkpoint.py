"""Checkpoints: asynchronous, sharded, checked before use, restored onto any mesh.

    <workdir>/checkpoints/<step>/{params,opt_state,ema}/   Orbax trees
    <workdir>/checkpoints/<step>/manifest.json             written last, see `checkpoint_manifest`

Of a model with adapters, `params` holds the adapters alone, and the manifest says which weights
they stand beside (`adapter_base`): those are read, and never written again.

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
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath

from unireason_jax.models import lora
from unireason_jax.pods import pod
from unireason_jax.storage import atomic, paths
from unireason_jax.training import checkpoint_chunks
from unireason_jax.training.checkpoint_fallback import SAVING, clear, newest_usable
from unireason_jax.training.checkpoint_leaves import (
    OTHER_MODEL,
    OTHER_OPTIMIZER,
    CheckpointMismatch,
    compare,
    describe,
    line_of,
    read_arrays,
)
from unireason_jax.training.checkpoint_manifest import (
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
from unireason_jax.training.optim import flatten, unflatten
from unireason_jax.training.state import TrainState
from unireason_jax.training.weights import converted_weights, leaf_loader, load_params

PARTS = ("params", "opt_state", "ema")


class CheckpointFailed(RuntimeError):
    """A checkpoint that could not be written; the message says why and what stays."""


__all__ = [  # what others know from here, wherever it is written down
    "FAULTS",
    "FOLDER",
    "MANIFEST",
    "CheckpointFailed",
    "CheckpointMismatch",
    "CheckpointMissing",
    "Checkpoints",
    "check_state",
    "converted_weights",
    "faults",
    "file_facts",
    "find",
    "flatten",
    "is_hashed",
    "leaf_loader",
    "load_params",
    "load_state",
    "read_manifest",
    "steps",
    "unflatten",
    "write_manifest",
]
FAULTS = (CheckpointFailed, CheckpointMismatch, CheckpointMissing)
"""What a run ends with in one line."""


def load_state(path: epath.PathLike, abstract: TrainState) -> tuple[TrainState, Any]:
    """The complete state of a checkpoint (of adapters: without what they stand beside) and its
    data iterator's state.

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
        hint = OTHER_MODEL if part == "params" else OTHER_OPTIMIZER
        compare(directory, part, manifest["leaves"].get(part, {}), describe(parts.get(part)), hint)
    return manifest


def _load(directory: epath.Path, abstract: TrainState) -> tuple[TrainState, Any]:
    """`load_state` of a step directory that is known to be sound."""
    manifest, parts = _fits(directory, abstract), _parts(abstract)
    loaded = read_arrays(directory, parts)
    step = jax.device_put(jnp.int32(manifest["step"]), abstract.step.sharding)
    state = TrainState(step, loaded["params"], loaded["opt_state"], loaded.get("ema", {}))
    return state, manifest["data"]


def _parts(state: TrainState) -> dict[str, Any]:
    """The trees of a state that are saved, by name; an absent average is left out.

    Of parameters with adapters these alone: what they stand beside is not this run's to write.
    """
    adapters = unflatten(lora.own(flatten(state.params)))
    parts = {"params": adapters or state.params, "opt_state": state.opt_state}
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
      hashes: note checksums too, not only sizes; those of arrays are made while they are written.
      start_over: go on without a checkpoint where all of them are damaged.

    Attributes:
      saved: the newest sound step, or None.
      base: of adapters, which weights they stand beside; every checkpoint that is saved notes it.

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
        from orbax.checkpoint import v1 as ocp

        checkpoint_chunks.install()
        logging.getLogger("absl").addFilter(_is_not_orbax)
        self.workdir, self.hashes = epath.Path(workdir), hashes
        self._keep, self._keep_every = keep, keep_every
        where = paths.absolute(self.workdir)
        self._newest_usable = functools.partial(newest_usable, where, start_over=start_over)
        self._background = concurrent.futures.ThreadPoolExecutor(1, "checkpoint manifest")
        self._describing: concurrent.futures.Future | None = None
        self.base: dict[str, Any] | None = None
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
        leaves = {part: describe(tree) for part, tree in parts.items()}
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
                known = {"leaves": leaves, "files": files, "base": self.base}
                write_manifest(directory, step=step, data=data, **known)
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
            why = "no space is left on that disk" if full else line_of(error)
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
