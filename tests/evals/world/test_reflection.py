"""The report of reflection on traces whose verdicts are known."""

import json

import numpy as np
import pytest

from unireason_jax.evals.world import reflection
from unireason_jax.evals.world.report import Report
from unireason_jax.inference.trace import Step, Trace


def judged(tag, *verdicts):
    """A request and its trace: verdicts on the draft and after every edit."""
    picture = np.zeros((8, 8, 3), np.uint8)
    roles = ["draft", *["refined"] * (len(verdicts) - 1)]
    steps = (Step("image", r, image=picture, verdict=v) for r, v in zip(roles, verdicts))
    return {"tag": tag}, Trace("t", "refine_t2i", tuple(steps))


TRACES = [
    judged("one", True),  # right at once, stopped
    judged("one", False, True),  # repaired by one edit
    judged("two", True, False),  # damaged
    judged("two", False, False, True),  # repaired by two
]
SAMPLES = [[True] * 3, [False, False, True], [False, True, False], [False, False, True]]


@pytest.fixture
def section():
    return reflection.section(TRACES, SAMPLES, 2)


def test_accuracy_repair_damage_and_resampling_by_edits_allowed(section):
    rows = {name: dict(zip(section.columns, rates)) for name, rates in section.rows}
    assert list(rows) == ["no edits", "1 edit", "2 edits"]

    def values(column):
        return [row[column] and row[column].value for row in rows.values()]

    # tag one: 1/2, 2/2, 2/2 and tag two: 1/2, 0/2, 1/2
    assert values("accuracy") == [0.5, 0.5, 0.75]
    assert values("repair rate") == [None, 0.5, 1.0]  # of two wrong drafts
    assert values("damage rate") == [None, 0.5, 0.5]  # of two right ones
    # at equal images: 1, 2, 2, 2 with one edit; 1, 2, 2, 3 with two
    assert values("best of as many images") == [0.25, 0.5, 0.75]
    repair = rows["1 edit"]["repair rate"]
    assert repair.count == 2 and 0 < repair.low < 0.5 < repair.high < 1
    assert "(1.00, 1.75, 2.00 on average)" in section.note


def test_it_is_in_the_report_with_a_chart(section, tmp_path):
    folder = Report("t", {}, (section,)).write(tmp_path)
    assert (folder / "chart.png").stat().st_size > 1000
    rows = json.loads((folder / "report.json").read_text())["sections"]["reflection"]["rows"]
    assert rows["no edits"]["repair rate"] is None
    assert set(rows["2 edits"]["damage rate"]) == {"value", "low", "high", "count"}
    assert "| 1 edit | 0.50 [" in (folder / "report.md").read_text()
