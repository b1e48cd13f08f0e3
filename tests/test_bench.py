"""The benchmarks run, measure what they say, and use the sizes of the official baseline."""

import json
import sys

import numpy as np
import pytest

from tests import untrained
from unireason_jax import bench
from unireason_jax.compilation.reference_row import reference_row
from unireason_jax.models import functional
from unireason_jax.rules import visibility
from unireason_jax.rules.visibility import NOISE
from unireason_jax.run import configuration
from unireason_jax.speed import attention, mixtures, reference, sampling, step, train
from unireason_jax.training.metrics import batch_counts, train_flops


def test_packing_reports_fill_and_speed_as_json(tmp_path, capsys):
    path = tmp_path / "out" / "packing.json"
    command = ["packing", "--mixture", "stage2", "--records", "3000", "--json", str(path)]
    bench.main(command)
    (printed,) = map(json.loads, capsys.readouterr().out.splitlines())
    (written,) = json.loads(path.read_text())
    assert printed == written
    assert written["records"] == 3000 and written["oversized"] == 0
    assert min(written["fill_steady"].values()) >= 0.98
    assert written["packs_per_s"] * written["plan_cpu_s"] == pytest.approx(written["packs"])
    assert 0.8 <= written["row_tokens"] / written["wished_tokens"] <= 1.25


def test_simulated_mixtures_have_the_lengths_of_their_pictures():
    stage2, _ = mixtures.mixture("stage2", 500)
    assert set(np.unique(stage2[:, 2] // 4096)) == {1, 2, 3, 4} and not (stage2[:, 2] % 4096).any()
    assert not (stage2[:, 1] % 1444).any()
    assert stage2[:, 0].min() >= 40 and stage2[:, 0].max() <= 900 + 2 * (4 + 3 + 4)
    world, _ = mixtures.mixture("world", 500)
    assert set(np.unique(world[:, 1:])) <= {0, 16, 32, 48}
    quickstart, _ = mixtures.mixture("quickstart", 40)
    assert not (quickstart[:, 1:] % 16).any() and (quickstart[:, 0] > 5).all()
    with pytest.raises(ValueError, match="no mixture"):
        mixtures.mixture("other", 5)


def test_prepare_reports_speed_and_memory(capsys):
    (found,) = bench.main(["prepare", "--records", "400"])
    assert json.loads(capsys.readouterr().out) == found
    assert found["quarantined"] == 0 and found["packs"] > 10
    assert found["records_per_cpu_s"] * found["cpu_s"] == pytest.approx(400)
    assert 20 < found["peak_rss_mib_of_a_tenth"] <= found["peak_rss_mib"] + 20 < 500
    with pytest.raises(SystemExit, match="give 10 or more"):
        bench.main(["prepare", "--records", "3"])


@pytest.mark.parametrize("steps", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_loader_counts_the_tokens_it_made_and_those_of_the_step(steps, capsys, quick_compile):
    command = ["loader", "--config", "configs/tiny.py", "--records", "200", "--rows", "8"]
    (found,) = bench.main([*command, "--batches", "3", "--steps", str(steps)])
    assert json.loads(capsys.readouterr().out) == found
    tokens = 3 * 8 * found["row_tokens"]
    assert found["tokens_per_wall_s"] * found["wall_s"] == pytest.approx(tokens)
    assert found["stats"]["packs"] == 32 and found["stats"]["quarantined"] == 0
    assert found["stats"]["fill/latent"] > 0.8
    assert ("steps" in found) == bool(steps)
    if steps:
        ratio = found["tokens_per_wall_s"] / found["step_tokens_per_wall_s"]
        assert found["times_the_step_wall"] == pytest.approx(ratio)


def test_train_batch_and_model_are_those_of_the_baseline():
    model = train.model_of("small", "float32", False)
    table = model.latent.side**2 * model.llm.width
    count = functional.count(functional.abstract(model)) + table
    assert round(count / 1e6, 2) == 59.74
    batch = train.make_batch(model)
    assert batch["positions"].shape == (2, 1024)
    np.testing.assert_array_equal((batch["text_labels"] >= 0).sum(1), [509, 509])
    np.testing.assert_array_equal((batch["latent_weights"] > 0).sum(1), [512, 512])
    np.testing.assert_array_equal((batch["vis_own"] >= NOISE).sum(1), [514, 514])
    assert np.isfinite(batch["latent_logits"]).all()
    shown = train.make_batch(train.model_of("small_vit", "float32", False))
    assert shown["positions"].shape == (2, 1024)
    np.testing.assert_array_equal((shown["vit_images"] == 0).sum(1), [256, 256])
    np.testing.assert_array_equal((shown["text_labels"] >= 0).sum(1), [251, 251])


def test_train_times_steps(capsys):
    (found,) = bench.main(["train", "--size", "nano", "--steps", "3", "--warmup", "1", "--full"])
    assert json.loads(capsys.readouterr().out) == found
    assert found["tokens"] == 2 * 64 and found["full_loop"] is True
    assert 0 < found["wall_min_s"] <= found["wall_median_s"]
    assert np.isfinite(found["loss"]) and found["loss"] < np.log(128) + 2.5
    assert 0 < found["share_of_ceiling"] < 1 and found["official"] == []


def test_the_useful_work_of_the_official_sizes_is_what_the_reference_counted():
    """402 GFLOP a step and 501 an image, as counted for the official code."""
    model = train.model_of("small", "float32", False)
    useful = train_flops(model, batch_counts(train.make_batch(model)))
    assert useful / 1e9 == pytest.approx(402, rel=0.01)
    tokens, passes = 258, 35
    drawn = passes * sampling.forward_flops(model, tokens, tokens + sampling.IMAGE_PROMPT)
    assert drawn / 1e9 == pytest.approx(501, rel=0.02)


def test_official_figures_stand_beside_their_machine_and_are_not_divided_by():
    machines = reference.official("train", "small", "float32")
    assert [found["cpu_s"] for found in machines] == [5.95, 8.92]
    assert len({found["machine"] for found in machines}) == 2
    assert reference.official("train", "nano", "float32") == []


def test_the_share_of_the_ceiling_is_this_machine_s(monkeypatch):
    monkeypatch.setattr(reference, "ceiling", lambda dtype: {"float32": 80e9}[dtype])
    found = reference.share_of_ceiling(400e9, 10.0, "float32")
    assert found["share_of_ceiling"] == pytest.approx(0.5)
    assert found["gflop_per_cpu_s"] == pytest.approx(40)


def test_wrong_numbers_are_refused():
    with pytest.raises(ValueError, match="steps"):
        train.run("nano", steps=0)
    with pytest.raises(ValueError, match="size"):
        train.run("huge")
    with pytest.raises(ValueError, match="cores"):
        bench.limit_cores(10_000)
    with pytest.raises(SystemExit):
        bench.main(["train", "--size", "nano", "--threads", "10000"])


def test_a_converted_release_comes_back_and_leaves_nothing_behind(tmp_path, capsys):
    command = ["convert", "--variant", "nano", "--layers", "1", "--folder", str(tmp_path)]
    (found,) = bench.main(command)
    assert json.loads(capsys.readouterr().out) == found
    assert found["identical"] and found["layers"] == 1 and found["tensors"] == 83
    assert 0.05 < found["from_bagel"]["peak_rss_gib"] < 2
    assert list(tmp_path.iterdir()) == []


def test_decode_and_image_are_timed_at_the_official_sizes(capsys):
    fast = ["image", "--timesteps", "11", "--solver", "ab2", "--cache", "taylor"]
    commands = [["decode", "--batch", "1", "2"], ["image", "--guidance", "text_image"], fast]
    for command in commands:
        bench.main([*command, "--size", "nano", "--repeats", "1"])
    one, two, image, faster = map(json.loads, capsys.readouterr().out.splitlines())
    assert (one["batch"], two["batch"], one["tokens"]) == (1, 2, 128)
    assert two["cpu_s_per_row"] * 2 == pytest.approx(two["cpu_median_s"])
    assert (faster["passes"], faster["cache"], faster["bench"]) == (11, "taylor", "image_faster")
    assert image["passes"] == 51 and image["guidance"] == "text_image"
    assert all(0 < r["wall_min_s"] and 0 < r["share_of_ceiling"] for r in (one, two, image, faster))
    assert all(r["official"] == [] for r in (one, two, image))


@pytest.mark.slow
def test_the_operations_of_a_picture_of_codes(capsys, quick_compile):
    bench.main(["codes", "--variant", "janus_nano", "--batch", "2", "--repeats", "1"])
    found = json.loads(capsys.readouterr().out)
    assert found["forwards"] == 16 and found["rows"] == 2
    # What is seen are all slots of the cache, filled or not.
    assert 1 <= found["ratio"] < 1.3
    assert found["cpu_s_per_forward"] == pytest.approx(found["cpu_median_s"] / 32)
    with pytest.raises(SystemExit, match="nano draws by flow"):
        bench.main(["codes", "--variant", "nano"])


def test_ways_of_drawing_stand_beside_each_other_on_the_same_prompts(tmp_path, capsys):
    run = str(untrained.write(tmp_path))
    command = ["quality", "--checkpoint", run, "--prompts", "2"]
    exact, few, other = bench.main([*command, "--batch", "8", "--ways", "exact", "few", run])
    assert exact["forwards_per_image"] == 19 and few["forwards_per_image"] == 6
    assert exact["difference"] == 0 and few["rate"]["count"] == exact["rate"]["count"] == 12
    assert abs(few["difference"]) <= 1 and few["cpu_s_per_image"] > 0
    assert other["way"] == run and other["rate"] == exact["rate"]
    capsys.readouterr()
    for words, message in (
        (["--ways", "fewer"], "no way of drawing 'fewer'"),
        ([], "than a batch"),
    ):
        with pytest.raises(SystemExit, match=message):
            bench.main([*command, "--batch", "12", *words])


def test_the_step_of_a_recipe_on_full_rows(quick_compile, capsys):
    sizes = ["--tokens-per-row", "384", "--steps", "2", "--matmul", "64"]
    leaves = ["model.llm.layers=1", "model.vit_tower=false", "data.rows=8", "mesh.preset=cpu"]
    budgets = ["data.budgets.text=128", "data.budgets.latent=64"]
    command = ["step", "--config", "configs/tiny.py", *sizes, "--set", *leaves, *budgets]
    (found,) = bench.main(command)
    assert json.loads(capsys.readouterr().out) == found
    assert found["devices"] == 8 and found["rows"] == 8 and found["row_tokens"] == 384
    speed = found["tokens_per_s"] * found["wall_median_s"]
    assert speed == pytest.approx(8 * 384) and np.isfinite(found["loss"])
    ratio = found["model_flops_per_s"] / found["matmul_flops_per_s"]
    assert found["of_matmul_ceiling"] == pytest.approx(ratio) and ratio > 0
    adapters = ["lora.rank=2", "model.frozen_dtype=bfloat16"]
    (found,) = bench.main([*command, *adapters])
    assert np.isfinite(found["loss"])
    with pytest.raises(SystemExit, match="only 21 are text; give more"):
        bench.main([*command[:3], "--tokens-per-row", "32", *command[9:]])


def test_the_attention_of_a_layer_by_backend(capsys):
    settings = {"data.budgets.text": 128, "data.budgets.latent": 64, "model.vit_tower": False}
    leaves = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
    command = ["attention", "--config", "configs/tiny.py", "--tokens-per-row", "384"]
    backends = ["--backend", "dense", "chunked", "--repeats", "2"]
    found = bench.main([*command, *backends, "--set", *leaves])
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == found
    assert [result["attention"] for result in found] == ["dense", "chunked"]
    config = configuration.load("configs/tiny.py", settings)
    llm = configuration.model_config(config).llm
    row = reference_row(configuration.model_config(config), step.budgets_of(config, 384))
    pairs = visibility.dense([row[f"vis_{name}"] for name in ("key", "lo", "hi", "own")]).sum()
    for result in found:
        work = [result[f"{name}_s"] * result[f"{name}_flops_per_s"] for name in ("forward", "both")]
        assert work[0] == pytest.approx(4 * pairs * llm.heads * llm.head_dim)
        assert work[1] == pytest.approx(3.5 * work[0]) and result["row_tokens"] == 384
    with pytest.raises(SystemExit, match="--backend chuncked: choose from"):
        bench.main([*command, "--backend", "chuncked", "--set", *leaves])
    # Kernels for a GPU do not compile here; the benchmark says so and goes on.
    sweep = {"tokens": 384, "backends": [], "sweep": True, "repeats": 1, "seed": 0}
    told = attention.run("configs/tiny.py", settings, **sweep)[0]
    assert told["attention"] == "output 64x64, 4 warps, 2 stages" and "forward_s" not in told
    assert told["error"]


@pytest.mark.slow
def test_a_rollout_is_measured_beside_drawing_for_show(tmp_path, quick_compile):
    sizes = {"prompts": 2, "group": 3, "rounds": 1, "max_text": 8, "timesteps": 4, "window": 1}
    leaves = [f"rl.{key}={value}" for key, value in (sizes | {"within": 2}).items()]
    run = str(untrained.write(tmp_path))
    command = ["rollouts", "--checkpoint", run, "--iterations", "1", "--set", *leaves]
    (found,) = bench.main(command)
    # Two drafts that siblings share, or one for each of six conversations; then at most an edit.
    assert 2 <= found["images"]["rollouts"] <= 2 + 6 and 6 <= found["images"]["shown"] <= 6 + 6
    rates = found["images_per_cpu_s"]
    assert found["rollout_rate"] == rates["rollouts"] / rates["shown"] > 0


STAND_IN = """#!{python}
import http.server

class Answer(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'data: {{"unireason": {{"kind": "{kind}"}}}}\\n')

server = http.server.HTTPServer(("127.0.0.1", 0), Answer)
print(f"serving a model at http://127.0.0.1:{{server.server_port}}", flush=True)
server.serve_forever()
"""


@pytest.mark.parametrize("kind", ["image", "words", None])
def test_starts_of_a_server_are_timed_to_its_image(tmp_path, monkeypatch, capsys, kind):
    file = tmp_path / "python"
    file.write_text(
        "#!/bin/sh\n" if kind is None else STAND_IN.format(python=sys.executable, kind=kind)
    )
    file.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(file))
    if kind != "image":
        told = "did not start" if kind is None else "without an image"
        with pytest.raises(SystemExit, match=told):
            bench.main(["start", "--starts", "1"])
        return
    bench.main(["start", "--starts", "2", "--unwarmed"])
    found = json.loads(capsys.readouterr().out)
    assert found["starts"] == 2 and found["warm"] is False
    assert found["address_s"] > 0 and found["image_s"] > 0
    assert 0 < found["cpu_min_s"] <= found["cpu_s"] <= found["cpu_max_s"]
