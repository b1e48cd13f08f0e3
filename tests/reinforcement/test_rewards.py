"""Judges, and what becomes of scores: missing ones, malformed ones, partial credit."""

import dataclasses

import numpy as np
import pytest

from unireason_jax.data.templates import TEMPLATES
from unireason_jax.inference.trace import Step, Trace
from unireason_jax.reinforcement import iteration, rewards
from unireason_jax.reinforcement.prompts import Asked, FilePrompts
from unireason_jax.reinforcement.rollouts import Trajectory
from unireason_jax.reinforcement.settings import Policy, RewardConfig
from unireason_jax.run.configuration import ConfigError
from unireason_jax.world import grading, renderer
from unireason_jax.world.requirements import Relation, Requirement, Want
from unireason_jax.world.scenes import Object, make_scene

RED = Requirement((Want("circle", "red"), Want("square", "blue")), (Relation(0, "above", 1),))
RIGHT = (Object("circle", "red", "large", "a1"), Object("square", "blue", "large", "d1"))
NO_CHANGE = "circle red large a1 , square blue large d1 , no change"


def picture(*objects):
    return renderer.render(make_scene(objects))


def trajectory(*images, texts=(NO_CHANGE,), ended="stop", name="p", cut=False):
    record = TEMPLATES["refine_t2i"]({"id": name, "prompt": "x", "explanation": "", "rounds": 1})
    steps = [Step("text", "user", "x", given=True)]
    for number, image in enumerate(images):
        steps.append(Step("image", "refined" if number else "draft", image=image))
        steps += [Step("text", "reflection", text, cut=cut) for text in texts[number : number + 1]]
    trace = Trace(name, "refine_t2i", tuple(steps), ended=ended)
    return Trajectory(Asked(name, "x", "position", RED), record, trace, {}, {})


def test_partial_credit_of_the_first_world():
    assert grading.grade(RED, picture(*RIGHT)) == 1
    swapped = picture(RIGHT[0]._replace(cell="d2"), RIGHT[1]._replace(cell="a2"))
    assert grading.grade(RED, swapped) == grading.MOST
    assert grading.grade(RED, picture(RIGHT[0])) == grading.MOST / 2
    more = picture(*RIGHT, Object("cross", "white", "small", "c3"))
    assert grading.grade(RED, more) == pytest.approx(grading.MOST * 2 / 3)
    assert grading.grade(RED, picture()) == 0


def test_the_world_scores_every_image_and_reads_every_text():
    wrong, right = picture(RIGHT[0]), picture(*RIGHT)
    good = trajectory(
        wrong, right, texts=("circle red large a1 , add a blue square at d1", NO_CHANGE)
    )
    bad = trajectory(right, texts=("look at this ,",))
    long = trajectory(right, cut=True)
    scores = rewards.world([good, bad, long])
    assert [score.passed for score in scores] == [(False, True), (True,), (True,)]
    assert [score.malformed for score in scores] == [False, True, True]
    assert rewards.worth(good, scores[0], 0.5) == pytest.approx(1 + 0.3 * 0.8)
    early = trajectory(wrong)
    for penalty in (0.5, 0.0):
        worth = rewards.worth(early, rewards.world([early])[0], penalty)
        assert worth == pytest.approx(0.2 - penalty)


POLICY = Policy(group=2, prompts=2)


def test_a_missing_score_drops_its_group_and_is_never_a_zero():
    wrong, right = trajectory(picture()), trajectory(picture(*RIGHT))
    four = [wrong, right, wrong, right]

    def judge(trajectories):
        return [None, *rewards.world(trajectories)[1:]]

    judged = iteration.judge(four, judge, POLICY)
    assert judged.dropped == 1 and len(judged.accounts) == 2
    assert judged.trajectories == {0: wrong, 1: right}
    assert judged.advantages == [-1, 1]
    assert iteration.judge([None, right], rewards.world, POLICY).dropped == 1
    assert iteration.numbers(judged, POLICY)["groups/dropped"] == 1


def test_malformed_is_never_positive_even_where_all_are():
    bad = trajectory(picture(*RIGHT), texts=("nonsense",))
    worse = trajectory(picture(), texts=("nonsense",))
    judged = iteration.judge([bad, worse], rewards.world, POLICY)
    assert max(judged.advantages) == -0.5
    good = trajectory(picture())
    assert iteration.judge([bad, good], rewards.world, POLICY).advantages[0] < 0


def test_a_service_is_asked_once_an_image_and_may_fail():
    calls = []

    def client(prompt, images, metadata):
        calls.append(prompt)
        if not images[0].any():
            raise TimeoutError("no answer")
        return {"one": [0.5], "two": [1.0]}

    draft, last = np.full((8, 8, 3), 9, np.uint8), np.full((8, 8, 3), 5, np.uint8)
    service = rewards.Service(client, 0.75, 4)
    lost = trajectory(draft, np.zeros((8, 8, 3), np.uint8))
    scores = service([trajectory(draft, last), trajectory(draft), lost])
    assert scores == [
        rewards.Score((0.75, 0.75), (True, True), False),
        rewards.Score((0.75,), (True,), False),
        None,
    ]
    assert len(calls) == 3


def test_an_address_that_is_none_is_said():
    policy = dataclasses.replace(POLICY, reward=RewardConfig(url="here"), prompts_from="p")
    with pytest.raises(ConfigError, match=r"rl\.reward\.url.*http"):
        rewards.of(policy)
    with pytest.raises(ConfigError, match=r"prompts_from.*reward\.url"):
        dataclasses.replace(POLICY, prompts_from="p.txt")


def test_a_file_is_asked_in_turn(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("one\ntwo\nthree\n")
    found = FilePrompts.read(str(path))(2, 3)
    assert [one.prompt for one in found] == ["three", "one", "two"]
    assert [one.name for one in found] == ["three", "one 1", "two 1"]
    (tmp_path / "bad.jsonl").write_text('{"prompt": 3}\n')
    with pytest.raises(ValueError, match=r"bad\.jsonl:1"):
        FilePrompts.read(str(tmp_path / "bad.jsonl"))


@pytest.mark.parametrize("penalty", [-0.1, float("nan"), float("inf")])
def test_a_penalty_that_cannot_be_is_refused(penalty):
    with pytest.raises(ConfigError, match=r"rl\.reward\.wrong_stop is"):
        Policy(reward=RewardConfig(wrong_stop=penalty))
