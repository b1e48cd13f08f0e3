"""The model in `notebooks/demo` does what it was trained for, under the exact judge.

The one test here with a model that has learned: what breaks sampling, templates, codec or judge
shows as a rate that falls.
"""

import json

import pytest

from tests.conftest import REPOSITORY
from unireason_jax import evaluate

pytestmark = pytest.mark.slow
NONE = ["--controls", "--pairs", "--questions", "--process", "--hidden", "--flow_batches"]
SOME = {"--prompts": 3, "--knowledge": 2, "--edits": 1, "--drafts": 12, "--seed": 5}


def test_it_draws_its_plans_edits_sees_faults_and_stops(tmp_path):
    sizes = [word for flag, count in SOME.items() for word in (flag, str(count))]
    sizes += [word for flag in NONE for word in (flag, "0")]
    command = ["--checkpoint", str(REPOSITORY / "notebooks" / "demo"), "--out", str(tmp_path)]
    evaluate.main([*command, *sizes])
    report = json.loads((tmp_path / "report.json").read_text())
    rates = {name: cell["value"] for name, cell in report["headline"].items()}
    assert rates["held-out prompts, with plan"] >= 0.9
    assert rates["held-out prompts, plan + refinement"] >= 0.9
    assert rates["held-out prompts, prompt only"] < rates["held-out prompts, with plan"]
    assert rates["knowledge, with plan"] >= 0.8
    assert rates["edits"] >= 0.7
    assert rates["given drafts, before"] + 0.15 < rates["given drafts, after 3 rounds"] >= 0.8
