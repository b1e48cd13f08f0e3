"""What trajectories are worth. One interface: scores of images, or None where a judge failed.

A missing score is never a zero: the group of such a trajectory is left out of the update, counted.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from unireason_jax.policy.advantages import trajectory_reward
from unireason_jax.reinforcement.rollouts import Trajectory
from unireason_jax.world import language
from unireason_jax.world.grading import grade
from unireason_jax.world.hard import words
from unireason_jax.world.hard.wishes import Wish
from unireason_jax.world.scenes import CELL

_GRAMMARS = {
    False: {"plan": language.parse_plan, "reflection": language.parse_reflection},
    True: {"plan": words.parse_plan, "reflection": words.parse_reflection},
}
"""Readers of a text and the cells of a side by role, of the first world and of the harder one."""


class Score(NamedTuple):
    """What a judge says of a trajectory.

    Attributes:
      images: of every image in order, a given draft's first: in [0, 1], 1 only where it is right.
      malformed: a text is not what its place asks for.
    """

    images: tuple[float, ...]
    malformed: bool

    @property
    def passed(self) -> tuple[bool, ...]:
        """Whether each image is right."""
        return tuple(score == 1 for score in self.images)


Reward = Callable[[Sequence[Trajectory]], list[Score | None]]
"""Trajectories -> their scores, in order; None for those that could not be judged."""


def worth(trajectory: Trajectory, score: Score) -> float:
    """The reward of a scored trajectory (see `policy.advantages.trajectory_reward`)."""
    stopped = trajectory.trace.ended == "stop"
    return trajectory_reward(score.images, premature=stopped and not score.passed[-1])


def world(trajectories: Sequence[Trajectory]) -> list[Score | None]:
    """The exact judge of the embedded world."""
    return [_world(trajectory) for trajectory in trajectories]


def _world(trajectory: Trajectory) -> Score:
    trace, requirement = trajectory.trace, trajectory.asked.wanted
    shown = [step.image for step in trace.steps if step.kind == "image"]
    hard, side = isinstance(requirement, Wish), shown[0].shape[0] // CELL
    texts = [step for step in trace.steps if step.kind == "text" and not step.given]
    malformed = any(
        step.cut or not _reads(_GRAMMARS[hard][step.role], step.text, side) for step in texts
    )
    return Score(tuple(grade(requirement, image) for image in shown), malformed)


def _reads(read: Callable[[str, int], object], text: str, side: int) -> bool:
    """Whether a text follows a grammar."""
    try:
        read(text, side)
    except ValueError:
        return False
    return True
