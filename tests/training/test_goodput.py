"""Where the wall time went: kept, lost and repeated work over restarts, and what a kill leaves."""

import json

import pytest

from unireason_jax.training.goodput import Account, Ledger


def book(*rows):
    account = Account()
    for row in rows:
        account.take(row)
    return {kind: seconds for kind, seconds in account.seconds.items() if seconds}


def start(time, step, setup=5.0):
    return {"time": time, "start": step, "setup": setup}


def line(time, to, **phases):
    return {"time": time, "step": to, "phases": phases}


def test_one_attempt_accounts_for_every_second():
    seconds = book(
        start(100, 0),
        line(120, 10, compile=8, step=11, data=1),
        line(133, 20, step=9, checkpoint=3, eval=1),
    )
    assert seconds == {
        "restart": 5, "compile": 8, "productive": 20, "data": 1, "checkpoint": 3, "eval": 1
    }  # fmt: skip
    assert sum(seconds.values()) == 133 - (100 - 5)


def test_steps_behind_the_checkpoint_are_redone_in_proportion():
    rows = [start(0, 0), line(10, 10, step=10), line(20, 20, step=10), line(30, 30, step=10)]
    again = [*rows, start(50, 15), line(60, 25, step=10)]
    seconds = book(*again)
    assert seconds == {"restart": 5 + 20, "productive": 15 + 10, "redone": 15}
    # A second loss reaches into both attempts.
    seconds = book(*again, start(70, 5), line(71, 6, step=1))
    assert seconds == {"restart": 5 + 20 + 10, "productive": 5 + 1, "redone": 15 + 20}


def test_a_ledger_goes_on_over_restarts_and_torn_lines(tmp_path):
    first = Ledger(tmp_path, 0)
    shares = first.add(10, {"step": 30.0, "compile": 10.0})
    assert shares["goodput/productive"] == pytest.approx(3 * shares["goodput/compile"])
    assert sum(shares.values()) == pytest.approx(1)
    with (tmp_path / "goodput.jsonl").open("a") as file:
        file.write('\n{"time": 17')  # killed while writing
    second = Ledger(tmp_path, 5)
    shares = second.add(10, {"step": 15.0})
    assert shares["goodput/redone"] == pytest.approx(shares["goodput/productive"] / 2)
    rows = [row for row in (tmp_path / "goodput.jsonl").read_text().splitlines() if row]
    assert len([row for row in rows if row.endswith("}") and json.loads(row)]) == 4
