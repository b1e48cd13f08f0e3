"""Lines between processes: threads in the place of processes."""

import functools
import socket
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from tests.pods.test_pod import together
from unireason_jax.pods import lines

COUNT = 3


@pytest.fixture
def joined(monkeypatch):
    """(lines of process 0, the line of each other process), with strangers at the door."""
    here, told, knocked = threading.local(), {}, threading.Event()

    def gather(name, value, *, timeout):
        if here.number == 0:
            told["all"] = [value] + [None] * (COUNT - 1)
            strangers.append(socket.create_connection(("localhost", value[0])))
            strangers[0].sendall(bytes(36))  # of the right length, without the secret
            strangers.append(socket.create_connection(("localhost", value[0])))
            strangers[1].close()
            knocked.set()
        assert knocked.wait(20)
        return told["all"]

    strangers, found = [], {}
    where = SimpleNamespace(coordinator_address="localhost:1")
    monkeypatch.setattr(lines.distributed, "global_state", where)
    monkeypatch.setattr(lines.jax, "process_count", lambda: COUNT)
    monkeypatch.setattr(lines.jax, "process_index", lambda: here.number)
    monkeypatch.setattr(lines.pod, "gather", gather)

    def process(number):
        here.number = number
        found[number] = lines.connect("lines")

    threads = [threading.Thread(target=process, args=(n,)) for n in range(COUNT)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert strangers[0].recv(1) == b""  # refused
    strangers[0].close()
    yield found[0], [found[number][0] for number in range(1, COUNT)]
    for thread in threading.enumerate():
        if thread.name.startswith("line to "):  # has still to hear the last word
            thread.join(20)
    for line in [line for some in found.values() for line in some]:
        line.close()


def test_what_the_first_says_comes_in_order_however_large(joined):
    first, others = joined
    picture = np.arange(3_000_000, dtype=np.uint32)
    heard = [[], []]
    done = [threading.Event() for _ in others]
    for number, line in enumerate(others):

        def hear(message, number=number):
            heard[number].append(message)
            if message is None:
                done[number].set()

        lines.listen(line, 0, hear)
    lines.send(first, ("add", picture))
    for number in range(50):
        lines.send(first, number)
    lines.send(first, None)
    for number, all_heard in enumerate(done):
        assert all_heard.wait(20)
        (word, shown), *rest = heard[number]
        assert word == "add" and rest == [*range(50), None]
        np.testing.assert_array_equal(shown, picture)


def test_each_process_is_heard_by_itself_and_its_death_ends_the_job(joined, monkeypatch):
    first, others = joined
    heard, died = threading.Event(), threading.Event()
    said, reasons = [], []

    def fail(reason, *, dead):
        reasons.append((dead, reason))
        died.set()

    def hear(number, word):
        said.append((number, word))
        heard.set()

    monkeypatch.setattr(lines.pod, "fail", fail)
    for number, line in enumerate(first, 1):
        lines.listen(line, number, functools.partial(hear, number))
    lines.send(others[1:], "end")
    assert heard.wait(20) and said == [(2, "end")]
    lines.send(others[1:], None)
    others[1].close()  # after its last word, which is no death
    others[0].close()
    assert died.wait(20)
    [(dead, reason)] = reasons
    assert dead == 1 and "process 1 has died" in reason


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1])
def test_the_death_of_a_process_that_says_nothing_ends_those_that_wait(number):
    statuses, output = together(f"""
        import os, signal, threading
        from unireason_jax.pods import lines
        with pod.ending_together():
            heard = threading.Event()
            for line in lines.connect("lines"):
                lines.listen(line, 1 - me, lambda word: heard.set())
            if me == {number}:
                os.kill(os.getpid(), signal.SIGKILL)
            heard.wait()
    """)
    assert statuses[number] == -9 and statuses[1 - number] not in (0, -9)
    if number:  # JAX ends a process that loses its coordinator, in words of its own if it is faster
        assert f"process {number} has died; what it printed last may say why." in output[0]
