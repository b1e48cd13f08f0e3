"""What trajectories are worth. One interface: scores of images, or None where a judge failed.

A missing score is never a zero: the group of such a trajectory is left out of the update, counted.
"""

import concurrent.futures
import logging
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from unireason_jax.endpoints.failures import CallFailure
from unireason_jax.reinforcement.rollouts import Trajectory
from unireason_jax.reinforcement.settings import Policy
from unireason_jax.rules.rewards import trajectory_reward
from unireason_jax.run.configuration import ConfigError
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
      images: of every image in order, a given draft's first; the more the better.
      passed: whether each of them is right.
      malformed: a text is not what its place asks for.
    """

    images: tuple[float, ...]
    passed: tuple[bool, ...]
    malformed: bool

    def plain(self) -> "Score":
        """The same in values that JSON holds."""
        return Score(
            tuple(map(float, self.images)), tuple(map(bool, self.passed)), bool(self.malformed)
        )


Reward = Callable[[Sequence[Trajectory]], list[Score | None]]
"""Trajectories -> their scores, in order; None for those that could not be judged."""


def worth(trajectory: Trajectory, score: Score, penalty: float) -> float:
    """The reward of a scored trajectory; `penalty` is that of stopping at a wrong picture.

    See `rules.rewards.trajectory_reward`.
    """
    premature = trajectory.trace.ended == "stop" and not score.passed[-1]
    return trajectory_reward(score.images, premature=premature, penalty=penalty)


def of(policy: Policy) -> Reward:
    """The judge of a run: a reward service where one is named, else the world's.

    Raises:
      ValueError: the service cannot be asked at all (its address, or its key).
      ModuleNotFoundError: the extra `endpoints` is not installed.
    """
    if not policy.reward.url:
        return world
    from pydantic import ValidationError

    from unireason_jax.endpoints.reward_client import RewardClient
    from unireason_jax.endpoints.settings import Endpoint

    told = policy.reward
    try:
        endpoint = Endpoint(url=told.url, key=told.key, concurrency=told.concurrency)
    except ValidationError as error:
        fault = error.errors()[0]
        raise ConfigError(f"config.rl.reward.{fault['loc'][0]}: {fault['msg']}") from None
    return Service(RewardClient(endpoint), told.right, told.concurrency)


class Service:
    """A reward service: the mean of the rewards it gives an image.

    A service that does not answer, or not in numbers, leaves a score missing. An image that was
    asked about before (a draft that siblings share) is not asked about again by the same process.

    Args:
      client: (prompt, images, metadata) -> rewards by name, as
        `endpoints.reward_client.RewardClient`.
      right: reward from which an image counts as right.
      concurrency: trajectories in flight.
    """

    def __init__(
        self,
        client: Callable[..., Mapping[str, Sequence[float]]],
        right: float,
        concurrency: int,
    ):
        self._client, self._right = client, right
        self._threads = concurrent.futures.ThreadPoolExecutor(concurrency, "rewards")

    def __call__(self, trajectories: Sequence[Trajectory]) -> list[Score | None]:
        """See `Reward`."""
        known: dict[tuple[str, bytes], concurrent.futures.Future] = {}
        asked = [[self._ask(one, image, known) for image in _shown(one)] for one in trajectories]
        return [self._score(one, images) for one, images in zip(trajectories, asked)]

    def _ask(
        self, one: Trajectory, image: np.ndarray, known: dict[tuple[str, bytes], Any]
    ) -> concurrent.futures.Future:
        key = one.asked.prompt, image.tobytes()
        if key not in known:
            known[key] = self._threads.submit(self._one, one, image)
        return known[key]

    def _one(self, one: Trajectory, image: np.ndarray) -> float:
        metadata = one.asked.wanted if isinstance(one.asked.wanted, Mapping) else {}
        found = self._client(one.asked.prompt, [image], metadata)
        return statistics.fmean(values[0] for values in found.values())

    def _score(self, one: Trajectory, asked: Sequence[concurrent.futures.Future]) -> Score | None:
        try:
            images = tuple(future.result() for future in asked)
        except (CallFailure, OSError) as error:
            logging.warning("no reward for '%s': %s", one.asked.name, error)
            return None
        cut = any(step.cut for step in one.trace.steps if step.kind == "text")
        return Score(images, tuple(image >= self._right for image in images), cut)


def _shown(one: Trajectory) -> list[np.ndarray]:
    """All images of a trajectory, in order."""
    return [step.image for step in one.trace.steps if step.kind == "image"]


def world(trajectories: Sequence[Trajectory]) -> list[Score | None]:
    """The exact judge of the embedded world."""
    return [_world(trajectory) for trajectory in trajectories]


def _world(trajectory: Trajectory) -> Score:
    trace, requirement = trajectory.trace, trajectory.asked.wanted
    shown = _shown(trajectory)
    hard, side = isinstance(requirement, Wish), shown[0].shape[0] // CELL
    texts = [step for step in trace.steps if step.kind == "text" and not step.given]
    malformed = any(
        step.cut or not _reads(_GRAMMARS[hard][step.role], step.text, side) for step in texts
    )
    grades = tuple(grade(requirement, image) for image in shown)
    return Score(grades, tuple(one == 1 for one in grades), malformed)


def _reads(read: Callable[[str, int], object], text: str, side: int) -> bool:
    """Whether a text follows a grammar."""
    try:
        read(text, side)
    except ValueError:
        return False
    return True
