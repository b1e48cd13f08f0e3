"""Work on a thread: its order, its bound, and errors, which are never lost."""

import logging
import threading

import pytest

from unireason_jax.storage.background import Background


def test_calls_are_done_in_order_while_the_block_goes_on():
    done, going = [], threading.Event()
    with Background(waiting=4) as background:
        background.do(going.wait)
        for number in range(3):
            background.do(done.append, number)
        assert not done
        going.set()
    assert done == [0, 1, 2]


def test_no_more_wait_than_are_allowed():
    started, done = threading.Semaphore(0), []

    def give():
        with Background(waiting=2) as background:
            for number in range(6):
                background.do(lambda number=number: (started.acquire(), done.append(number)))
                given.append(number)

    given = []
    giver = threading.Thread(target=give)
    giver.start()
    for number in range(6):
        while len(given) < min(number + 3, 6):
            giver.join(0.01)
        assert len(given) <= number + 4 and len(done) <= number
        started.release()
        while len(done) <= number:
            giver.join(0.01)
    giver.join()
    assert done == given == list(range(6))


def fail():
    raise OSError("the disk is full")


def test_an_error_is_raised_at_the_end_and_nothing_behind_it_is_done():
    done, going = [], threading.Event()
    with pytest.raises(OSError, match="disk is full"), Background(waiting=4) as background:
        background.do(done.append, 1)
        background.do(going.wait)
        background.do(fail)
        background.do(done.append, 2)
        going.set()
    assert done == [1]


def test_an_error_is_raised_by_the_next_call():
    done = []
    with pytest.raises(OSError, match="disk is full"), Background(waiting=1) as background:
        background.do(fail)
        for number in range(1000):
            background.do(done.append, number)
        pytest.fail("a thousand calls were taken after an error")
    assert not done


def test_an_error_of_the_block_comes_first_and_that_of_the_thread_is_told(caplog):
    with (
        caplog.at_level(logging.ERROR),
        pytest.raises(ValueError, match="no memory"),
        Background(waiting=1) as background,
    ):
        background.do(fail)
        raise ValueError("no memory")
    assert "disk is full" in caplog.text
