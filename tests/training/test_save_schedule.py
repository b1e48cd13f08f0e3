"""When checkpoints are due, by steps and by minutes, and what a signal says at once."""

import hashlib
import os
import signal
import threading
import time

import pytest

from unireason_jax.pods.preemption import StopSignal
from unireason_jax.training import save_schedule
from unireason_jax.training.save_schedule import Pace


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(save_schedule.time, "monotonic", lambda: now[0])
    return now


def due(made, steps):
    found = []
    for step in steps:
        if made.due(step):
            found.append(step)
            made.saved(step)
    return found


def test_by_steps_only(clock):
    made = Pace(4, 0, 1)
    clock[0] += 1e6
    assert due(made, range(1, 13)) == [4, 8, 12]
    assert due(Pace(0, 0, 1), range(1, 9)) == []


def test_by_minutes_at_the_steps_at_which_all_talk(clock):
    made = Pace(0, 2.0, 5)
    found = []
    for step in range(1, 41):
        clock[0] += 20
        found += due(made, [step])
    assert found == [10, 20, 30, 40]


def test_a_step_begins_the_minutes_anew_and_is_saved_once(clock):
    made = Pace(10, 1.0, 1)
    clock[0] += 59
    assert due(made, [9, 10]) == [10]
    clock[0] += 59
    assert due(made, [11]) == []
    clock[0] += 2
    assert due(made, [12, 12]) == [12]


def test_what_is_at_stake_is_said(clock):
    made = Pace(100, 30.0, 10)
    made.saved(40)
    clock[0] += 90
    assert not made.due(43)
    told = made.at_stake()
    assert "as soon as step 43 has ended" in told
    assert "it goes on from step 40: at most 4 steps, 1.5 min, are done again" in told


def test_the_signal_is_heard_while_the_main_thread_waits(capfd):
    """As in a slow step: outside of Python, so that its own handlers have to wait."""
    heard, before = [], signal.getsignal(signal.SIGTERM)
    with StopSignal(lambda: "told") as stop:
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()
        look = threading.Timer(0.5, lambda: heard.append((stop.reached(0), time.monotonic())))
        look.start()
        hashlib.pbkdf2_hmac("sha256", b"slow", b"step", 3_000_000)
        assert heard and heard[0][0] and heard[0][1] < time.monotonic() - 0.1
        assert capfd.readouterr().out == "told\n"
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.2)
        assert capfd.readouterr().out == ""
    assert signal.getsignal(signal.SIGTERM) == before
