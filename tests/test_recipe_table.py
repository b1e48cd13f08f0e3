"""The table of recipes by hardware: what is estimated, what is compiled, and what a cell says."""

import json

import pytest

from launch import recipe_table
from unireason_jax.compilation import check, remedies
from unireason_jax.run import configuration

GIB = 1 << 30
SMALL = {
    "model.llm.layers": 1,
    "model.vit_tower": False,
    "data.budgets": {"text": 128, "vit": 0, "latent": 64},
    "data.rows": 16,
}


@pytest.fixture
def eight(monkeypatch, tmp_path):
    """One recipe on eight CPU devices with as much memory as a test says; reports in a folder."""
    monkeypatch.setattr(recipe_table, "RECIPES", {"tiny": dict(SMALL)})
    monkeypatch.setattr(recipe_table, "HARDWARE", {"8 CPUs": "cpu:8"})
    monkeypatch.setattr(recipe_table, "REPORTS", tmp_path)
    monkeypatch.setattr(recipe_table, "capacity", lambda hardware: 1.0)
    return lambda gib: monkeypatch.setattr(recipe_table, "capacity", lambda hardware: gib)


def report(peak, tokens, kept, **more):
    found = {"recipe": "other", "hardware": "8 CPUs", "variant": "nano", "overrides": {}}
    memory = {"peak_gib": peak, "capacity_gib": 1.0}
    return found | {"memory": memory, "tokens_at_once": tokens, "kept_gib": kept} | more


def test_an_estimate_is_what_a_run_keeps_and_a_line_through_what_is_compiled(eight):
    run = recipe_table.run_of("tiny", "8 CPUs", {})
    kept, tokens = remedies.kept(run) / GIB, recipe_table.tokens_at_once(run)
    assert tokens == 2 * 192
    assert recipe_table.estimate(run, []) is None
    assert recipe_table.estimate(run, [report(9.0, 1, 1.0, variant="janus_nano")]) is None
    # One cell: in proportion. Two: the line through both. Three: none of them lies above it.
    one = report(2.5, tokens / 2, 0.5)
    assert recipe_table.estimate(run, [one]) == pytest.approx(kept + 4.0)
    two = [one, report(4.5, 3 * tokens / 2, 0.5)]
    assert recipe_table.estimate(run, two) == pytest.approx(kept + 3.0)
    three = [*two, report(4.0, tokens, 0.5)]
    assert recipe_table.estimate(run, three) == pytest.approx(kept + 3.5)


def test_a_cell_that_does_not_fit_names_the_smallest_change_that_does(eight):
    run = recipe_table.run_of("tiny", "8 CPUs", {})
    tokens = recipe_table.tokens_at_once(run)
    known = [report(4.0, tokens, 0.0)]
    eight(8.0)
    (size,) = recipe_table.sizes("tiny", "8 CPUs", known)
    assert size.fits and size.decided and not size.compiled and size.overrides == {}
    assert recipe_table.cell_text([size]) == "4"
    eight(4.2)
    (size,) = recipe_table.sizes("tiny", "8 CPUs", known)
    assert not size.decided and recipe_table.cell_text([size]) == "4 ?"
    eight(3.0)
    first, second = recipe_table.sizes("tiny", "8 CPUs", known)
    assert not first.fits and second.fits
    assert second.overrides == {"train.microbatches": 2}
    assert recipe_table.cell_text([first, second]) == "4 ✗; microbatches 2: 2"
    # What is in doubt comes before what is not, and what is compiled does not come again.
    eight(2.4)
    (near, _, _, overrides), (far, *_) = recipe_table.pending(known)
    assert near < far and overrides == {"train.microbatches": 2}
    told = report(1.9, tokens / 2, 0.0, recipe="tiny", overrides=overrides)
    told["memory"]["capacity_gib"] = 2.4
    assert [row[3] for row in recipe_table.pending([*known, told])] == [{}]
    # A change that turned out not to be enough makes room for the next.
    told["memory"]["capacity_gib"] = 1.8
    left = [row[3] for row in recipe_table.pending([*known, told])]
    assert len(left) == 2 and {} in left and overrides not in left


def test_rows_that_cannot_be_divided_are_the_first_change(eight):
    recipe_table.RECIPES["tiny"]["data.rows"] = 9
    with pytest.raises(configuration.ConfigError, match=r"data\.rows=16, or"):
        recipe_table.run_of("tiny", "8 CPUs", {}).mesh  # noqa: B018
    assert recipe_table.needed_rows("tiny", "8 CPUs") == {"data.rows": 16}
    eight(8.0)
    (size,) = recipe_table.sizes("tiny", "8 CPUs", [report(4.0, 384.0, 0.0)])
    assert recipe_table.cell_text([size]) == "rows 16: 4"


def test_what_is_compiled_is_kept_and_counts_instead_of_an_estimate(eight, monkeypatch):
    def compiled(config, where, *, name, quick):
        assert quick
        return {"memory": {"peak_gib": 7.25, "capacity_gib": 8.0}, "program": name}

    monkeypatch.setattr(check, "check", compiled)
    eight(8.0)
    path = recipe_table.compile_cell("tiny", "8 CPUs", {})
    assert path.name == "tiny_cpu_8.json" and json.loads(path.read_text())["variant"] == "nano"
    known = recipe_table.reports()
    assert recipe_table.pending(known) == []
    assert recipe_table.table(known).splitlines()[-1] == "| 8 CPUs, 8.0 | **7.2** |"


def test_recipes_that_share_a_row_are_one_program():
    """A title names two recipes where only data, steps and rates differ."""
    one, two = (configuration.load(f"configs/irg_stage{n}.py") for n in (1, 2))
    one, two = configuration.leaves(one), configuration.leaves(two)
    different = {key for key in one.keys() | two.keys() if one.get(key) != two.get(key)}
    assert {key.partition(".")[0] for key in different} <= {
        "init_from", "init_which", "data", "optim", "train"
    }  # fmt: skip
    shapes = ("data.budgets", "data.rows", "train.micro", "optim.freeze", "optim.ema", "optim.mu")
    assert not [key for key in different if key.startswith(shapes)]
