"""`evaluate` and `synthesize` in two joined processes: half the work each, the results of one."""

import json
import sys
from pathlib import Path

import pytest

from launch.local import LocalJob

pytestmark = pytest.mark.slow
REPOSITORY = Path(__file__).resolve().parent.parent
SIZES = {"prompts": 2, "controls": 1, "pairs": 0, "knowledge": 1, "edits": 1, "questions": 1}
SIZES |= {"drafts": 4, "rounds": 2, "seed": 5, "flow_batches": 0}


def run(verb, out, processes, **flags):
    """Runs a verb; returns what every process has drawn."""
    drawn = out.with_name(f"{out.name}_drawn_by_{processes}")
    drawn.mkdir()
    printed = []
    flags = {"checkpoint": "x", "out": out, **flags}
    job = LocalJob(
        [sys.executable, "-m", "tests.shared_verbs", verb]
        + [f"--{key}={value}" for key, value in flags.items()],
        processes=processes,
        devices=1,
        environment={"DRAWN": str(drawn)},
        sink=lambda number, line: printed.append(line),
        directory=REPOSITORY,
    )
    assert not any(job.wait(timeout=500)), "".join(printed)
    return [path.read_text().splitlines() for path in sorted(drawn.iterdir())]


def shares(alone, shared):
    """Two processes have drawn everything once, and neither much more than the other."""
    assert len(alone) == 1 and len(shared) == 2
    assert sorted(shared[0] + shared[1]) == sorted(alone[0])
    assert 0.3 < len(shared[0]) / len(alone[0]) < 0.7


def test_evaluate_draws_in_both_processes_and_reports_the_same(tmp_path):
    alone = run("evaluate", tmp_path / "alone", 1, **SIZES)
    shared = run("evaluate", tmp_path / "shared", 2, **SIZES)
    shares(alone, shared)
    reports = []
    for name in ("alone", "shared"):
        report = json.loads((tmp_path / name / "report.json").read_text())
        del report["facts"]["time"]
        reports.append(report)
    assert reports[0] == reports[1]
    names = [sorted(p.name for p in (tmp_path / n).iterdir()) for n in ("alone", "shared")]
    assert names[0] == names[1] and "strips.png" in names[0]
    pictures = [(tmp_path / n / "strips.png").read_bytes() for n in ("alone", "shared")]
    assert pictures[0] == pictures[1]


def test_synthesize_shares_the_drafts_and_writes_the_same_records(tmp_path):
    alone = run("synthesize", tmp_path / "alone", 1, count=11)
    shared = run("synthesize", tmp_path / "shared", 2, count=11)
    shares(alone, shared)
    records = [(tmp_path / n / "records.jsonl").read_text() for n in ("alone", "shared")]
    assert records[0] == records[1] and len(records[0].splitlines()) >= 5
    images = [
        {p.name: p.read_bytes() for p in (tmp_path / n / "images").iterdir()}
        for n in ("alone", "shared")
    ]
    assert images[0] == images[1]
    rows = [(tmp_path / "shared" / f"journal{n}.jsonl").read_text() for n in ("", ".1")]
    assert [len(text.splitlines()) - 1 for text in rows] == [6, 5]
    # one process takes up what two have left: nothing is drawn again
    assert run("synthesize", tmp_path / "shared", 1, count=11) == []
    assert (tmp_path / "shared" / "records.jsonl").read_text() == records[0]
