"""Trajectories on their way to the processes that feed them, through a folder that all see."""

from collections.abc import Collection, Mapping, Sequence

import jax
from etils import epath

from unireason_jax.reinforcement import crew
from unireason_jax.reinforcement.rows import Played, from_bytes, to_bytes
from unireason_jax.storage import atomic


def clear(folder: epath.Path) -> None:
    """Removes what a killed job left on its way."""
    if jax.process_index() == 0:
        for left in folder.glob("trajectory.*.npz"):
            left.unlink()
    crew.together("trajectories cleared")


def passed(
    own: Mapping[int, Played], wanted: Sequence[Collection[int]], folder: epath.Path
) -> dict[int, Played]:
    """The trajectories that this process needs, of those that all have.

    Args:
      own: this process's, by number.
      wanted: by process, the numbers that it needs; the same in all of them.
      folder: that all processes see; what passes through it is removed again.
    """
    me = jax.process_index()
    elsewhere = {n for process, numbers in enumerate(wanted) if process != me for n in numbers}
    given = [n for n in own if n in elsewhere]
    for number in given:
        atomic.write_bytes(_file(folder, number), to_bytes(own[number]), durable=False)
    crew.together("trajectories given")
    found = {n: own[n] if n in own else _read(folder, n) for n in wanted[me]}
    crew.together("trajectories taken")
    for number in given:
        _file(folder, number).unlink()
    return found


def _read(folder: epath.Path, number: int) -> Played:
    return from_bytes(_file(folder, number).read_bytes())


def _file(folder: epath.Path, number: int) -> epath.Path:
    return folder / f"trajectory.{number}.npz"
