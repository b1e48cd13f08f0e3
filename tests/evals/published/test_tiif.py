"""TIIF's published answers give the published figure: by question, type, group and length."""

import json

import pytest

from unireason_jax import benchmark
from unireason_jax.evals.published import tiif

TYPES = {"negation+2d": 2, "comparison+3d": 1, "style": 1}


@pytest.fixture
def prompts(tmp_path):
    """The benchmark's two folders of files, one a type."""
    folder = tmp_path / "prompts"
    folder.mkdir()
    for kind, lines in TYPES.items():
        told = [{"type": kind, "short_description": "s", "long_description": "l"}] * lines
        asked = [
            {"type": kind, "yn_question_list": ["a?", "b?"], "yn_answer_list": ["yes", "no"]}
        ] * lines
        for name, rows in ((f"{kind}_prompts", told), (f"{kind}_eval_prompts", asked)):
            (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def publish(folder, kind, length, line, given, right=("yes", "no")):
    """One file of `eval-results`."""
    file = folder / kind / length / f"{line}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"gt_answers": right, "model_pred": given, "model_output": ""}))


@pytest.mark.parametrize("suffix", ["", "_description"])
def test_published_answers_are_scored_by_the_formula(prompts, tmp_path, suffix, capsys):
    """Questions count alike in a type, types in a group, groups in the whole; absent ones: no."""
    answers = tmp_path / "Model"
    publish(answers, "negation+2d", "short" + suffix, 0, ["Yes", "no"])
    publish(answers, "negation+2d", "short" + suffix, 1, ["yes", "yes"])
    publish(answers, "comparison+3d", "short" + suffix, 0, ["no", "yes"])
    publish(answers, "style", "long" + suffix, 0, ["yes", "no"])
    flags = ["--prompts", str(prompts), "--out", str(tmp_path / "out"), "--detections"]
    benchmark.main(["--suite", "tiif", *flags, str(answers)])
    found = json.loads((tmp_path / "out/report.json").read_text())
    assert "overall, short" in capsys.readouterr().out
    scores = tiif.aggregate(tiif.measured(answers, tiif.load(prompts)))
    assert scores["overall, short"] == scores["short, group relation+reasoning"] == (75 + 0) / 2
    assert scores["overall, long"] == 100
    assert found["scores"]["overall, short"]["value"] == 37.5


def test_answers_that_belong_elsewhere_are_named(prompts, tmp_path):
    """No folder, a folder above, other questions, words that are neither, lists cut short."""
    items, answers = tiif.load(prompts), tmp_path / "Model"
    with pytest.raises(FileNotFoundError, match="Model: no such folder"):
        tiif.measured(answers, items)
    publish(answers, "style", "short", 0, ["yes", "no"])
    with pytest.raises(ValueError, match="give a model's folder"):
        tiif.measured(tmp_path, items)
    for given, right, said in (
        (["yes", "no"], ["no", "no"], "other questions"),
        (["yes", "maybe"], ["yes", "no"], "'maybe' is neither"),
        (["yes"], ["yes", "no"], "1 answers in model_pred, 2 in gt_answers"),
    ):
        publish(answers, "style", "short", 0, given, right)
        with pytest.raises(ValueError, match=said):
            tiif.measured(answers, items)
