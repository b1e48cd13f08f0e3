"""Prompt file to report with the program judge: layouts, scores of known pictures, kill -9."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.evals.published.painter import Painter
from unireason_jax import benchmark
from unireason_jax.evals.published import SUITES, geneval, world_judge, world_sets
from unireason_jax.evals.published.base import Question
from unireason_jax.world.prompts import TAGS

COUNTS = dict.fromkeys(world_sets.COUNTS, 1) | {"tiif": 6, "dpg": 3, "geneval": 2, "wise": 2}
FILES = {
    "wise": "wise.json",
    "wise_legacy": "wise.json",
    "geneval": "geneval.jsonl",
    "kris": "kris.json",
    "uniredit": "uniredit.json",
    "gedit": "gedit.jsonl",
    "imgedit": "imgedit.json",
    "dpg": "dpg.csv",
    "tiif": "tiif.jsonl",
}
BEST = {
    "wise": 1,
    "wise_legacy": 1,
    "geneval": 1,
    "kris": 100,
    "uniredit": 100,
    "gedit": 10,
    "imgedit": 5,
    "dpg": 100,
    "tiif": 100,
}
LAYOUT = {
    "wise": "1.png",
    "geneval": "00000/samples/00003.png",
    "kris": "count_change/0000.png",
    "uniredit": "add/0.png",
    "gedit": "fullset/add/en/edit_0000.png",
    "imgedit": "edit_0000.png",
    "dpg": "t2i-1-0.png",
    "tiif": "single_object/model/short_description/0.png",
}


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    world_sets.write(folder, 1, counts=COUNTS)
    return folder


def run(suite, sets, out, painter=None, *more):
    prompts = sets / FILES[suite]
    flags = ["--suite", suite, "--prompts", str(prompts), "--out", str(out), "--judge", "program"]
    arguments = benchmark.parser().parse_args([*flags, "--checkpoint", "x", *more])
    items = SUITES[suite].load(prompts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmark, "from_flags", lambda _: painter or Painter(items))
        patch.setattr(benchmark, "told", lambda arguments: arguments.checkpoint)
        benchmark.run(arguments)
    return json.loads((out / "report.json").read_text())


@pytest.mark.parametrize("suite", FILES)
def test_right_pictures_get_the_best_score_in_the_official_layout(suite, sets, tmp_path):
    report = run(suite, sets, tmp_path)
    name, headline = next(iter(report["scores"].items()))
    assert headline["value"] == pytest.approx(BEST[suite]), name
    assert report["coverage"]["scored"] == report["coverage"]["images"] > 0
    if suite in LAYOUT:
        assert (tmp_path / "images" / LAYOUT[suite]).is_file()
    assert not list(tmp_path.rglob("*.part"))
    if suite == "geneval":
        row = json.loads((tmp_path / "images" / "00000" / "metadata.jsonl").read_text())
        assert row["tag"] == "single_object"


def test_wrong_pictures_cost_what_the_formula_says(sets, tmp_path):
    items = SUITES["wise"].load(sets / "wise.json")
    report = run("wise", sets, tmp_path, Painter(items, wrong=2))
    assert report["scores"]["overall"]["value"] == 0.5
    low, high = report["scores"]["overall"]["interval"]
    assert low <= 0.5 <= high


def test_images_of_another_model_or_mode_are_not_taken(sets, tmp_path):
    run("wise", sets, tmp_path)
    for more in (["--mode", "plan"], ["--checkpoint", "y"]):
        with pytest.raises(ValueError, match=r"drawn\.jsonl belongs to .* another folder"):
            run("wise", sets, tmp_path, None, *more)


def test_killed_while_drawing_and_while_judging_it_ends_the_same(sets, tmp_path):
    def command(out, seconds):
        words = [sys.executable, "-m", "tests.evals.published.painter", "3", str(seconds)]
        words += ["--suite", "kris", "--prompts", str(sets / "kris.json"), "--out", str(out)]
        return [*words, "--checkpoint", "x", "--judge", "program", "--workers", "1", "--batch", "1"]

    def killed_when(found):
        process = subprocess.Popen(command(tmp_path / "killed", 0.15), stderr=subprocess.DEVNULL)
        while not found():
            assert process.poll() is None, "it ended before it was killed"
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()

    images = tmp_path / "killed" / "images"
    answers = tmp_path / "killed" / "answers_exact_program.jsonl"
    whole = "[!.]*.png"  # not those that are still being written
    killed_when(lambda: len(list(images.rglob(whole))) >= 2)
    drawn = {p: p.stat().st_mtime_ns for p in images.rglob(whole)}
    assert 2 <= len(drawn) < 9
    killed_when(lambda: answers.exists() and len(answers.read_text().splitlines()) >= 5)
    answered = answers.read_text().splitlines()
    assert len(answered) < 28
    subprocess.run(command(tmp_path / "killed", 0.0), check=True, stdout=subprocess.DEVNULL)
    assert all(path.stat().st_mtime_ns == when for path, when in drawn.items())
    assert answers.read_text().splitlines()[: len(answered)] == answered
    subprocess.run(command(tmp_path / "whole", 0.0), check=True, stdout=subprocess.DEVNULL)
    reports = [json.loads((tmp_path / n / "report.json").read_text()) for n in ("killed", "whole")]
    assert reports[0]["scores"] == reports[1]["scores"]
    assert reports[0]["scores"]["overall, mean of samples"]["value"] < 100


def test_the_sets_are_the_same_everywhere_and_their_version_is_pinned(sets, tmp_path):
    world_sets.write(tmp_path / "again", 1, counts=COUNTS)
    first, second = (
        json.loads((folder / "manifest.json").read_text()) for folder in (sets, tmp_path / "again")
    )
    assert first == second
    # a change of contents needs another VERSION
    assert (first["version"], first["key"]) == (3, "43edde2114fe9eb7")
    for name in FILES.values():
        assert name in first["sha256"]
    world_sets.write(tmp_path / "other", 2, counts=COUNTS)
    assert json.loads((tmp_path / "other" / "manifest.json").read_text())["key"] != first["key"]


def test_raw_sets_can_be_read_as_records(sets):
    from unireason_jax.data.sources import JsonSource

    for name in ("refinement", "process", "vqa"):
        source = JsonSource(sets / f"{name}.jsonl")
        assert all(source[i].segments for i in range(len(source)))


def test_detections_of_a_file(sets, tmp_path):
    items = SUITES["geneval"].load(sets / "geneval.jsonl")
    painter, found = Painter(items), {}
    for item in items[1:]:
        for sample, place in enumerate(geneval.places(item)):
            question = Question("k", "objects", "", (painter.truth(item, sample),), item)
            found[place] = json.loads(world_judge.ProgramJudge("geneval")(question, 0).text)
    (tmp_path / "seen.json").write_text(json.dumps(found))
    flags = ["--suite", "geneval", "--prompts", str(sets / "geneval.jsonl")]
    flags += ["--out", str(tmp_path / "out"), "--detections", str(tmp_path / "seen.json")]
    benchmark.run(benchmark.parser().parse_args(flags))
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["scores"]["overall, mean of tags"]["value"] == 1.0
    assert report["coverage"] == {
        "images": 4 * 2 * len(TAGS),
        "scored": 4 * (2 * len(TAGS) - 1),
        "missing": {"no detections": 4},
    }


@pytest.mark.parametrize(
    ("suite", "content", "message"),
    [
        ("wise", '[{"Prompt": "a", "prompt_id": 1}]', "item 0: field 'Explanation' is None"),
        ("wise", "[]", "at least one"),
        ("wise", "{", "not JSON"),
        ("kris", '[{"type": "colour"}]', "unknown type 'colour'"),
        ("imgedit", '{"1": {"id": "no.png", "prompt": "a", "edit_type": "add"}}', "no.png"),
        (
            "tiif",
            '[{"type": "a", "yn_question_list": ["q"], "yn_answer_list": ["yes", "no"]}]',
            "1 questions, 2",
        ),
        ("dpg", "item_id,text\n1,a\n", "column 'proposition_id'"),
    ],
)
def test_a_wrong_prompt_file_is_named(suite, content, message, tmp_path):
    path = tmp_path / "prompts.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=message) as error:
        SUITES[suite].load(path)
    assert "prompts.json" in str(error.value)


def test_ids_must_be_unique_and_flags_complete(sets, tmp_path):
    rows = json.loads((sets / "wise.json").read_text())
    (tmp_path / "twice.json").write_text(json.dumps([rows[0], rows[0]]))
    with pytest.raises(ValueError, match="twice"):
        SUITES["wise"].load(tmp_path / "twice.json")
    with pytest.raises(ValueError, match="--suite NAME"):
        benchmark.run(benchmark.parser().parse_args([]))
    flags = ["--suite", "wise", "--prompts", str(sets / "wise.json"), "--out", str(tmp_path)]
    with pytest.raises(ValueError, match="--judge_model"):
        benchmark.run(benchmark.parser().parse_args([*flags, "--judge_url", "http://x/v1"]))
    assert Path(sets / "manifest.json").is_file()
