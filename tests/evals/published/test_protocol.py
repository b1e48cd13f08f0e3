"""What makes a score that of a benchmark: its groups, files, pictures as its judge sees them."""

import contextlib
import json

import numpy as np
import pytest
from PIL import Image

from tests.evals.published.painter import Painter
from tests.evals.published.test_benchmark import COUNTS, run
from unireason_jax import benchmark
from unireason_jax.evals.published import SUITES, gedit, kris, tiif, wise, world_sets
from unireason_jax.evals.published.base import Item, Malformed, Question, Scored, pixels


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    world_sets.write(folder, 1, counts=COUNTS)
    return folder


def test_tiif_has_nine_groups_of_39_types():
    sizes = [len(kinds) for kinds in tiif.GROUPS.values()]
    assert sizes == [4, 4, 4, 8, 8, 8, 1, 1, 1] and len(tiif.GROUP) == 39
    # looks combine with looks and places, actions with looks; thoughts with colour, texture, place
    looks, thoughts = "action color shape texture".split(), tiif.GROUPS["reasoning"]
    mixed = {f"{look}+{place}" for look in looks[1:] for place in ("2d", "3d")}
    mixed |= {"action+color", "action+texture"}
    assert set(tiif.GROUPS["attribute+relation"]) == mixed
    for group, ends in (("attribute", ("color", "texture")), ("relation", ("2d", "3d"))):
        made = {f"{thought}+{end}" for thought in thoughts for end in ends}
        assert set(tiif.GROUPS[f"{group}+reasoning"]) == made


def test_tiif_is_the_mean_of_groups_and_not_of_types():
    def scored(kind, right):
        raw = {"type": kind, "_length": "short", "_line": 0, "yn_answer_list": ["yes"]}
        item = Item(kind, "p", (), raw)
        return Scored(item, kind, {"answers": {"0": float(right)}})

    found = tiif.aggregate([scored("style", True), *(scored(k, False) for k in ("numeracy", "2d"))])
    assert found["short, group reasoning"] == 0 and found["short, group 2d"] == 0
    found = tiif.aggregate([scored("style", 1), scored("numeracy", 1), scored("negation", 0)])
    assert found["overall, short"] == pytest.approx((100 + 50) / 2)


def test_the_files_of_tiif_are_joined_by_line(tmp_path):
    prompts, asked = tmp_path / "testmini_prompts", tmp_path / "testmini_eval_prompts"
    for folder in (prompts, asked):
        folder.mkdir()
    for kind in ("color+2d", "style"):
        rows = [{"type": kind, "short_description": f"s{n}", "long_description": "l"} for n in "ab"]
        (prompts / f"{kind}_prompts.jsonl").write_text("\n".join(map(json.dumps, rows)))
        rows = [{"type": kind, "yn_question_list": [n], "yn_answer_list": ["yes"]} for n in "ab"]
        (asked / f"{kind}_eval_prompts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    items = tiif.load(tmp_path)
    assert len(items) == 8 and items[2].prompt == "sb"
    assert items[2].raw["yn_question_list"] == ["b"]
    (asked / "style_eval_prompts.jsonl").write_text(json.dumps(rows[0]))
    with pytest.raises(ValueError, match=r"style_eval_prompts\.jsonl: 1 lines for 2 prompts"):
        tiif.load(tmp_path)
    (asked / "style_eval_prompts.jsonl").unlink()
    with pytest.raises(ValueError, match=r"style_eval_prompts\.jsonl with its"):
        tiif.load(tmp_path)


def test_wise_reads_its_three_files_at_once(tmp_path):
    for first, name in (
        (1, "cultural"),
        (401, "spatio"),
        (701, "natural"),
        (701, "natural_rewrite"),
    ):
        row = {"Prompt": name, "Explanation": "e", "Category": "c", "prompt_id": first}
        (tmp_path / f"{name}.json").write_text(json.dumps([row]))
    assert sorted(item.id for item in wise.load(tmp_path)) == ["1", "401", "701"]


@pytest.mark.parametrize(
    "answer, scores",
    [
        ("Consistency: 2\nRealism: 1\nAesthetic Quality: 0", [2, 1, 0]),
        ("2\n1\n0", [2, 1, 0]),
        ("The scores are 2, 1 and 0.", [2, 1, 0]),
        ("2, 1", None),
        ("Consistency: 2\nRealism: 1\n0", None),
    ],
)
def test_wise_takes_the_numbers_alone_where_there_are_no_labels(answer, scores):
    question = Question("k", "wise", "", (), Item("1", "p", (), {}))
    if scores is None:
        with pytest.raises(Malformed):
            wise.read(question, answer)
    else:
        assert list(wise.read(question, answer).values()) == scores


def test_gedit_shows_the_result_in_the_size_of_its_source(tmp_path):
    for name, size in (("source", (30, 20)), ("result", (64, 48))):
        Image.new("RGB", size, (9, 9, 9)).save(tmp_path / f"{name}.png")
    item = Item("t/en/k", "p", (tmp_path / "source.png",), {"task_type": "t"})
    asked = gedit.questions(item, "x", tmp_path / "result.png", gedit.RUBRICS)
    assert [pixels(q.pictures[-1]).shape for q in asked] == [(20, 30, 3)] * 2
    assert gedit.copies(item) == {"fullset/t/en/k_SRCIMG.png": tmp_path / "source.png"}


def test_gedit_writes_its_sources_beside_the_results(sets, tmp_path):
    run("gedit", sets, tmp_path)
    results = {p.name.removesuffix(".png") for p in (tmp_path / "images").rglob("*.png")}
    plain = {name for name in results if not name.endswith("_SRCIMG")}
    assert plain and {f"{name}_SRCIMG" for name in plain} == results - plain


def kris_questions(tmp_path, rows, rubrics=kris.RUBRICS):
    names = {name for row in rows for name in [*np.atleast_1d(row["ori_img"]), row.get("gt_img")]}
    for name in (names | {"made.png"}) - {None}:
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    rows = [{"ins_en": "do it", "explain_en": "why", **row} for row in rows]
    (tmp_path / "k.json").write_text(json.dumps(rows))
    return {
        (item.raw["id"], asked.step): asked
        for item in kris.load(tmp_path / "k.json")
        for asked in kris.questions(item, item.id, tmp_path / "made.png", rubrics)
    }


def test_kris_labels_pictures_and_shows_the_truth_of_a_viewpoint_last(tmp_path):
    rows = [
        {"id": 1, "type": "viewpoint_change", "ori_img": "a.png", "gt_img": "truth.png"},
        {"id": 2, "type": "multi-element_composition", "ori_img": ["a.png", "b.png"]},
        {"id": 3, "type": "count_change", "ori_img": "a.png", "gt_img": "truth.png"},
        {"id": 4, "type": "anomaly_correction", "ori_img": "a.png"},
    ]
    rubrics = kris.RUBRICS | {"quality.count_change": "count them {instruct}: {explanation}"}
    found = kris_questions(tmp_path, rows, rubrics)
    seen = found[1, "instruction"]
    assert [p.name for p in seen.pictures] == ["a.png", "made.png", "truth.png"]
    assert len(seen.labels) == 3 and "should look like" in seen.labels[2]
    assert "third" in seen.words and len(found[1, "consistency"].pictures) == 2
    assert [p.name for p in found[2, "consistency"].pictures] == ["a.png", "b.png", "made.png"]
    assert found[2, "consistency"].labels[1] == "Picture 2 before the edit:"
    assert "all pictures but the last" in found[2, "instruction"].words.lower()
    assert found[3, "instruction"].labels == ("Before the edit:", "After the edit:")
    assert found[3, "quality"].words == "count them do it: why"  # the official words' names too
    assert "why" in found[4, "instruction"].words


def test_kris_shows_a_predicted_frame_at_its_place(tmp_path):
    frames = {"middle": ["7-1.png", "7-2.png", "7-4.png"], "last": ["8-1.png", "8-2.png"]}
    frames |= {"unnumbered": ["a.png", "b.png", "c.png"]}
    rows = [
        {"id": name, "type": "temporal_prediction", "ori_img": given}
        for name, given in frames.items()
    ]
    found = kris_questions(
        tmp_path, rows, kris.RUBRICS | {"consistency.temporal_prediction": "{N}"}
    )
    seen = found["middle", "instruction"]
    assert [p.name for p in seen.pictures] == ["7-1.png", "7-2.png", "made.png", "7-4.png"]
    assert seen.labels[2] == "Frame 3 (drawn):" and seen.labels[3] == "Frame 4 (given):"
    assert "frame 3 was drawn" in seen.words and found["middle", "consistency"].words == "3"
    assert found["middle", "quality"].pictures == (tmp_path / "made.png",)
    assert found["last", "instruction"].labels[-1] == "Frame 3 (drawn):"
    assert found["unnumbered", "instruction"].labels[-1] == "Frame 4 (drawn):"


def test_a_picture_drawn_anew_loses_its_verdict(sets, tmp_path):
    report = run("wise", sets, tmp_path)
    answers = tmp_path / "answers_exact_program.jsonl"
    before = answers.read_text()
    assert run("wise", sets, tmp_path)["scores"] == report["scores"]
    assert answers.read_text() == before  # nothing is asked twice
    picture = sorted((tmp_path / "images").glob("*.png"))[0]
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(picture)
    again = run("wise", sets, tmp_path)
    assert again["scores"]["overall"]["value"] < report["scores"]["overall"]["value"]
    assert len(answers.read_text().splitlines()) == len(before.splitlines()) + 1


def test_another_preset_or_setting_is_refused_and_the_report_says_which(sets, tmp_path):
    report = run("wise", sets, tmp_path, None, "--preset", "t2i")
    assert report["facts"]["preset"] == "t2i" and report["protocol"]
    assert "ours, not the official words" in report["facts"]["rubrics"]
    with pytest.raises(ValueError, match=r"drawn\.jsonl belongs to .* another folder"):
        run("wise", sets, tmp_path, None, "--preset", "think_t2i")
    with pytest.raises(ValueError, match="not both"):
        run("wise", sets, tmp_path, None, "--preset", "t2i", "--mode", "plan")
    with pytest.raises(ValueError, match="--preset edit: template 'edit' needs an image"):
        run("wise", sets, tmp_path / "other", None, "--preset", "edit")


def test_processes_share_drawing_and_judging(sets, tmp_path, monkeypatch):
    alone = run("wise", sets, tmp_path / "alone")
    monkeypatch.setattr(benchmark.pod, "gather", lambda name, value, timeout=0: [value])
    monkeypatch.setattr(benchmark.pod, "ending_together", contextlib.nullcontext)
    monkeypatch.setattr(benchmark.jax, "process_count", lambda: 2)
    items = SUITES["wise"].load(sets / "wise.json")
    painters = {1: Painter(items), 0: Painter(items)}
    out = tmp_path / "shared"
    for number in (1, 0, 1, 0):  # one after the other: whoever was first has not seen all pictures
        monkeypatch.setattr(benchmark.jax, "process_index", lambda number=number: number)
        out.mkdir(exist_ok=True)
        (out / "report.json").write_text("{}")
        report = run("wise", sets, out, painters[number])
    assert report["scores"] == alone["scores"] and report["coverage"] == alone["coverage"]
    assert 0 < painters[0].drawn < len(items)
    assert painters[0].drawn + painters[1].drawn == len(items)
    rows = [len(p.read_text().splitlines()) - 1 for p in out.glob("answers_*.jsonl")]
    assert sum(rows) == len(items) and len(rows) == 2


def test_preset_list_needs_nothing_else(capsys):
    with pytest.raises(SystemExit) as ended:
        benchmark.parser().parse_args(["--preset", "list"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert "unireason_wise_refine" in shown and "gen_images_mp_wise_refine.py" in shown
