"""Published judges by name: how they are asked, how they are read, and what the report says."""

import json
import math
import shutil
from pathlib import Path

import pytest
from PIL import Image

from unireason_jax import benchmark
from unireason_jax.endpoints.loopback import Loopback, completion
from unireason_jax.evals.published import SUITES, gedit, judges
from unireason_jax.evals.published.base import Item, Malformed, Question, Scored

ELSEWHERE = Path("elsewhere")


@pytest.fixture
def serve():
    servers = []

    def start(answer):
        servers.append(Loopback(answer))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def test_every_preset_judges_suites_that_exist_and_tells_what_is_ours():
    for name, preset in judges.JUDGES.items():
        assert set(preset.suites) <= set(SUITES) and preset.source and preset.ours, name
    judged = {suite for preset in judges.JUDGES.values() for suite in preset.suites}
    assert set(SUITES) - judged == {"geneval", "dpg", "compbench"}  # no chat model is their judge


def test_list_shows_all_of_them(capsys):
    with pytest.raises(SystemExit) as ended:
        benchmark.parser().parse_args(["--judge_preset", "list"])
    shown = capsys.readouterr().out
    assert ended.value.code == 0 and all(f"{name}: " in shown for name in judges.JUDGES)
    assert "VectorSpaceLab/EditScore" in shown and "ours: " in shown


def test_viescore_judges_rate_up_to_25_and_gedit_still_reads_10():
    suite = judges.asked(gedit.SUITE, judges.find("editscore", "gedit"), None)
    assert all("0 to 25" in words and "10" not in words for words in suite.rubrics.values())
    item = Item("t/en/k", "p", (), {"task_type": "t", "instruction_language": "en"})
    answers = {
        "semantics": '{"reasoning": "r", "score": [20, 15]}',
        "quality": '{"score": [25, 10]}',
    }
    read = {s: suite.read(Question("k", s, "", (), item), a) for s, a in answers.items()}
    assert read == {"semantics": {"semantics": 6.0}, "quality": {"quality": 4.0}}
    found = suite.aggregate([Scored(item, "x", read)])
    assert found["O, en"] == pytest.approx(math.sqrt(24))
    for wrong in ('{"score": [26, 1]}', '{"score": 20}', "fine"):
        with pytest.raises(Malformed):
            suite.read(Question("k", "quality", "", (), item), wrong)


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ('{"winner": "A"}', 1),
        ('```json\n{"reason": "r", "winner": "Image B"}\n```', 0),
        ("<think>A?</think>Tie.", 0.5),
        ("image_a", 1),
        ("Picture B", 0),
        ('{"winner": "both"}', 0.5),
        ('{"better": "A"}', None),
        ("the first", None),
    ],
)
def test_the_winner_of_a_pair(answer, score):
    suite = judges.asked(SUITES["imgedit"], judges.find("pvc-judge", "imgedit"), ELSEWHERE)
    question = Question("k", "first", "", (), Item("1", "p", (), {"edit_type": "add"}))
    if score is None:
        with pytest.raises(Malformed):
            suite.read(question, answer)
        return
    assert suite.read(question, answer) == {"first": score}
    other = Question("k", "second", "", (), question.item)  # the other picture is A now
    assert suite.read(other, answer) == {"second": 1 - score}


def test_a_win_rate_is_the_mean_of_both_orders_and_of_the_groups():
    suite = judges.asked(SUITES["imgedit"], judges.find("pvc-judge", "imgedit"), ELSEWHERE)

    def image(kind, first, second):
        item = Item(f"{kind}{first}{second}", "p", (), {"edit_type": kind})
        return Scored(item, item.id, {"first": {"first": first}, "second": {"second": second}})

    found = suite.aggregate([image("add", 1, 1), image("add", 1, 0), image("style", 0.5, 0)])
    assert found["win rate, add"] == 0.75 and found["win rate, style"] == 0.25
    assert found["win rate, mean of groups"] == 0.5
    assert found["win rate, mean of images"] == pytest.approx((1 + 0.5 + 0.25) / 3)
    assert found["the order decides"] == pytest.approx(1 / 3)


@pytest.fixture
def edits(tmp_path):
    """Two results of an ImgEdit item, in the folders of two runs."""
    rows = {"1": {"id": "a.png", "prompt": "make it red", "edit_type": "add"}}
    (tmp_path / "edits.json").write_text(json.dumps(rows))
    for name, level in {"a.png": 0, "ours/images/1.png": 100, "theirs/images/1.png": 200}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (level, 0, 0)).save(tmp_path / name)
    return tmp_path


def run(suite, prompts, out, *more):
    flags = ["--suite", suite, "--prompts", str(prompts), "--out", str(out), *more]
    benchmark.run(benchmark.parser().parse_args(flags))
    return json.loads((out / "report.json").read_text())


def test_pairs_are_asked_in_both_orders_and_the_report_says_against_whom(edits, serve):
    asked = []

    def answer(path, body):
        asked.append(body)
        return completion('{"winner": "A"}')

    flags = ["--judge_preset", "pvc-judge", "--judge_url", serve(answer).url]
    prompts, ours = edits / "edits.json", edits / "ours"
    report = run("imgedit", prompts, ours, *flags, "--against", str(edits / "theirs"))
    scores = report["scores"]
    assert scores["win rate, mean of images"]["value"] == 0.5
    assert scores["the order decides"]["value"] == 1  # this judge always says A
    assert len(asked) == 2 and asked[0]["model"] == "PVC-Judge" and asked[0]["seed"] == 42
    urls = [
        [part["image_url"]["url"] for part in body["messages"][0]["content"] if "image_url" in part]
        for body in asked
    ]
    assert urls[0] != urls[1] and sorted(urls[0]) == sorted(urls[1]) and len(urls[0]) == 3
    assert all(score["protocol"] == report["protocol"] != "" for score in scores.values())
    text = (ours / "report.md").read_text()
    assert "pvc-judge; ours: " in text and "theirs" in text
    assert f"| {report['protocol']} |" in text.splitlines()[-1]
    shutil.copytree(edits / "theirs", edits / "others")
    other = run("imgedit", prompts, ours, *flags, "--against", str(edits / "others"))
    assert other["protocol"] != report["protocol"]
    assert len(asked) == 2  # the same pictures: answers of the cache
    assert len(list(ours.glob("answers_*.jsonl"))) == 2
    with pytest.raises(ValueError, match=r"give --against DIR"):
        run("imgedit", prompts, ours, *flags)
    (edits / "theirs" / "images" / "1.png").unlink()
    with pytest.raises(ValueError, match=r"--against: .*1\.png is missing"):
        run("imgedit", prompts, ours, *flags, "--against", str(edits / "theirs"))


ATOMS = {"prompt": "two cows", "atom_count": 2, "skills": ["count", "object"]}
ATOMS |= {"vqa_list": [["How many cows?", "two"], ["Any cows?", "Yes"]]}


@pytest.mark.parametrize("tells", [True, False])
def test_geneval2_takes_probabilities_where_the_endpoint_tells_them(tells, tmp_path, serve):
    (tmp_path / "g.jsonl").write_text(json.dumps(ATOMS))
    (tmp_path / "out" / "images").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "out" / "images" / "00000.png")
    bodies = []

    def answer(path, body):
        bodies.append(body)
        count = "How many" in body["messages"][0]["content"][0]["text"]
        found = completion("two" if count else "Yes")
        if tells:
            tokens = {"two": 0.5, "2": 0.14, "three": 0.3} if count else {"Yes": 0.81, "No": 0.19}
            rows = [{"token": t, "logprob": math.log(p)} for t, p in tokens.items()]
            found["choices"][0]["logprobs"] = {"content": [{"top_logprobs": rows}]}
        return found

    flags = ["--judge_preset", "qwen3-vl-8b", "--judge_url", serve(answer).url]
    scores = run("geneval2", tmp_path / "g.jsonl", tmp_path / "out", *flags)["scores"]
    assert all(body["logprobs"] and body["top_logprobs"] == 20 for body in bodies)
    gm = 100 * math.sqrt(0.64 * 0.81) if tells else 100
    assert scores["Soft-TIFA GM"]["value"] == pytest.approx(gm)
    assert scores["answers with probabilities"]["value"] == 100 * tells


def test_another_judge_preset_is_another_folder(edits, serve):
    server = serve(lambda path, body: completion('{"winner": "A"}'))
    prompts, flags = edits / "edits.json", ["--judge_url", server.url, "--judge_model", "m"]
    run("imgedit", prompts, edits / "ours", *flags)
    with pytest.raises(ValueError, match="give another folder"):
        run("imgedit", prompts, edits / "ours", *flags, "--judge_preset", "gpt-4o-2024-11-20")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--judge_preset", "editscores"], "did you mean 'editscore'"),
        (["--judge_preset", "editscore"], "judges gedit, not imgedit; for that there is pvc-judge"),
        (["--judge_preset", "pvc-judge", "--against", "x"], "--judge_preset needs --judge_url"),
        (["--judge_preset", "gpt-4o-2024-11-20", "--against", "x"], "rates pictures"),
        (["--against", "x"], "--against needs a --judge_preset that compares pairs"),
    ],
)
def test_wrong_flags_of_judges(more, said, edits):
    with pytest.raises(ValueError) as error:
        run("imgedit", edits / "edits.json", edits / "ours", *more)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_a_broken_picture_costs_no_call(edits, serve):
    server = serve(lambda path, body: completion("x"))
    (edits / "ours" / "images" / "1.png").write_bytes(b"no picture")
    flags = ["--judge_url", server.url, "--judge_model", "m"]
    report = run("imgedit", edits / "edits.json", edits / "ours", *flags)
    assert report["coverage"]["missing"] == {"unreadable image": 1} and not server.calls
