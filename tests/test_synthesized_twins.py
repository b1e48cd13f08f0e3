"""The study of twins on synthesized records: its records, and its table."""

import argparse
import functools
import json

from configs import quickstart
from launch import synthesized_twins
from tests.evals.world.test_evaluation import Oracle
from unireason_jax.data.sources import JsonSource
from unireason_jax.evals.world.exam import Exam
from unireason_jax.synthesis import running


def test_records_of_the_world_over_http(tmp_path, monkeypatch):
    def verb(name, *, recipe, config, out):
        assert name == "synthesize"
        running.run(*running.prepared(recipe, config, (1, 1), 0), out)

    monkeypatch.setattr(synthesized_twins, "_verb", verb)
    for name in ("uni_edit", "process_conflict"):
        folder = tmp_path / name
        file = synthesized_twins.synthesized(name, folder, seed=3, items=12)
        records = JsonSource(file)
        assert len(records) and {records[n].source for n in range(len(records))} == {name}
        calls = (folder / "calls.jsonl").read_text()
        # another start asks another port, and pays for nothing twice
        assert synthesized_twins.synthesized(name, folder, seed=3, items=12) == file
        assert (folder / "calls.jsonl").read_text() == calls


def test_a_start_is_made_that_was_shown_no_plan_and_no_repair(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(synthesized_twins, "_verb", lambda name, **keys: calls.append(keys))
    run = synthesized_twins.untaught(tmp_path / "alignment", tmp_path / "start")
    (keys,) = calls
    config = quickstart.get_config()
    for key, value in keys.items():
        *rooms, name = key.removeprefix("config.").split(".")
        if name != key:
            place = functools.reduce(lambda found, room: found[room], rooms, config)
            assert name in place, key
            if rooms == ["data", "mixture"]:
                place[name] = value
    shares = {task for task, share in config.data.mixture.items() if share}
    assert shares == {"t2i", "knowledge", "edit", "vqa", "caption"}
    assert keys["workdir"] == run and keys["config.init_from"] == tmp_path / "alignment"
    (run / "checkpoints" / str(keys["config.train.steps"])).mkdir(parents=True)  # whole
    assert synthesized_twins.untaught(tmp_path / "alignment", run) == run and len(calls) == 1


def test_given_drafts_are_counted_apart_and_together():
    for mends in (True, False):
        found = synthesized_twins.given_drafts(Exam(Oracle(mends=mends), seed=5), 6)
        faulty, right, both = (groups["all"] for groups in found.values())
        assert faulty and set(faulty) == {mends} and set(right) == {True}
        assert len(both) == 12 and both == faulty + right


def test_prompts_are_drawn_in_steps_and_at_once():
    exam = Exam(Oracle(slips=True), seed=5)
    found = synthesized_twins.drawn_in_steps(exam, 2)
    assert {len(verdicts) for groups in found.values() for verdicts in groups.values()} == {2}
    assert all(all(verdicts) for groups in found.values() for verdicts in groups.values())


def test_the_table_compares_a_twin_with_its_start(tmp_path):
    folder = tmp_path / "uni_edit"
    (folder / "prepared").mkdir(parents=True)
    (folder / "prepared" / "manifest.json").write_text('{"records": 1900}')
    (folder / "run" / "checkpoints" / "9").mkdir(parents=True)  # whole, so none of it is redone
    for name, right in (("before", [0] * 40), ("after", [1] * 30 + [0] * 10)):
        verdicts = {"hidden questions": {"copy": [bool(x) for x in right]}}
        (folder / f"{name}.json").write_text(json.dumps(verdicts))
    given = argparse.Namespace(start=tmp_path, seed=1, items=9, steps=9, prompts=9)
    (row,) = synthesized_twins.compared(given, "uni_edit", folder)
    assert row.startswith("| uni_edit | 1900 | hidden questions | 0.00 [0.00, 0.09] | 0.75 [")
    assert "| 0.75 [0." in row.rpartition("0.75 [0.60")[2] and row.endswith("| 40 | yes |")
