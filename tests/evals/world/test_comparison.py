"""The analysis of an ablation, on verdicts whose differences are known."""

import json

import numpy as np
import pytest

from unireason_jax.evals.rates import mean_difference, mean_over_runs
from unireason_jax.evals.world import comparison

N = 40


def outcomes(rates, seed=0):
    """Verdicts of one seed: knowledge by mode, in two domains, at the given rates."""
    rng = np.random.default_rng(seed)
    luck = {domain: rng.random(N) for domain in ("cultural", "logical")}
    return {
        f"knowledge, {mode}": {d: [int(x < rate) for x in values] for d, values in luck.items()}
        for mode, rate in rates.items()
    }


BASE = outcomes({"prompt only": 0.2})
BETTER = outcomes({"prompt only": 0.5, "with plan": 0.5, "plan + refinement": 0.1})
ROWS = {
    "base": ([BASE], "prompt only"),
    "two-stage": ([BETTER], "prompt only"),
    "+ reasoning": ([BETTER], "with plan"),
    "+ refinement": ([BETTER], "plan + refinement"),
}


def test_an_order_is_called_what_it_is():
    claims = [
        ("knowledge", "base", "two-stage"),
        ("knowledge", "two-stage", "+ reasoning"),
        ("knowledge", "+ reasoning", "+ refinement"),
        ("knowledge", "base", "nobody"),
        ("held-out prompts", "base", "two-stage"),
    ]
    found = comparison.compare_rows(claims, ROWS)
    assert [claim.verdict for claim in found] == [
        "comes out",
        "does NOT come out",
        "REVERSED",
        "not measured",
        "not measured",
    ]
    exact = np.mean([np.mean(BETTER["knowledge, prompt only"][d]) for d in ("cultural", "logical")])
    exact -= np.mean([np.mean(BASE["knowledge, prompt only"][d]) for d in ("cultural", "logical")])
    assert found[0].difference.value == pytest.approx(exact)
    assert found[1].difference.value == 0 > found[1].difference.low


def test_pairing_makes_small_differences_visible():
    one = [{"a": [0] * 50 + [1] * 50}]
    two = [{"a": [0] * 40 + [1] * 60}]  # the same prompts right, and ten more
    paired = mean_difference(two, one)
    assert paired.value == pytest.approx(0.1) and paired.low > 0
    unpaired = mean_difference([{"a": two[0]["a"][::-1]}], one)
    assert unpaired.value == pytest.approx(0.1) and unpaired.low < 0


def test_no_difference_in_few_prompts_is_no_proof_of_none():
    few, many = ([{"a": [0, 1] * half, "b": [1] * half}] for half in (10, 1000))
    narrow, wide = mean_difference(many, many), mean_difference(few, few)
    assert narrow.value == wide.value == 0 and (narrow.count, wide.count) == (3000, 30)
    assert -0.002 < narrow.low < 0 < narrow.high < 0.002
    assert wide.low < -0.1 and wide.high == -wide.low


def test_more_seeds_do_not_pretend_to_be_more_prompts():
    single = mean_over_runs([{"a": [0, 1] * 20}])
    many = mean_over_runs([{"a": [0, 1] * 20}] * 9)
    assert (many.low, many.high, many.count) == (single.low, single.high, 40)
    assert mean_over_runs([{"a": [1, 1]}, {"a": [1, 1]}]).low < 1  # Wilson where nothing varies
    with pytest.raises(ValueError, match="same prompts"):
        mean_over_runs([{"a": [1]}, {"a": [1, 0]}])


def test_the_report_states_order_controls_and_gain(tmp_path):
    ways = {"single draft": 0.3, "refined": 0.5, "best of k, exact judge": 0.8}
    control = {
        name.replace("knowledge", "equal compute"): groups
        for name, groups in outcomes(ways).items()
    }
    control |= {
        name.replace("knowledge", "held-out prompts"): groups
        for name, groups in outcomes({"round 0": 0.3, "round 1": 0.5}).items()
    }
    rows = ROWS | {"base": ([BASE, outcomes({"prompt only": 0.3}, 1)], "prompt only")}
    report = comparison.report(
        rows,
        [("knowledge", "base", "two-stage")],
        [control],
        {},
        measures=("held-out prompts", "knowledge"),
        title="Does reasoning help?",
        note="",
    )
    folder = report.write(tmp_path)
    text = (folder / "report.md").read_text()
    assert "knowledge: base < two-stage comes out" in text and "2 training seed(s)" in text
    sections = json.loads((folder / "report.json").read_text())["sections"]
    equal = sections["refinement_against_resampling_at_equal_compute"]["rows"]
    assert list(equal) == list(ways)
    gain = sections["gain_by_round"]["rows"]
    assert gain["after round 1"]["rate"]["value"] > gain["after round 0"]["rate"]["value"]
    assert set(sections["seeds"]["rows"]["base"]) == {"seed 0", "seed 1"}
    assert (folder / "chart.png").exists()


def test_curves_are_drawn_from_metrics(tmp_path):
    rows = [{"step": s, "loss/flow": 2 - s / 10, "loss/ce": 1.0} for s in range(5)]
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"step": 5, "eval/x": 1}]))
    comparison.draw_curves({"a": path, "b": path}, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 2000
    with pytest.raises(FileNotFoundError, match="evaluate"):
        comparison.read_outcomes(tmp_path)
