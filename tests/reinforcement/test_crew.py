"""What processes share of an iteration; here they are threads."""

import concurrent.futures
import json
import threading

import jax
import numpy as np
import pytest

from tests.reinforcement.test_rewards import POLICY, RIGHT, picture, trajectory
from unireason_jax.pods import pod
from unireason_jax.reinforcement import crew, exam, iteration, rewards, rollouts


@pytest.fixture
def processes(monkeypatch):
    """(count, work) -> what `work()` returns in each of so many processes."""

    def run(count, work):
        own, meeting, told = threading.local(), threading.Barrier(count), [None] * count

        def gather(name, value, *, timeout=0.0):
            told[own.number] = json.dumps([name, value])
            meeting.wait(60)
            found = [json.loads(text) for text in told]
            meeting.wait(60)
            assert {other for other, _ in found} == {name}
            return [value for _, value in found]

        def one(number):
            own.number = number
            return work()

        monkeypatch.setattr(jax, "process_index", lambda: own.number)
        monkeypatch.setattr(jax, "process_count", lambda: count)
        monkeypatch.setattr(pod, "gather", gather)
        with concurrent.futures.ThreadPoolExecutor(count) as threads:
            return list(threads.map(one, range(count)))

    return run


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("jobs", [0, 1, 4, 7])
def test_shares_are_neighbours_and_make_up_the_whole(processes, count, jobs):
    found = processes(count, lambda: crew.shared("jobs", [f"job {n}" for n in crew.share(jobs)]))
    assert found == [[f"job {n}" for n in range(jobs)]] * count
    sizes = processes(count, lambda: len(crew.share(jobs)))
    assert max(sizes) - min(sizes) <= 1


def test_siblings_of_several_processes_are_judged_like_those_of_one(processes):
    """Groups are divided; one of them has a score that is missing, in one process only."""
    wrong, right, lost = (trajectory(*shown) for shown in ((picture(),), (picture(*RIGHT),), ()))
    bad = trajectory(picture(*RIGHT), texts=("nonsense",))
    siblings = [wrong, right, bad, wrong, lost, right, right, bad]

    def judge(own):
        return [None if one is lost else rewards.world([one])[0] for one in own]

    def judged():
        return iteration.judge([siblings[n] for n in crew.share(8)], judge, POLICY)

    (alone,) = processes(1, judged)
    assert alone.dropped == 1 and len(alone.accounts) == 6
    several = processes(3, judged)
    places = [place for one in several for place in one.trajectories]
    assert sorted(places) == list(range(6))
    for one in several:
        assert one.accounts == alone.accounts and one.dropped == 1
        np.testing.assert_array_equal(one.advantages, alone.advantages)
        assert iteration.numbers(one, POLICY) == iteration.numbers(alone, POLICY)
        for place, found in one.trajectories.items():
            assert found is alone.trajectories[place]


def test_processes_examine_their_shares_and_know_all_rates(processes, monkeypatch):
    played = []

    def play_out(reasoner, policy, asked, *, seed):
        played.extend(asked)
        return list(asked)

    def judge(asked):
        return [None if n == 3 else rewards.Score((0.5, 1), (n < 4, n % 2 == 0), 0) for n in asked]

    monkeypatch.setattr(rollouts, "play_out", play_out)
    found = processes(3, lambda: exam.examine(None, POLICY, range(7), judge))
    assert sorted(played) == list(range(7))
    (alone,) = processes(1, lambda: exam.examine(None, POLICY, range(7), judge))
    assert found == [alone] * 3
    assert (alone["right_first"].count, alone["repair"].count) == (6, 3)
