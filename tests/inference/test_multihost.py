"""A shared reasoner: two threads in the place of two processes."""

import threading
from types import SimpleNamespace

import numpy as np
import pytest

from unireason_jax.inference import multihost
from unireason_jax.inference.trace import Step, Trace


class Reasoner:
    settings = style = None

    def __init__(self):
        self.asked = []

    def run(self, records, *, samples, progress):
        self.asked += [record.id for record in records]
        progress(len(records) * samples)
        return [self.trace(record.id, n) for record in records for n in range(samples)]

    def trace(self, name, sample):
        image = np.full((2, 3, 3), int(name) + 10 * sample, np.uint8)
        words = Step("text", "plan", text="é", handover="image", forwards=3, content="<é>")
        steps = (words, Step("image", "image", image=image, verdict=True, seed=7))
        return Trace(name, "t2i", steps, sample=sample, seconds={"draw": 0.5}, details={"a": [1]})


def same(one, other):
    assert (one.id, one.sample, one.seconds, one.details) == (
        (other.id, other.sample, other.seconds, other.details)
    )
    for a, b in zip(one.steps, other.steps, strict=True):
        rest = {k: v for k, v in vars(a).items() if k != "image"}
        assert rest == {k: v for k, v in vars(b).items() if k != "image"}
        assert (a.image is None) == (b.image is None)
        if a.image is not None:
            np.testing.assert_array_equal(a.image, b.image)
            assert a.image.dtype == b.image.dtype


def test_traces_come_back_as_they_were():
    traces = [Reasoner().trace(str(n), n) for n in range(3)]
    for one, other in zip(traces, multihost.unpacked(multihost.packed(traces)), strict=True):
        same(one, other)
    assert multihost.unpacked(multihost.packed([])) == []


@pytest.mark.parametrize("count", [1, 5])
def test_every_process_draws_its_share_and_gets_all(count, tmp_path, monkeypatch):
    here, meeting = threading.local(), threading.Barrier(2, timeout=60)
    monkeypatch.setattr(multihost.jax, "process_count", lambda: 2)
    monkeypatch.setattr(multihost.jax, "process_index", lambda: here.number)
    monkeypatch.setattr(multihost.pod, "gather", lambda *_, **__: meeting.wait())
    (tmp_path / "traces.7.npz").write_bytes(b"left by a larger job that was killed")
    records = [SimpleNamespace(id=str(n)) for n in range(count)]
    reasoners, found, told = [Reasoner(), Reasoner()], {}, [[], []]

    def process(number):
        here.number = number
        one = multihost.SharedReasoner(reasoners[number], tmp_path)
        for call in range(2):  # a second call is not taken for the first
            found[number, call] = one.run(records, samples=2, progress=told[number].append)

    threads = [threading.Thread(target=process, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wanted = [Reasoner().trace(str(n), sample) for n in range(count) for sample in range(2)]
    for traces in found.values():
        for one, other in zip(traces, wanted, strict=True):
            same(one, other)
    assert len(found) == 4 and not list(tmp_path.iterdir())
    assert len(reasoners[0].asked) + len(reasoners[1].asked) == 2 * count
    assert [sum(each) for each in told] == [4 * count] * 2
