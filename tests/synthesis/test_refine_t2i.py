"""`refine_t2i` against the world over HTTP: with faults, errors and kills the truth stays known."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest

from tests.synthesis import agents
from unireason_jax.data.sources import JsonSource
from unireason_jax.storage.indexed import IndexedJournal
from unireason_jax.synthesis.world_models import Errors

ERRORS = Errors(draft=0.6, verify=0.05, edit=0.15, judge=0.1)


def wrong(server, out):
    """Records whose last picture is not what was asked for, or whose words do not fit it."""
    found = []
    for record in agents.records(out):
        last = record["rounds"][-1]["image"] if record["rounds"] else record["draft"]
        right = server.world.is_right(
            server.world.truth(record["prompt"]), agents.picture(out, last)
        )
        if not right or not record["final_reflection"].endswith("no change"):
            found.append(record["id"])
    return found


def counts(out):
    """The report's table of fates."""
    text = (out / "report.md").read_text().split("## Fates")[1].split("##")[0]
    return {name.strip("*"): int(n) for name, n in re.findall(r"\| (.+?) \| (\d+) \|", text)}


def test_faults_and_errors_give_right_records_and_a_report_that_adds_up(serve, tmp_path, capsys):
    server = serve(48, faults=0.04, errors=ERRORS)
    out = agents.run(agents.write(tmp_path, server), tmp_path / "out")
    found = agents.records(out)
    assert len(found) > 10 and not wrong(server, out)
    assert 0 < sum(not record["rounds"] for record in found) <= 0.3 * len(found)
    source = JsonSource(out / "records.jsonl")
    assert source[0].source == "refine_t2i" and source[0].licence == "CC0-1.0"
    parts = found[0]["provenance"]
    assert {"part", "role", "model", "endpoint", "prompt", "call", "cost"} == set(parts[0])
    order = list(dict.fromkeys(part["part"] for part in parts))  # some were asked again
    assert order[:3] == ["plan", "draft", "rounds.0.verify"]
    table = counts(out)
    ends = [n for name, n in table.items() if name.startswith(("dropped", "left out", "left open"))]
    assert table["items"] == sum(ends) + table["items in the records"] == len(server.world.truths)
    assert (out / "examples.png").stat().st_size > 5_000
    again = {content for content, count in server.answered.items() if count > 1}
    assert all(server.faults.of(content) == "null" for content in again)  # answered with nothing
    # a second start asks nobody and gives the same
    calls, before = sum(server.calls.values()), (out / "records.jsonl").read_bytes()
    open_items = table.get("left open: an endpoint failed, or not begun", 0)
    agents.run(tmp_path / "agents.toml", out)
    assert (sum(server.calls.values()) == calls) == (not open_items)
    assert open_items or (out / "records.jsonl").read_bytes() == before
    for file in filter(lambda each: each.is_file(), tmp_path.rglob("*")):
        assert agents.KEY.encode() not in file.read_bytes(), file
    said = capsys.readouterr()
    assert agents.KEY not in said.out + said.err


def test_the_same_seed_gives_the_same_records_whatever_the_concurrency(serve, tmp_path):
    server = serve(16, errors=ERRORS)
    one = agents.run(agents.write(tmp_path / "a", server, concurrency=1), tmp_path / "a" / "out")
    many = agents.write(tmp_path / "b", server, concurrency=64)
    other = agents.run(many, tmp_path / "b" / "out")
    assert agents.records(one) == agents.records(other) and agents.records(one)


@pytest.mark.slow
def test_kills_repeat_only_what_was_in_flight(serve, tmp_path):
    server = serve(40, errors=ERRORS, seconds=0.02)
    whole = agents.run(agents.write(tmp_path / "whole", server), tmp_path / "whole" / "out")
    server.calls.clear()
    server.answered.clear()
    config, out = tmp_path / "killed" / "agents.toml", tmp_path / "killed" / "out"
    agents.write(tmp_path / "killed", server, top={"in_flight": 8})
    command = [sys.executable, "-m", "tests.synthesis.agents", str(config), str(out), "refine_t2i"]
    kills = 0
    for _ in range(20):
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        calls = sum(server.calls.values())
        patience = time.monotonic() + 120
        while child.poll() is None and sum(server.calls.values()) < calls + 60:
            assert time.monotonic() < patience
            time.sleep(0.01)
        if child.poll() is None:
            time.sleep(random.random() * 0.05)
            os.kill(child.pid, signal.SIGKILL)
            kills += 1
        _, errors = child.communicate()
        if child.returncode == 0:
            break
        assert child.returncode == -signal.SIGKILL, errors.decode()[-500:]
    assert child.returncode == 0 and kills >= 3
    assert agents.records(out) == agents.records(whole)
    repeated = sum(count - 1 for count in server.answered.values())
    assert repeated <= kills * 8  # items in flight, each with one call at a time
    kept = IndexedJournal(out / "calls.jsonl", {"calls": 1})
    assert len(kept) == len(server.answered)


def test_shares_are_parts_of_the_whole(serve, tmp_path):
    server = serve(24)
    config = agents.write(tmp_path, server, top={"nearness": -1.0})
    ids = Counter()
    for number in (1, 2, 3):
        out = agents.run(config, tmp_path / f"{number}", share=(number, 3))
        for line in next(out.glob("fates.*.jsonl")).read_text().splitlines()[1:]:
            ids[json.loads(line)["key"]] += 1
    assert set(ids.values()) == {1} and len(ids) == len(server.world.truths)


def test_a_budget_stops_and_goes_on_where_it_is_raised(serve, tmp_path):
    server = serve(12)
    config = agents.write(tmp_path, server, concurrency=1)
    text = config.read_text()
    head = "[[roles.generator.endpoints]]"
    config.write_text(text.replace(head, f"[roles.generator]\nbudget = 0.05\n{head}"))
    with pytest.raises(ValueError, match=r"stopped early.*role 'generator'"):
        agents.run(config, tmp_path / "out")
    assert "Stopped early" in (tmp_path / "out" / "report.md").read_text()
    config.write_text(text)
    agents.run(config, tmp_path / "out")
    assert all(count == 1 for count in server.answered.values())
