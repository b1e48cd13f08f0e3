"""Every recipe over HTTP with faults, errors and kills: what is kept is true, and paid once.

The world knows the truth of every record, so that what the filters let pass is counted. A run of
hundreds of items, killed several times, is `make drill`'s.
"""

import os
import random
import re
import signal
import subprocess
import sys
import time

import pytest

from tests.synthesis import agents, truths
from unireason_jax.data.sources import JsonSource
from unireason_jax.endpoints.calls import CallJournal
from unireason_jax.synthesis import recipe as recipes
from unireason_jax.synthesis.world_models import Errors

ERRORS = Errors(draft=0.5, verify=0.1, edit=0.15, judge=0.05, seed=0.2)
IN_FLIGHT, LONGEST = 8, 300.0
ITEMS = {"reason_t2i": 560}  # of the drill, where more prompts are alike or dropped than elsewhere


def killed(server, config, out, name, kills, calls):
    """A run that is killed so many times on the way of so many calls, then ends by itself."""
    command = [sys.executable, "-m", "tests.synthesis.agents", str(config), str(out), name]
    moments = random.Random(f"{name} {kills}")
    for left in range(kills, -1, -1):
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as child:
            begun, until = sum(server.calls.values()), time.monotonic() + LONGEST
            after = moments.uniform(0.1, 0.9) * calls / (kills + 1)
            while left and child.poll() is None and sum(server.calls.values()) < begun + after:
                assert time.monotonic() < until
                time.sleep(0.002)
            if left:
                time.sleep(moments.random() * 0.02)
                os.kill(child.pid, signal.SIGKILL)
            _, errors = child.communicate()
        assert child.returncode == (-signal.SIGKILL if left else 0), errors.decode()[-500:]


def fates(out):
    """The report's table of fates, which has to add up."""
    text = (out / "report.md").read_text()
    rows = text.split("## Fates")[1].split("##")[0]
    table = {name.strip("*"): int(n) for name, n in re.findall(r"\| (.+?) \| (\d+) \|", rows)}
    ends = [n for name, n in table.items() if name.startswith(("dropped", "left out", "left open"))]
    seeds = [n for name, n in table.items() if name.startswith("row left out")]
    assert table["items"] == sum(ends) + table["items in the records"]
    assert table["rows of seeds"] == sum(seeds) + table["items"]
    return table


def bill(out, server):
    """Checks that the bill is what the journal holds, and the items' cost the same."""
    text = (out / "report.md").read_text()
    calls = [
        int(n) for n in re.findall(r"^\| \w+ \| (\d+) \|.*\|$", text.split("## Bill")[1], re.M)
    ]
    rows = list(CallJournal(out).rows())
    paid, items = map(float, re.search(r"Paid: ([\d.]+).*finished: ([\d.]+)\.", text).groups())
    assert len({row["key"] for row in rows}) == len(rows)
    assert sum(calls[: len({row["role"] for row in rows})]) == len(rows)
    assert paid == pytest.approx(sum(row["cost"] for row in rows), abs=1e-4)
    assert items == pytest.approx(paid, abs=1e-4)
    # who was answered with no message at all asks the same again
    once = {c: n for c, n in server.answered.items() if server.faults.of(c) != "null"}
    return sum(n - 1 for n in once.values())


def of_records(out):
    """Records without who made them: a call that a kill cut off may have been made once more."""
    return [{k: v for k, v in r.items() if k != "provenance"} for r in agents.records(out)]


def held(serve, tmp_path, name, count, kills):
    """One recipe in peace and once more; returns its records' ids and those that are not true."""
    server = serve(count, faults=0.01, errors=ERRORS, recipe=name, seconds=0.002)
    config = agents.write(tmp_path / "whole", server, name, concurrency=64)
    whole = agents.run(config, tmp_path / "whole" / "out", name)
    assert not bill(whole, server)
    calls = sum(server.calls.values())
    server.forget()
    again, out = tmp_path / "again", tmp_path / "again" / "out"
    if kills:
        config = agents.write(again, server, name, top={"in_flight": IN_FLIGHT})
        killed(server, config, out, name, kills, calls)
    else:
        agents.run(agents.write(again, server, name, concurrency=1), out, name)
    assert bill(out, server) <= kills * IN_FLIGHT  # items, each with one call at a time
    assert fates(out) == fates(whole)
    assert of_records(out) == of_records(whole)
    records = agents.records(out)
    untrue = {r["id"]: what for r in records if (what := truths.untrue(name, server.world, out, r))}
    print(f"{name}: {len(untrue)} of {len(records)} records untrue {untrue}; {calls} calls")
    return records, untrue


@pytest.mark.parametrize("name", recipes.names())
def test_a_recipe_keeps_what_is_true_and_pays_once(serve, tmp_path, name):
    records, untrue = held(serve, tmp_path, name, 14, 0)
    assert records and not untrue
    source = JsonSource(tmp_path / "again" / "out" / "records.jsonl")
    assert len(source) == len(records) and source[0].licence == "CC0-1.0"
    parts = [part for record in records for part in record["provenance"]]
    assert {"part", "role", "model", "endpoint", "prompt", "call", "cost"} == set(parts[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["process", "refine_edit"])
def test_a_recipe_that_is_killed_goes_on(serve, tmp_path, name):
    records, _ = held(serve, tmp_path, name, 24, 2)
    assert records


@pytest.mark.drill
@pytest.mark.parametrize("name", recipes.names())
def test_a_recipe_of_hundreds_of_items_is_killed_and_keeps_at_most_one_in_a_hundred(
    serve, tmp_path, name
):
    records, untrue = held(serve, tmp_path, name, ITEMS.get(name, 360), 4)
    assert len(records) >= 100
    assert len(untrue) <= 0.01 * len(records), untrue
    for file in filter(lambda each: each.is_file(), tmp_path.rglob("*")):
        assert agents.KEY.encode() not in file.read_bytes(), file
