"""The 7B and 1B train steps, compiled for TPUs until memory is assigned: `make test-tpu`.

Each against what launch/compile_reports/recipes says of it: a change of the model or of the step
that costs memory, sends more or lets an array of tokens x tokens in shows here, without a TPU.
"""

import math

import pytest

from launch import recipe_table
from unireason_jax.compilation import check, topology

pytestmark = pytest.mark.tpu

CELLS = [
    ("unireason_stage2", "v5p-128"),  # rows of 53,610 tokens, weights, moments and an average
    ("irg_stage1", "v5p-16"),
    ("unireason_stage2", "2 x v5p-32"),
    ("process_driven", "v6e-16"),  # two chips a row
    ("own_data", "v5e-64"),  # adapters
    ("uni_edit", "v5e-64"),  # four chips a row, whose tokens they do not divide evenly
    ("janus_finetune", "v4-32"),
]
# What two versions of libtpu make of one program (0.0.42.1 and 0.0.50.1) differs by less.
CLOSE = 0.05


@pytest.mark.parametrize("recipe, hardware", CELLS, ids=map("@".join, CELLS))
def test_a_step_takes_as_much_memory_and_network_as_its_report_says(recipe, hardware):
    (told, *_) = [
        report
        for report in recipe_table.reports()
        if (report["recipe"], report["hardware"]) == (recipe, hardware)
    ]
    overrides = dict(told["overrides"])
    config = recipe_table._config(recipe, hardware, overrides)
    found = check.check(config, recipe_table.HARDWARE[hardware], name=recipe, quick=True)
    assert found["memory"]["peak_gib"] == pytest.approx(told["memory"]["peak_gib"], rel=CLOSE)
    assert found["collectives"]["gib"] == pytest.approx(told["collectives"]["gib"], rel=CLOSE)
    assert found["flops"]["model"] == told["flops"]["model"]
    assert found["flops"]["ratio"] == pytest.approx(told["flops"]["ratio"], rel=CLOSE)
    assert not found["square_buffers"] and not found["warnings"]


def test_what_does_not_fit_is_refused_with_the_way_that_does():
    config = recipe_table._config("unireason_stage1", "v6e-16", {})
    found = check.check(config, "v6e:4x4", name="stage 1", quick=True)
    with pytest.raises(check.DoesNotFit, match=r"stage 1 does not fit on v6e:4x4: .*fits with --"):
        check.require_fit(found)
    assert found["remedies"]


@pytest.mark.parametrize("name", ["v4:2x2x4", "v5e:4x4", "v6e:2x4", "v5p:4x4x4*2", "tpu7x:2x2x1"])
def test_libtpu_knows_the_slices_that_are_offered(name):
    devices, slices = topology.devices(name)
    chips = [int(size) for size in name.partition(":")[2].partition("*")[0].split("x")]
    assert len(devices) % slices == 0 and slices == (2 if "*" in name else 1)
    cores = 2 if name.startswith("tpu7x") else 1  # of a chip, each a device
    assert len({d.id for d in devices}) == math.prod(chips) * slices * cores
    assert topology.chip(devices[0]).memory_gib
