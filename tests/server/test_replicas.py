"""What the processes of one server do together: a thread and a pipe in the place of a process."""

import contextlib
import threading
from multiprocessing import Pipe
from types import SimpleNamespace

import jax
import pytest

from tests.server import canned
from tests.server.test_protocol import post, until
from unireason_jax.server import process, replicas
from unireason_jax.server.replicas import Leader, ProcessesApart, Replica

PROMPT = {"messages": [{"role": "user", "content": "a red circle"}]}


class Job:
    """A leader, and who follows it.

    Attributes:
      leader: in the place of a `Live`.
      other: the conversations of the follower.
      ended: why the job ended.
      raised: what ended the follower.
    """

    def __init__(self, pause=0.0):
        self.own, self.other = canned.Live(4, pause), canned.Live(4, 0.0)
        self.ended, self.raised = [], []
        self.thread = threading.Thread(target=self._follow, daemon=True)

    def _follow(self):
        replica = Replica(self.other)
        try:
            replicas.replay(replica, iter(self.end.recv, None))
        except Exception as error:
            self.raised.append(error)


@pytest.fixture
def job(monkeypatch):
    made = Job(0.01)
    mine, made.end = Pipe()
    monkeypatch.setattr(replicas.lines, "connect", lambda name: [mine])
    monkeypatch.setattr(replicas.pod, "fail", made.ended.append)
    made.met = {}
    here = {made.thread: 1}

    def gather(name, value, *, timeout):
        """Each waits for the other, and gives up soon."""
        me = here.get(threading.current_thread(), 0)
        number = made.met.setdefault(me, 0)
        made.met[me] += 1
        made.met[me, number] = value
        with contextlib.suppress(AssertionError):
            until(lambda: (1 - me, number) in made.met, 2)
            return [made.met[0, number], made.met[1, number]]
        raise jax.errors.JaxRuntimeError("DEADLINE_EXCEEDED")

    monkeypatch.setattr(replicas.pod, "gather", gather)
    made.leader = Leader(made.own)
    made.thread.start()
    yield made
    made.leader.end()
    made.thread.join(20)
    assert not made.thread.is_alive()


def test_all_do_what_the_first_decides(job):
    with process.running(canned.reasoner(), live=job.leader, rows=4) as (address, scheduler):
        status, _, told = post(address, PROMPT | {"n": 3, "seed": 7})
        assert status == 200 and len(told["choices"]) == 3
        until(lambda: not job.other.guests)
        assert job.other.most == job.own.most == 3
        assert not job.leader.replica.numbers() and not job.ended and not job.raised
        until(lambda: not scheduler.running)


def test_who_leaves_leaves_everywhere(job):
    tickets = []
    with process.running(canned.reasoner(), live=job.leader, rows=4) as (_, scheduler):
        request, sample, settings = canned.reasoner().prepare("generate", "a red circle")
        job.own.pause = 0.05
        tickets += scheduler.submit([(request, sample, settings, 0)], lambda number, news: None)
        until(lambda: job.other.guests)
        scheduler.leave(tickets)
        until(lambda: not job.other.guests and not job.own.guests)
        assert not job.ended and not job.raised


def test_an_error_that_all_meet_ends_its_conversation_alone(job):
    with process.running(canned.reasoner(), live=job.leader, rows=4) as (address, _):
        job.own.fault = job.other.fault = ValueError("steps[0] is too long.")
        status, _, told = post(address, PROMPT)
        assert status == 400 and "too long" in told["error"]["message"]
        job.own.fault = job.other.fault = None
        assert post(address, PROMPT)[0] == 200
    assert not job.ended and not job.raised


def test_an_error_that_one_process_meets_ends_the_job(job):
    with process.running(canned.reasoner(), live=job.leader, rows=4) as (address, _):
        job.own.fault = MemoryError("of this host")
        assert post(address, PROMPT)[0] == 500
    assert "process 0 met an error in conversation 0 that not all processes met" in job.ended[0]


def test_a_process_with_other_conversations_ends_the_job():
    replica = Replica(canned.Live())
    job = canned.reasoner().prepare("generate", "a red circle")
    assert replica.add(*job) is not None and replica.numbers() == [0]
    with pytest.raises(ProcessesApart, match=r"conversations \[1\] are to go on, but \[0\]"):
        replica.work([1])


def test_one_that_cannot_begin_is_told_and_counts(monkeypatch):
    live = SimpleNamespace(guests=[], add=lambda *_: 1 / 0, drop=None)
    monkeypatch.setattr(replicas.pod, "gather", lambda name, value, *, timeout: [value] * 2)
    replica, told = Replica(live), []
    assert replica.add(None, 0, None, tell=told.append) is None
    assert [type(news.error) for news in told] == [ZeroDivisionError]
    assert replica.add(None, 0, None) is None and replica.numbers() == []


@pytest.mark.parametrize(
    "signals, drains", [([0], True), ([1], True), ([0, 1, 2], True), ([1, 0, 1], False)]
)
def test_a_signal_to_every_process_is_one_and_the_second_to_one_ends_at_once(signals, drains):
    closed = []
    scheduler = SimpleNamespace(close=lambda *, drain: closed.append(drain))
    server = process.Server(process.uvicorn.Config(None), scheduler)
    for number in signals:
        server.handle_exit(15, None) if number == 0 else server.end(number)
    assert server.should_exit and closed[0] and closed[-1] == drains
    assert server.force_exit != drains
