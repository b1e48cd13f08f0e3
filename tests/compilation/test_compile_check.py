"""The whole check on CPU devices, and its parts that need no compiler."""

import json
import multiprocessing
import subprocess
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from unireason_jax.compilation import (
    assignment,
    check,
    figures,
    programs,
    reference_row,
    remedies,
    summary,
    topology,
)
from unireason_jax.data.rows import Budgets
from unireason_jax.models.config import variant
from unireason_jax.run import configuration, memory_options
from unireason_jax.run.run import Run
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


def test_memory_is_assigned_without_machine_code(found, monkeypatch):
    """The same report but for the memory, which counts what is lost between arrays as well."""
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # as in the fixture
    quick = check.check(configuration.load(TINY, SMALL), "cpu:8", name="tiny train", quick=True)
    assert quick["quick"] and not found["quick"]
    for part in ("collectives", "square_buffers", "flops", "warnings", "tokens"):
        assert quick[part] == found[part]
    sizes = found["memory"]
    live = sizes["argument_gib"] + sizes["output_gib"] - sizes["alias_gib"] + sizes["temp_gib"]
    assert sizes["peak_gib"] <= quick["memory"]["peak_gib"] == pytest.approx(live, rel=0.01)
    assert "stopped when memory was assigned" in summary.markdown(quick)


def test_what_the_compiler_has_begun_to_write_is_not_read(tmp_path):
    """Newer compilers write both files at once."""
    memory = tmp_path / "module_0001.jit_f.cpu_after_optimizations-memory-usage-report.txt"
    program = tmp_path / "module_0001.jit_f.cpu_after_optimizations.txt"
    memory.write_text("Memory Space: default (color=0)\nTotal bytes: 4096 (4.0KiB)\n")
    assert assignment._found(tmp_path) is None
    whole = "HloModule jit_f\n\nENTRY %main () -> f32[] {\n  ROOT %a = f32[] constant(0)\n}\n"
    for end in (-4, 17):
        program.write_text(whole[:end])
        assert assignment._found(tmp_path) is None
    for text in (whole, whole + "\n"):
        program.write_text(text)
        assert assignment._found(tmp_path) == assignment.Assignment(4096, text)
    memory.write_text("Memory Space: default (color=0)\nTotal bytes: 40")
    assert assignment._found(tmp_path) is None


def test_what_ends_the_compiler_before_memory_is_assigned_is_told(monkeypatch, tmp_path):
    def started(refusal):
        class Process:
            exitcode = -9

            def __init__(self, target, args, daemon):
                if refusal:
                    args[0].send(refusal)

            start = kill = join = lambda self: None
            is_alive = lambda self: False  # noqa: E731

        context = SimpleNamespace(Process=Process, Pipe=multiprocessing.Pipe)
        monkeypatch.setattr("multiprocessing.get_context", lambda kind: context)
        return check.check(configuration.load(TINY, SMALL), "cpu:8", name="huge", quick=True)

    refused = jax.errors.JaxRuntimeError
    told = "RESOURCE_EXHAUSTED: Used 120.5G of 95.7G hbm. Exceeded by.\nBuffers:"
    large = started(refused(told))
    assert large["memory"]["peak_gib"] == 120.5 and large["remedies"] is not None
    with pytest.raises(refused, match="a wrong option"):
        started(refused("INVALID_ARGUMENT: a wrong option"))
    with pytest.raises(configuration.ConfigError, match="one line"):  # as without --quick
        started(configuration.ConfigError("one line"))
    with pytest.raises(RuntimeError, match="status -9 for cpu:8"):
        started(None)


def test_wrong_requests_are_explained(monkeypatch):
    for name in ("v5p-16", "v5p:2x2x4*0", "v5p:0x2x2", "v5p:2x2x4*", "v5litepod:4x4"):
        with pytest.raises(topology.TopologyError, match=r"v5e, v6e with 1x1, .*v5p:2x2x4"):
            topology.devices(name)
    with pytest.raises(topology.TopologyError, match="there are 8 CPU devices"):
        topology.devices("cpu:512")
    with pytest.raises(configuration.ConfigError, match=r"data x fsdp .*data.rows=16, or"):
        config = configuration.load(TINY, SMALL | {"data.rows": 9})
        check.check(config, "cpu:8", name="wrong")

    def absent(**_):
        raise RuntimeError("JAX TPU support not installed; cannot generate TPU topology.")

    monkeypatch.setattr("jax.experimental.topologies.get_topology_desc", absent)
    monkeypatch.setenv("LIBTPU_INIT_ARGS", "")
    with pytest.raises(topology.TopologyError, match=r"pip install 'unireason-jax\[tpu\]'"):
        topology.devices("v5p:2x2x2")


@pytest.mark.parametrize("name", ["v5e:3x3", "v6e:2x8", "v6e:16x32", "v5e:2x2x1", "v4:2x2x3"])
def test_slices_that_do_not_exist_are_refused_with_those_that_do(name):
    some = "4x4, 4x8, 8x8" if "v4" not in name else "2x4x4 and multiples of 4x4x4"
    with pytest.raises(topology.TopologyError, match=f"no such slice; those of .*{some}"):
        topology.devices(name)


def test_cpu_devices_and_gpus_form_no_slices():
    for name in ("cpu:8*2", "cpu:2x4", "h100:8*2"):
        with pytest.raises(topology.TopologyError, match="write their number, such as"):
            topology.devices(name)


def test_a_slice_is_described_as_its_pod_would_be(monkeypatch):
    asked = []

    def described(topology_name, platform, **more):
        asked.append((topology_name, more))
        return SimpleNamespace(devices=["a chip"])

    monkeypatch.setattr("jax.experimental.topologies.get_topology_desc", described)
    monkeypatch.delenv("LIBTPU_INIT_ARGS", raising=False)
    assert topology.devices("v4:4x2x4*2") == (["a chip"], 2)
    for name in ("v6e:2x4", "v5e:1x1", "v5p:4x4x8"):
        topology.devices(name)
    assert asked == [
        # Both cores of a v4 are one device.
        ("v4:4x2x4", {"num_slices": 2, "chip_config_name": "megacore"}),
        # Eight chips of these are at one host, and so is a single one.
        ("v6e:2x4", {"chips_per_host_bounds": (2, 4, 1)}),
        ("v5e:1x1", {"chips_per_host_bounds": (1, 1, 1)}),
        ("v5p:4x4x8", {}),
    ]


def test_a_report_says_what_the_compiler_was_told(monkeypatch):
    monkeypatch.setattr(
        "jax.experimental.topologies.get_topology_desc", lambda **_: SimpleNamespace(devices=[])
    )
    chip = SimpleNamespace(platform="tpu")
    for given, wanted in ((None, ""), ("", ""), ("--mine=1", "--mine=1")):
        monkeypatch.delenv("LIBTPU_INIT_ARGS", raising=False)
        if given is not None:
            monkeypatch.setenv("LIBTPU_INIT_ARGS", given)
        topology.devices("v6e:4x4")
        assert topology.compiler(chip)["flags"] == wanted
    assert topology.compiler(chip)["jax"] == jax.__version__ and "libtpu" in topology.compiler(chip)


def test_gpus_are_named_by_kind_and_number(monkeypatch):
    asked = {}

    def described(topology_name, **more):
        asked.update(more)
        return SimpleNamespace(devices=["a GPU"] * 2)

    monkeypatch.setattr("jax.experimental.topologies.get_topology_desc", described)
    assert topology.devices("l40s:2") == (["a GPU"] * 2, 1)
    assert asked["platform"] == "cuda" and asked["topology"] == "1x1x2"
    assert "cuda_compute_capability { major: 8 minor: 9 }" in asked["target_config"]
    topology.devices("h100:16")
    assert asked["topology"] == "1x2x8"
    for name in ("h100:12", "h100:9"):
        with pytest.raises(topology.TopologyError, match="whole machines of 8, such as h100:16"):
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
    with pytest.raises(check.DoesNotFit, match=r"fits with --config\.data\.rows=8 \(9\.5 GiB\)\.$"):
        check.require_fit(large | {"remedies": [{"overrides": {"data.rows": 8}, "gib": 9.5}]})
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


def refusing(monkeypatch, message):
    """Makes the compiler refuse every train step with a message."""

    def compile_():
        raise jax.errors.JaxRuntimeError(message)

    monkeypatch.setattr(programs, "lower", lambda *_: SimpleNamespace(compile=compile_))


def test_what_the_compiler_finds_too_large_does_not_fit(monkeypatch, tmp_path):
    refusing(monkeypatch, "RESOURCE_EXHAUSTED: Used 120.5G of 95.7G hbm. Exceeded by.\nBuffers:")
    found = check.check(configuration.load(TINY, SMALL), "cpu:8", name="huge")
    assert found["memory"]["peak_gib"] == 120.5 and found["memory"]["margin"] < 0
    with pytest.raises(check.DoesNotFit, match=r"huge does not fit on cpu:8: 120\.5 GiB of 95\.7"):
        check.require_fit(found)
    check.save(found, tmp_path)
    assert "does not fit" in summary.table(tmp_path)
    temporaries = "the total memory required for HLO temporaries (33.49G) exceeds available HBM"
    refusing(monkeypatch, f"RESOURCE_EXHAUSTED: Ran out of memory on HBM, {temporaries} (31.25G).")
    found = check.check(configuration.load(TINY, SMALL), "cpu:8", name="huge")
    assert (found["memory"]["peak_gib"], found["memory"]["capacity_gib"]) == (33.49, 31.25)
    refusing(monkeypatch, "RESOURCE_EXHAUSTED: no room.\nBuffers: ...")
    with pytest.raises(check.DoesNotFit, match=r"on cpu:8: .*no room\. Use more chips"):
        check.check(configuration.load(TINY, SMALL), "cpu:8", name="huge")


def test_what_helps_is_computed_from_what_the_compiler_wanted():
    """Of 16 rows on 8 devices: state S, gradients G, activations of two rows each."""
    config = configuration.load(TINY, SMALL | {"data.rows": 16})
    run = Run.of(config, jax.devices(), has_records=False)
    sizes = memory_options.sizes(run)
    kept, rows = sum(sizes.values()), 100 * sum(sizes.values())
    peak = kept + 2 * rows
    (micro, fewer, shared) = remedies.remedies(run, peak, 1.1 * rows)
    assert micro["overrides"] == {"train.microbatches": 2}
    assert micro["gib"] * 2**30 == pytest.approx(kept + sizes["gradients"] + rows)
    assert fewer["overrides"] == {"data.rows": 8}
    assert fewer["gib"] * 2**30 == pytest.approx(kept + rows)
    # Two devices a row: half of the groups, so twice the rows of each, in twice the parts.
    wanted = {"mesh.context": 2, "mesh.fsdp": 4, "train.microbatches": 2, "mesh.preset": ""}
    assert wanted.items() <= shared["overrides"].items()
    assert remedies.flags(micro["overrides"]) == "--config.train.microbatches=2"
    # What a change promises is what its run keeps.
    changed = memory_options.changed(run, shared["overrides"])
    assert changed.mesh.shape["context"] == 2 and changed.microbatches == 2
    # Moments are enough where little is missing, and everything together where much is.
    (*_, moments, _) = remedies.remedies(run, peak, peak - sizes["optimizer state"] / 8)
    assert moments["overrides"] == {"optim.mu_dtype": "bfloat16"}
    (together,) = remedies.remedies(run, peak, 0.2 * rows)
    assert together["overrides"]["mesh.context"] == 8
    assert together["overrides"]["train.microbatches"] == 16
    assert remedies.remedies(run, peak, kept / 10) == []


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
    row = reference_row.reference_row(variant(name), budgets)
    counts = metrics.batch_counts(row)
    assert [counts[k] for k in ("text", "vit", "latent")] == budgets.array().tolist()
    assert row["positions"].shape == (1, budgets.total)


def test_the_kernel_walks_hardly_more_tiles_than_it_must():
    model = variant("bagel_7b_mot")
    row = reference_row.reference_row(model, Budgets(2048, 4096, 26624))
    for (queries, keys), tiles in reference_row.tile_counts(row, model, parts=1).items():
        assert tiles["needed"] <= tiles["walked"] <= 1.02 * tiles["needed"]
        walked, visible = tiles["walked"] / tiles["all"], tiles["pairs"]
        assert walked <= 1.3 * visible, (queries, keys)
    whole = reference_row.tile_counts(row, model, parts=2)
    assert np.array([(queries, keys) for queries, keys in whole]).shape == (3, 2)


@pytest.mark.slow
def test_the_update_of_a_reinforcement_is_lowered_for_devices_that_share_its_rows():
    config = configuration.load(TINY, SMALL)
    with config.unlocked():
        config.rl = configuration.load("configs/rl_t2i.py", {"rl.rows": 8}).rl
    budgets = programs.budgets_of(config, "reinforce")
    assert budgets == Budgets(256, 0, 256)
    run = programs.run_of("reinforce", config, jax.devices())
    lowered = programs.lower("reinforce", run, budgets)
    assert run.mesh.size == 8 and "jit_update" in lowered.as_text().split("\n", 1)[0]


def test_a_rollout_of_a_reinforcement_is_lowered_with_its_rows_and_steps():
    config = configuration.load(TINY, SMALL)
    changed = {"rl.batch_rows": 12, "rl.timesteps": 6, "rl.within": 4, "rl.window": 3}
    with config.unlocked():
        config.rl = configuration.load("configs/rl_t2i.py", changed).rl
    budgets = programs.budgets_of(config, "rollout")
    run = programs.run_of("rollout", config, jax.devices())
    lowered = programs.lower("rollout", run, budgets)
    latents, moves = lowered.out_info
    # 12 rows on 8 devices are 16; a budget of 256 holds 3 noised copies of an image and the image.
    assert latents.shape == (16, 64, run.model.latent.features)
    assert moves.points.shape[:3] == (4, 16, 64) and moves.logps.shape == (3, 16)
