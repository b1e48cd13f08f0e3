"""RISEBench and T2I-CoReBench: files, places, answers and formulas on items by hand."""

import json

import pytest
from PIL import Image

from unireason_jax.evals.published import corebench, rise, world_judge
from unireason_jax.evals.published.base import Malformed, Scored


@pytest.fixture
def items(tmp_path):
    (tmp_path / "data").mkdir()
    for name in ("a", "right"):
        Image.new("RGB", (8, 8)).save(tmp_path / "data" / f"{name}.png")
    rows = [
        {"index": "t1", "category": "temporal_reasoning", "reference_img": "right.png"},
        {"index": "s1", "category": "spatial_reasoning", "consistency_free": True},
        {"index": "l1", "category": "logical_reasoning", "reference": "three"},
    ]
    rows = [{"instruction": "edit", "image": "a.png", **row} for row in rows]
    (tmp_path / "rise.json").write_text(json.dumps(rows))
    return rise.load(tmp_path / "rise.json")


def scored(item, **scores):
    return Scored(item, item.id, {step: {step: value} for step, value in scores.items()})


def test_rise_asks_what_a_category_needs(items, tmp_path):
    made = tmp_path / "data" / "a.png"
    steps = [[q.step for q in rise.questions(item, item.id, made, rise.RUBRICS)] for item in items]
    assert steps[0] == ["consistency", "reasoning", "quality"]
    assert steps[1:] == [["reasoning", "quality"], ["consistency", "reasoning"]]
    assert rise.places(items[0]) == ("temporal_reasoning/t1.png",)
    asked = rise.questions(items[0], "x", made, rise.RUBRICS)
    assert [len(q.pictures) for q in asked] == [2, 3, 1]
    logical = rise.questions(items[2], "x", made, rise.RUBRICS)[1]
    assert "three" in logical.words and "Final Score: 0" in logical.words
    assert rise.read(logical, "**Final Score:** 1") == {"reasoning": 5}
    assert rise.read(asked[1], "Final Score: 1") == {"reasoning": 1}
    with pytest.raises(Malformed):
        rise.read(logical, "Final Score: 4")


def test_rise_sums_as_its_paper_says(items):
    temporal, spatial, logical = items
    right = scored(temporal, consistency=5, reasoning=5, quality=5)
    good = scored(temporal, consistency=5, reasoning=3, quality=4)
    wrong = scored(temporal, consistency=5, reasoning=1, quality=5)
    assert [rise.points(image) for image in (right, good)] == [100, pytest.approx(70)]
    assert rise.points(wrong) == pytest.approx(25 * ((1.5 + 0.5 + 1.0) / 2 - 1))
    assert rise.points(scored(temporal, consistency=1, reasoning=1, quality=1)) == 0
    assert rise.points(scored(spatial, reasoning=5, quality=3)) == pytest.approx(90)
    assert rise.points(scored(logical, consistency=1, reasoning=5)) == pytest.approx(70)
    found = rise.aggregate([right, good, scored(logical, consistency=5, reasoning=5)])
    assert found["accuracy"] == pytest.approx(200 / 3)
    assert found["accuracy, temporal_reasoning"] == 50


def test_corebench_is_the_mean_of_its_dimensions(tmp_path):
    asked = [{"question": "Is it red?", "tags": ["x"]}, {"question": "Is it big?"}]
    rows = {
        "C-MI-001": {"Prompt": "p", "Checklist": asked},
        "R-LR-002": {"Prompt": "q", "Checklist": asked[:1]},
    }
    (tmp_path / "c.json").write_text(json.dumps(rows))
    first, second = corebench.load(tmp_path / "c.json")
    assert corebench.places(first)[3] == "C-MI/C-MI-001-3.png"
    questions = corebench.questions(first, "x", tmp_path, corebench.RUBRICS)
    assert len(questions) == 2 and "Is it big?" in questions[1].words
    assert corebench.read(questions[0], "Yes.") == {"question 0": 1}
    with pytest.raises(Malformed):
        corebench.read(questions[0], "perhaps")
    half = scored(first, **{"question 0": 1, "question 1": 0})
    whole = scored(second, **{"question 0": 1})
    found = corebench.aggregate([half, half, whole])
    assert found["overall, mean of dimensions"] == 75
    assert (found["composition"], found["reasoning"]) == (50, 100)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"ID": "MI-1", "Prompt": "p", "Checklist": []}], "is not like C-MI-001"),
        ([{"ID": "C-MI-1", "Prompt": "p", "Checklist": ["x"]}], "no list of {question}"),
        ([{"ID": "C-MI-1", "Checklist": [{"question": "x"}]}], "field 'Prompt' is None"),
    ],
)
def test_wrong_rows_are_named(rows, said, tmp_path):
    (tmp_path / "c.json").write_text(json.dumps(rows))
    with pytest.raises(ValueError, match="item 0") as error:
        corebench.load(tmp_path / "c.json")
    assert said in str(error.value)


def test_the_program_judges_no_suite_of_which_the_world_has_no_items():
    with pytest.raises(ValueError, match="the world has no items of 'rise'"):
        world_judge.ProgramJudge("rise")
