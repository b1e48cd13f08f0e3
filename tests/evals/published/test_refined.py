"""What refinement is worth in a benchmark: steps kept, judged over HTTP, reported, resumed."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from unireason_jax import benchmark
from unireason_jax.data.templates import PLAIN
from unireason_jax.endpoints.loopback import Loopback, completion
from unireason_jax.evals.published import SUITES, draw, refined
from unireason_jax.evals.published.base import Item, Scored
from unireason_jax.inference.settings import Settings
from unireason_jax.inference.trace import Step, Trace

SHOWN = {"1": [1], "2": [0, 1], "401": [1, 0], "402": [0, 0, 1]}
"""By prompt, whether the draft and what every edit led to is right."""
FRESH = {"1": [], "2": [0], "401": [1], "402": [0, 1]}


def picture(right):
    return np.full((8, 8, 3), 200 * right, np.uint8)


class Refiner:
    """Draws drafts and edits as SHOWN says, and further drafts as FRESH does."""

    def __init__(self):
        self.style, self.settings, self.seen = PLAIN, Settings(), []

    def run(self, records, *, samples=1):
        return [self.draw(record, number) for record in records for number in range(samples)]

    def draw(self, record, number):
        self.seen.append(record.id)
        name, _, fresh = record.id.partition(" / ")
        if fresh:
            assert [record.segments[n].role for n in record.holes] == ["plan", "draft"]
            shown = [FRESH[name][int(fresh.split()[1]) - 1]]
        else:
            shown = SHOWN[name]
        roles = ["draft", *["refined"] * (len(shown) - 1)]
        steps = (Step("image", r, image=picture(s)) for r, s in zip(roles, shown))
        return Trace(record.id, "refine_t2i", tuple(steps), sample=number)


def looking(path, body):
    """A judge that looks: bright pictures are right."""
    (shown,) = (p for p in body["messages"][-1]["content"] if p["type"] == "image_url")
    data = base64.b64decode(shown["image_url"]["url"].partition(",")[2])
    return completion(f"Score: {int(np.asarray(Image.open(io.BytesIO(data))).mean() > 100)}")


@pytest.fixture
def judge():
    server = Loopback(looking)
    yield server
    server.close()


@pytest.fixture
def prompts(tmp_path):
    row = {"Explanation": "e", "Category": "c", "Subcategory": "s"}
    rows = [{"Prompt": f"p{name}", "prompt_id": int(name), **row} for name in SHOWN]
    (tmp_path / "wise.json").write_text(json.dumps(rows))
    return tmp_path / "wise.json"


def run(judge, prompts, out, *more, refiner=None):
    flags = ["--suite", "wise", "--prompts", str(prompts), "--out", str(out)]
    if judge:
        flags += ["--judge_url", judge.url, "--judge_model", "m"]
    arguments = benchmark.parser().parse_args([*flags, *more])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmark, "from_flags", lambda _: refiner)
        patch.setattr(benchmark, "told", lambda arguments: arguments.checkpoint)
        benchmark.run(arguments)
    return json.loads((out / "report.json").read_text())


REFINING = ("--checkpoint", "x", "--mode", "refine")


def test_accuracy_repair_damage_and_fresh_drafts_by_edits_allowed(judge, prompts, tmp_path):
    report = run(judge, prompts, tmp_path / "out", *REFINING, "--reflection", refiner=Refiner())
    rows = report["sections"]["reflection"]["rows"]
    assert list(rows) == ["no edits", "1 edit", "2 edits"]

    def values(column, section="reflection"):
        table = report["sections"][section]["rows"].values()
        return [row[column] and row[column]["value"] for row in table]

    # CULTURE: 1/2, 2/2, 2/2 and TIME: 1/2, 0/2, 1/2
    assert values("accuracy") == [0.5, 0.5, 0.75]
    assert values("repair rate") == [None, 0.5, 1.0]
    assert values("damage rate") == [None, 0.5, 0.5]
    # the draft or as many others as edits: 1 0 | 1 0, then 1 0 | 1 0, then 1 0 | 1 1
    assert values("best of as many images") == [0.5, 0.5, 0.75]
    assert values("score", "reflection_scores") == [0.5, 0.5, 0.75]
    assert values("better than the draft", "reflection_scores") == [None, 0.25, 0.5]
    assert values("worse than the draft", "reflection_scores") == [None, 0.25, 0.25]
    assert values("score, best of as many", "reflection_scores") == [0.5, 0.5, 0.75]
    assert report["scores"]["overall"]["value"] == 0.75  # as without --reflection
    text = (tmp_path / "out" / "report.md").read_text()
    assert "## Reflection by edits allowed" in text and "| 1 edit | 0.50 [" in text
    # 4 final pictures, 4 drafts and edits that another followed, 4 fresh drafts
    assert sum(judge.answered.values()) <= 12


def test_steps_are_kept_and_judged_later_and_nothing_is_done_twice(judge, prompts, tmp_path):
    out, refiner = tmp_path / "out", Refiner()
    plain = run(judge, prompts, out, *REFINING, refiner=refiner)
    assert "sections" not in plain and refiner.seen == list(SHOWN)
    assert [draw.edits_of(out, f"{name}.png") for name in SHOWN] == [0, 1, 1, 2]
    without = run(judge, prompts, out, "--reflection")  # no model: what was drawn is judged
    column = [row["best of as many images"] for row in _rows(without).values()]
    assert [one is None for one in column] == [False, True, True]
    assert _rows(without)["2 edits"]["repair rate"]["value"] == 1.0
    run(judge, prompts, out, *REFINING, "--reflection", refiner=refiner)
    drawn = list(refiner.seen)
    assert len(drawn) == 4 + 4  # as many further drafts as edits
    asked = (out / "answers_m.jsonl").read_text()
    again = run(judge, prompts, out, *REFINING, "--reflection", refiner=refiner)
    assert refiner.seen == drawn and (out / "answers_m.jsonl").read_text() == asked
    assert again["scores"] == plain["scores"] and again["protocol"] == plain["protocol"]
    (out / "edits" / "0" / "2.png").unlink()  # as of a picture drawn before steps were kept
    assert (
        "1 of 4 pictures lack steps"
        in run(judge, prompts, out, "--reflection")["sections"]["reflection"]["note"]
    )


def _rows(report):
    return report["sections"]["reflection"]["rows"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--checkpoint", "x", "--mode", "plan"), "preset 'think_t2i' refines nothing"),
        ((*REFINING, "--rounds", "0"), "preset 'refine_t2i' refines nothing"),
        ((), "holds no steps of these pictures"),
    ],
)
def test_what_cannot_be_reported_is_refused_before_anything_is_drawn(
    more, said, judge, prompts, tmp_path
):
    refiner = Refiner()
    with pytest.raises(ValueError, match=said) as error:
        run(judge, prompts, tmp_path / "out", *more, "--reflection", refiner=refiner)
    assert not refiner.seen and "\n" not in str(error.value)
    assert not (tmp_path / "out" / "drawn.jsonl").exists()  # another preset may begin here


def test_without_a_judge_nothing_is_drawn(prompts, tmp_path):
    refiner = Refiner()
    with pytest.raises(ValueError, match="--reflection asks a judge"):
        run(None, prompts, tmp_path / "out", *REFINING, "--reflection", refiner=refiner)
    assert not refiner.seen


def test_a_grid_shows_every_conversation_at_its_last_step(tmp_path):
    suite = SUITES["dpg"]
    item = Item("i", "p", (), {"questions": []})

    def trace(*values):
        roles = ["draft", *["refined"] * (len(values) - 1)]
        return Trace(
            "i", "t", tuple(Step("image", r, image=picture(v)) for r, v in zip(roles, values))
        )

    draw._save(suite, item, [trace(0), trace(0, 1), trace(0), trace(0, 0, 1)], tmp_path)
    (place,) = suite.places(item)
    assert draw.edits_of(tmp_path, place) == 2
    corners = [
        np.asarray(Image.open(tmp_path / "edits" / str(n) / place))[::8, ::8, 0].ravel() // 200
        for n in range(3)
    ]
    assert [list(c) for c in corners] == [[0, 0, 0, 0], [0, 1, 0, 0], [0, 1, 0, 1]]


@pytest.mark.parametrize("suite", SUITES)
def test_a_picture_with_all_points_is_right(suite):
    """`best` is the headline of full marks, told by answers that give all of them."""
    full = {
        "wise": {"verified": {"score": 1}},
        "wise_legacy": {"wise": {"Consistency": 2, "Realism": 2, "Aesthetic Quality": 2}},
        "gedit": {"all": {"semantics": 10, "quality": 10}},
        "imgedit": {"rating": {"a": 5, "b": 5, "c": 5}},
        "uniredit": {"all": {"consistency": 5, "reasoning": 5, "quality": 5}},
        "kris": {"all": {"consistency_score": 5, "quality_score": 5}},
        "geneval": {"objects": {"correct": 1}},
        "corebench": {"all": {"0": 1}},
        "rise": {"all": {"reasoning": 5, "consistency": 5, "quality": 5}},
        "geneval2": {"0": {"score": 1.0, "soft": 1.0}},
        "tiif": {"answers": {"0": 1.0}},
        "dpg": {"all": {f"{crop}/1": 1.0 for crop in range(4)}},
        "oneig": {f"{crop}/1": {"yes": 1.0} for crop in range(4)},
        "compbench": {"all": {"0": 1.0}},
    }
    asked = {"id": 1, "parents": [], "category": "entity", "skipped": False}
    raw = {"tag": "t", "type": "color_change", "task_type": "t", "instruction_language": "en"}
    raw |= {"name": "n", "edit_type": "e", "category": "color", "vqa_list": [["q", "Yes"]]}
    raw |= {"skills": ["s"], "atom_count": 1, "yn_answer_list": ["yes"], "_length": "short"}
    raw |= {"questions": [asked], "_folder": "object", "_questions": {"1": ("q", [])}}
    raw |= {"Intersection_exist": True, "dimension": "C-MI"}
    raw |= {"category": "temporal_reasoning"} if suite == "rise" else {}
    name = "C-MI/C-MI-001" if suite == "corebench" else "1"
    picture = Scored(Item(name, "p", (), raw), "x.png", full[suite])
    assert refined.points(SUITES[suite], picture) == pytest.approx(SUITES[suite].best)
