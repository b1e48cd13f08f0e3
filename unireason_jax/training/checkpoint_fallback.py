"""From steps of which some are damaged to the newest that can be used, and nothing lost on the way.

Steps that cannot be used are moved to <workdir>/damaged once an older one is found that can (in a
bucket they stay and are marked). Where none can, nothing is touched: a run that begins anew by
itself would be mistaken for the old one.
"""

import time
from collections.abc import Callable

import jax
from absl import logging
from etils import epath

from unireason_jax.pods import pod
from unireason_jax.storage import atomic, paths
from unireason_jax.training.checkpoint_manifest import (
    FOLDER,
    MANIFEST,
    MARK,
    CheckpointMissing,
    marked,
    steps,
)

SAVING = "saving"  # <workdir>/saving names the step that is being written
DAMAGED = "damaged"
KEPT = 3  # of the steps set aside; older ones are deleted


def newest_usable(
    workdir: epath.Path, look: Callable[[epath.Path], list[str]], *, start_over: bool
) -> int | None:
    """The newest step in which `look` finds no fault; unusable newer ones are set aside.

    Args:
      workdir: the run's directory.
      look: faults of a step's directory; called by all processes in the same order.
      start_over: set the steps aside also where all of them are damaged.

    Returns:
      The step; None where there is none, or none that was ever finished.

    Raises:
      CheckpointMissing: all are damaged, and `start_over` is False.
    """
    found, broken = None, {}
    for step in reversed(steps(workdir)):
        wrong = look(workdir / FOLDER / str(step))
        if not wrong:
            found = step
            break
        broken[step] = wrong
    damaged = {step: wrong for step, wrong in broken.items() if not _is_unfinished(workdir, step)}
    if found is None and damaged and not start_over:
        lines = [f"\n  step {step}: {wrong[0]}" for step, wrong in damaged.items()]
        raise CheckpointMissing(
            f"{workdir}: every checkpoint is damaged, so the run does not go on by itself. Bring a "
            "sound one back, or give --start_over to begin anew (the damaged ones are then moved "
            f"to {workdir / DAMAGED})." + "".join(lines[:6])
        )
    if jax.process_index() == 0:
        for step, wrong in broken.items():
            _set_aside(workdir, step, wrong)
    pod.gather("checkpoints are checked", None)
    return found


def clear(workdir: epath.Path, step: int) -> bool:
    """Deletes a step that is marked as damaged, where one is written anew; whether it was there.

    All processes must call it.
    """
    if paths.is_local(workdir):
        return False
    directory, there = workdir / FOLDER / str(step), False
    if jax.process_index() == 0 and (there := (directory / MARK).exists()):
        directory.rmtree()
    return pod.gather(f"clear {directory}", there)[0]


def _is_unfinished(workdir: epath.Path, step: int) -> bool:
    """Whether a run was ended while it wrote this step, so that nothing of it is lost."""
    note, manifest = workdir / SAVING, workdir / FOLDER / str(step) / MANIFEST
    return not manifest.exists() and note.exists() and note.read_text() == str(step)


def _set_aside(workdir: epath.Path, step: int, wrong: list[str]) -> None:
    """Moves a step to <workdir>/damaged, or marks it, and says so; keeps the newest few."""
    directory, folder = workdir / FOLDER / str(step), workdir / DAMAGED
    if not paths.is_local(workdir) and _is_unfinished(workdir, step):
        directory.rmtree()  # Orbax would do so later, and take a mark away before the rest
        logging.warning("the save of step %d was not finished; what there was is removed", step)
        return
    if paths.is_local(workdir):
        aside = folder / f"{step}-{time.time_ns()}"
        folder.mkdir(parents=True, exist_ok=True)
        directory.rename(aside)
        kept = sorted(folder.iterdir(), key=lambda path: path.name.rpartition("-")[2])
    else:
        aside = directory / MARK
        atomic.write_text(aside, "\n".join(wrong) + "\n")
        kept = [workdir / FOLDER / str(step) for step in marked(workdir)]
    logging.error(
        "CHECKPOINT OF STEP %d IS UNUSABLE, falling back to the one before it. %s %s. Faults: %s",
        step,
        "Moved to" if paths.is_local(workdir) else "Marked by",
        aside,
        " ".join(wrong[:5]),
    )
    for path in kept[:-KEPT]:
        path.rmtree()
