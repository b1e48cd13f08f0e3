"""The whole check on CPU devices, and its parts that need no compiler."""

import json
import subprocess
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from unireason_jax.compilation import check, figures, programs, reference, summary, topology
from unireason_jax.data.rows import Budgets
from unireason_jax.models.config import variant
from unireason_jax.run import configuration
from unireason_jax.training import metrics

TINY = "configs/tiny.py"
SMALL = {
    "model.llm.layers": 1,
    "model.vit_tower": False,
    "data.budgets.text": 128,
    "data.budgets.vit": 0,
    "data.budgets.latent": 64,
    "data.rows": 8,
    "mesh.preset": "cpu",
}


@pytest.fixture(scope="module")
def found(quick_compile):
    config = configuration.load(TINY, SMALL)
    return check.check(config, "cpu:8", name="tiny train")


def test_the_report_of_a_small_step(found, tmp_path):
    assert found["devices"] == 8 and found["mesh"] == "fsdp 8" and found["tokens"] == 192
    # Eight devices hold an eighth each of weights, two moments and the average, and the batch.
    state = 4 * 4 * found["parameters"] / 8
    assert state <= found["memory"]["argument_gib"] * 2**30 <= 3 * state
    assert found["flops"]["compiled_matmuls"] >= found["flops"]["model"] > 0
    assert found["collectives"]["gib"] > 0 and not found["square_buffers"]
    path = check.save(found, tmp_path)
    assert path.name == "tiny_train_cpu_8.md"
    text = path.read_text()
    assert "compiled / (model + recomputation)" in text and "mesh fsdp 8" in text
    assert "| tiny train | cpu:8 | 8 | fsdp 8 | 192 |" in summary.table(tmp_path)


def test_wrong_requests_are_explained(monkeypatch):
    with pytest.raises(topology.TopologyError, match=r"such as v5p:2x2x4"):
        topology.devices("v5p-16")
    with pytest.raises(topology.TopologyError, match="there are 8 CPU devices"):
        topology.devices("cpu:512")
    with pytest.raises(configuration.ConfigError, match="must be a multiple of data x fsdp"):
        config = configuration.load(TINY, SMALL | {"data.rows": 6})
        check.check(config, "cpu:8", name="wrong")

    def absent(**_):
        raise RuntimeError("JAX TPU support not installed; cannot generate TPU topology.")

    monkeypatch.setattr("jax.experimental.topologies.get_topology_desc", absent)
    with pytest.raises(topology.TopologyError, match=r"pip install 'unireason-jax\[tpu\]'"):
        topology.devices("v5p:2x2x2")


def test_gpus_are_named_by_kind_and_number(monkeypatch):
    asked = {}

    def described(topology_name, **more):
        asked.update(more)
        return SimpleNamespace(devices=["a GPU"] * 2)

    monkeypatch.setattr("jax.experimental.topologies.get_topology_desc", described)
    assert topology.devices("l40s:2") == (["a GPU"] * 2, 1)
    assert asked["platform"] == "cuda" and asked["topology"] == "1x1x2"
    assert "cuda_compute_capability { major: 8 minor: 9 }" in asked["target_config"]
    for name in ("h100:2x2", "h100:8*2"):
        with pytest.raises(topology.TopologyError, match="of GPUs write their number"):
            topology.devices(name)

    def absent(**_):
        raise NotImplementedError("topology not implemented for cuda")

    monkeypatch.setattr("jax.experimental.topologies.get_topology_desc", absent)
    with pytest.raises(topology.TopologyError, match=r"pip install 'unireason-jax\[cuda\]'"):
        topology.devices("h100:1")


def test_adapters_are_named_in_a_report():
    config = configuration.load(TINY, SMALL | {"lora.rank": 2})
    assert check._changed(config) == "model nano in float32, adapters of rank 2"


def test_a_program_that_does_not_fit_ends_with_status_1(found, tmp_path):
    sizes = {"argument": 4, "output": 4, "alias": 4, "temp": 9}
    analysis = SimpleNamespace(**{f"{k}_size_in_bytes": n << 30 for k, n in sizes.items()})
    analysis.peak_memory_in_bytes = 12 << 30
    check.require_fit(found | {"memory": figures.memory(analysis, topology.Chip(None, 12.5))})
    large = found | {"memory": figures.memory(analysis, topology.Chip(None, 11.5))}
    with pytest.raises(check.DoesNotFit, match=r"12\.0 GiB of 11\.5 GiB on a device"):
        check.require_fit(large)
    # The command with this program in place of a compiled one.
    code = (
        "import json, sys; from absl import app; from unireason_jax import compile_check as c; "
        "c.check = lambda *_, **__: json.loads(sys.stdin.read()); app.run(c.main)"
    )
    flags = [f"--config={TINY}", "--topology=cpu:8", f"--out={tmp_path}"]
    command = [sys.executable, "-c", code, *flags]
    done = subprocess.run(command, input=json.dumps(large), capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: tiny train does not fit on cpu:8: 12.0")
    assert (tmp_path / "tiny_train_cpu_8.md").read_text() in done.stdout


def test_what_the_compiler_finds_too_large_does_not_fit(monkeypatch):
    def compile_():
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Used 120G of 95G hbm.\nBuffers: ...")

    lowered = SimpleNamespace(compile=compile_)
    monkeypatch.setattr(programs, "lower", lambda *_: (lowered, None))
    with pytest.raises(check.DoesNotFit, match=r"on cpu:8: .*120G of 95G hbm\. Use more chips"):
        check.check(configuration.load(TINY, SMALL), "cpu:8", name="huge")


@pytest.mark.parametrize("program", ["train", "image"])
def test_a_model_that_draws_with_codes_is_checked_too(program, quick_compile):
    changed = {"model.variant": "janus_nano", "data.rows": 8, "mesh.preset": "cpu"}
    budgets = {"data.budgets.text": 64, "data.budgets.vit": 16, "data.budgets.latent": 32}
    config = configuration.load("configs/janus_finetune.py", changed | budgets)
    found = check.check(config, "cpu:8", program, name="janus")
    assert found["tokens"] == 112 and found["memory"]["argument_gib"] > 0
    if program == "train":
        flops = found["flops"]
        assert 1 <= flops["compiled_matmuls"] / (flops["model"] + flops["recomputation"]) < 3


@pytest.mark.parametrize("name", ["nano", "janus_nano"])
@pytest.mark.parametrize("budgets", [Budgets(96, 32, 64), Budgets(64, 0, 50), Budgets(40, 0, 0)])
def test_the_reference_row_is_full(name, budgets):
    row = reference.reference_row(variant(name), budgets)
    counts = metrics.batch_counts(row)
    assert [counts[k] for k in ("text", "vit", "latent")] == budgets.array().tolist()
    assert row["positions"].shape == (1, budgets.total)


def test_the_kernel_walks_hardly_more_tiles_than_it_must():
    model = variant("bagel_7b_mot")
    row = reference.reference_row(model, Budgets(2048, 4096, 26624))
    for (queries, keys), tiles in reference.tile_counts(row, model, parts=1).items():
        assert tiles["needed"] <= tiles["walked"] <= 1.02 * tiles["needed"]
        walked, visible = tiles["walked"] / tiles["all"], tiles["pairs"]
        assert walked <= 1.3 * visible, (queries, keys)
    whole = reference.tile_counts(row, model, parts=2)
    assert np.array([(queries, keys) for queries, keys in whole]).shape == (3, 2)


@pytest.mark.slow
def test_the_update_of_a_reinforcement_is_lowered_for_devices_that_share_its_rows():
    config = configuration.load(TINY, SMALL)
    with config.unlocked():
        config.rl = configuration.load("configs/rl_t2i.py", {"rl.rows": 8}).rl
    budgets = programs.budgets_of(config, "reinforce")
    assert budgets == Budgets(256, 0, 256)
    lowered, run = programs.lower("reinforce", config, jax.devices(), budgets)
    assert run.mesh.size == 8 and "jit_update" in lowered.as_text().split("\n", 1)[0]
