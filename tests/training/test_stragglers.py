"""The host that holds the others up is named; one that is as slow as the others is not."""

import jax
import pytest
from absl import logging

from unireason_jax.pods import pod
from unireason_jax.training import stragglers


@pytest.fixture
def hosts(monkeypatch):
    """The seconds of all hosts; this is the first of them."""
    seconds = []
    monkeypatch.setattr(jax, "process_count", lambda: len(seconds))
    found = lambda name, value: [[f"host-{n}", s] for n, s in enumerate(seconds)]  # noqa: E731
    monkeypatch.setattr(pod, "gather", found)
    return seconds


@pytest.fixture
def warned(monkeypatch):
    lines = []
    monkeypatch.setattr(logging, "warning", lambda text, *words: lines.append(text % words))
    return lines


def test_the_slow_host_is_named(hosts, warned):
    hosts += [0.02, 0.03, 0.9, 0.02]
    numbers = {"speed/host_s": 0.02, "speed/steps_per_s": 0.8}
    assert stragglers.compared(numbers) == {
        "speed/slowest_host": 2,
        "speed/slowest_host_s": 0.9,
        "speed/median_host_s": 0.025,
    }
    (line,) = warned
    assert line.startswith("process 2 (host-2) is slow: 0.9 s a step")
    assert "the median of 4 is 0.025 s" in line


@pytest.mark.parametrize(
    "seconds",
    [
        [0.5, 0.5, 0.6, 0.55],  # all alike
        [0.001, 0.001, 0.01, 0.001],  # ten times as much, and nothing of a step
    ],
)
def test_small_differences_are_no_news(hosts, warned, seconds):
    hosts += seconds
    found = stragglers.compared({"speed/host_s": 0.5, "speed/steps_per_s": 1.0})
    assert found["speed/slowest_host"] == 2 and not warned


def test_one_process_compares_nothing_and_no_step_tells_nothing(hosts, warned):
    hosts += [0.1]
    assert stragglers.compared({"speed/host_s": 0.5, "speed/steps_per_s": 1.0}) == {}
    hosts += [9.0]
    assert stragglers.compared({}) == {} and not warned
