"""What must hold for every suite: kills cost nothing twice, and wrong input is one clear line."""

import collections
import json
import multiprocessing
import signal

import pytest

from tests.evals.published import stand_ins
from tests.evals.published.stand_ins import FILES, child, run
from unireason_jax import benchmark
from unireason_jax.evals.published import SUITES
from unireason_jax.evals.published.base import Malformed, pixels

SERVER = multiprocessing.get_context("forkserver")  # imports once for all children
SERVER.set_forkserver_preload(["tests.evals.published.stand_ins"])


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prompts")
    stand_ins.write_prompts(folder)
    return folder


def killed(*arguments):
    process = SERVER.Process(target=child, args=arguments)
    process.start()
    process.join(120)
    return process.exitcode == -signal.SIGKILL


def test_every_suite_has_a_prompt_file():
    assert set(FILES) == set(SUITES)


@pytest.mark.parametrize("suite", SUITES)
def test_killed_while_drawing_and_while_judging_nothing_is_done_twice(
    suite, prompts, tmp_path, monkeypatch
):
    out, found = tmp_path / "killed", SUITES[suite]
    items = found.load(prompts / FILES[suite])[: stand_ins.LIMIT]
    each = max(found.grid**2, len(found.places(items[0])))  # pictures of an item
    assert killed(suite, prompts, out, each + 1, 0)  # while the second item is drawn
    whole = {p: p.stat().st_mtime_ns for p in (out / "images").rglob("[!.]*.png")}
    assert whole
    assert killed(suite, prompts, out, 0, 2)  # while the second question is on its way
    report = run(monkeypatch.setattr, suite, prompts, out, "--checkpoint", "x")
    assert report["coverage"]["scored"] == report["coverage"]["images"] > 0
    assert all(path.stat().st_mtime_ns == when for path, when in whole.items())

    def counts(name):
        return collections.Counter(out.with_suffix(name).read_text().splitlines())

    drawn, asked = counts(".drawn"), counts(".asked")
    assert len(drawn) == each * len(items) and drawn.most_common(2)[1][1] == 1
    assert asked.most_common(2)[0][1] == 2 and asked.most_common(2)[1][1] == 1
    other = run(monkeypatch.setattr, suite, prompts, tmp_path / "whole", "--checkpoint", "x")
    assert other["scores"] == report["scores"] and other["protocol"] == report["protocol"]
    with pytest.raises(ValueError, match=r"drawn\.jsonl belongs to .* another folder") as error:
        run(monkeypatch.setattr, suite, prompts, out, "--checkpoint", "x", "--mode", "plan")
    assert "\n" not in str(error.value)
    rubrics = tmp_path / "rubrics.json"
    rubrics.write_text(json.dumps({"system": "Be strict."}))
    with pytest.raises(ValueError, match=r"answers_stand_in\.jsonl belongs to .* another folder"):
        run(monkeypatch.setattr, suite, prompts, out, "--rubrics", str(rubrics))


@pytest.mark.parametrize("suite", SUITES)
def test_missing_pictures_are_counted_and_not_scored(suite, prompts, tmp_path, monkeypatch):
    out = tmp_path / "out"
    run(monkeypatch.setattr, suite, prompts, out, "--checkpoint", "x")
    items = SUITES[suite].load(prompts / FILES[suite])[: stand_ins.LIMIT]
    (out / "images" / SUITES[suite].places(items[0])[0]).unlink()
    coverage = run(monkeypatch.setattr, suite, prompts, out)["coverage"]
    assert coverage["missing"] == {"no image": 1}
    assert coverage["scored"] == coverage["images"] - 1
    place = SUITES[suite].places(items[0])[0]
    assert f"missing, no image: 1, the first {place}" in (out / "report.md").read_text()
    for picture in (out / "images").rglob("*.png"):
        picture.unlink()
    report = run(monkeypatch.setattr, suite, prompts, out)
    assert report["coverage"]["scored"] == 0 and report["scores"] == {}
    assert "| score |" not in (out / "report.md").read_text()


@pytest.mark.parametrize("suite", SUITES)
def test_a_judge_of_another_format_is_missing_not_zero(suite, prompts, tmp_path, monkeypatch):
    out, words = tmp_path / "out", "Here is a poem about the picture, line by line."
    report = run(monkeypatch.setattr, suite, prompts, out, "--checkpoint", "x", answer=words)
    coverage = report["coverage"]
    free = {"oneig": 2}.get(suite, 0)  # a text that is read, and one that nobody asks about
    assert coverage["scored"] == free
    assert coverage["missing"] == {"malformed": coverage["images"] - free}
    said = (out / "report.md").read_text()
    assert "missing, malformed: " in said and "Here is a poem" in said  # what the judge answered
    asked = out.with_suffix(".asked").read_text().splitlines()
    again = run(monkeypatch.setattr, suite, prompts, out)  # a judge that answers right, later
    assert again["coverage"]["scored"] == again["coverage"]["images"]
    assert set(out.with_suffix(".asked").read_text().splitlines()) == set(asked)


ODD = ["", "null", "[]", "{}", "5", "-1", "1e999", '{"score": null}', '{"score": [NaN, 1]}', "yes"]
ODD += ['{"score": ["a", 1]}', '{"score": {"a": 1}}', "[null]", "[1, 2]", '[{"class": 1}]', "no"]
ODD += ['{"Yes": "x"}', '{"Yes": null}', "Score: 7", "Final Score: five", "Score: 1/2", "{" * 2000]
ODD += ['{"consistency_score": "high"}', "x: 9\ny: 8\nz: 7", "\x00", "Ä: ½", '[{"score": null}]']
ODD += ['[{"class": "circle", "score": "x", "box": []}]', '{"score": true}', "[" * 2000]


@pytest.mark.parametrize("suite", SUITES)
def test_any_answer_is_a_score_or_malformed(suite, prompts, tmp_path):
    found, picture = SUITES[suite], tmp_path / "x.png"
    for item in found.load(prompts / FILES[suite]):
        for question in found.questions(item, "x.png", picture, found.rubrics):
            for answer in ODD:
                try:
                    scores = found.read(question, answer)
                except Malformed as error:
                    assert "\n" not in str(error)
                else:
                    assert all(value == value and abs(value) < 1e6 for value in scores.values())


@pytest.mark.parametrize("suite", SUITES)
def test_a_broken_picture_is_missing_and_named(suite, prompts, tmp_path, monkeypatch):
    out = tmp_path / "out"
    run(monkeypatch.setattr, suite, prompts, out, "--checkpoint", "x")
    items = SUITES[suite].load(prompts / FILES[suite])[: stand_ins.LIMIT]
    place = SUITES[suite].places(items[0])[0]
    (out / "images" / place).write_bytes(b"no picture")

    class Looking(stand_ins.Judge):
        def __call__(self, question, attempt):
            for picture in question.pictures:
                pixels(picture)
            return super().__call__(question, attempt)

    monkeypatch.setattr(stand_ins, "Judge", Looking)
    report = run(monkeypatch.setattr, suite, prompts, out)
    assert report["coverage"]["missing"] == {"unreadable image": 1}
    assert place in report["missing"][place] and "\n" not in report["missing"][place]


PAIRS = [(one, two) for one in FILES for two in FILES if FILES[one] != FILES[two]]


@pytest.mark.parametrize(("suite", "other"), PAIRS, ids=lambda name: name)
def test_a_prompt_file_of_another_suite_is_one_clear_line(suite, other, prompts):
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        SUITES[suite].load(prompts / FILES[other])
    said = str(error.value)
    assert FILES[other] in said and "\n" not in said and len(said) < 600


@pytest.mark.parametrize(("suite", "other"), [("wise", "kris"), ("tiif", "imgedit")])
def test_a_prompt_file_of_another_suite_is_named_as_what_it_is(suite, other, prompts, tmp_path):
    file = prompts / FILES[other]
    with pytest.raises(SystemExit) as ended:
        benchmark.main(["--suite", suite, "--prompts", str(file), "--out", str(tmp_path / "out")])
    said = str(ended.value)
    assert FILES[other] in said and "\n" not in said
    assert said.endswith(f"It reads as a file of --suite {other}.")


def test_an_unknown_suite_is_one_clear_line(capsys):
    with pytest.raises(SystemExit) as ended:
        benchmark.main(["--suite", "wize", "--prompts", "x", "--out", "y"])
    said = capsys.readouterr().err
    assert ended.value.code == 2 and said.count("\n") == 1
    assert "wize" in said and "oneig" in said


@pytest.mark.parametrize(
    ("flag", "content", "said"),
    [
        ("--detections", "boxes", "not JSON"),
        ("--detections", "[1]", "give an object {image: [detection, ...]}"),
        ("--rubrics", "words", "not a JSON object"),
        ("--rubrics", '{"objects": 3}', "'objects' holds no words"),
        ("--judge_extra", "[1", "not a JSON object"),
    ],
)
def test_wrong_files_of_flags_are_one_clear_line(
    flag, content, said, prompts, tmp_path, monkeypatch
):
    file, out = tmp_path / "given.json", tmp_path / "out"
    file.write_text(content)
    value = content if flag == "--judge_extra" else str(file)
    with pytest.raises(ValueError, match=r"given\.json|--judge_extra") as error:
        run(monkeypatch.setattr, "geneval", prompts, out, "--checkpoint", "x", flag, value)
    assert said in str(error.value) and "\n" not in str(error.value)
