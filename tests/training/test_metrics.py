"""Counts, FLOPs, the meter's means and their resume, writers, and the heartbeat."""

import dataclasses
import io
import json
import sys
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from tests.batches import packed_batch
from unireason_jax.models.config import variant
from unireason_jax.models.sizes import LoraConfig
from unireason_jax.rules import visibility
from unireason_jax.run import configuration
from unireason_jax.training import metrics
from unireason_jax.training.writers import Writers, duration

MODEL = variant("nano")


def test_counts_are_those_of_the_dense_mask():
    batch = packed_batch(MODEL, rows=3)
    counts = metrics.batch_counts(batch)
    names = ("key", "lo", "hi", "own")
    seen = visibility.Visibility(*(batch[f"vis_{name}"] for name in names))
    real = batch["vis_lo"] >= 0
    assert counts["pairs"] == (visibility.dense(seen) & real[:, :, None]).sum()
    assert counts["text"] == real[:, :10].sum() == 10 + 9 + 8
    assert counts["vit"] == 12 and counts["vit_pairs"] == 3 * 4**2
    assert counts["latent"] == 24
    assert counts["labels"] == (batch["text_labels"] >= 0).sum()


def test_flops_of_bagel_match_its_own_account():
    # BAGEL training loop: 6 N T + 12 H heads layers sum(len^2) / ... counts one tower of N weights;
    # text-only and causal, ours differs by the head's share and by counting visible pairs only.
    model = variant("bagel_7b_mot")
    tokens = 1000
    counts = {
        "text": tokens, "vit": 0, "latent": 0, "labels": tokens, "vit_pairs": 0,
        "pairs": tokens * tokens,
    }  # fmt: skip
    llm = model.llm
    embedding = llm.vocab * llm.width
    weights = 7_615_283_200 - embedding  # the embedding table is looked up, not multiplied
    wanted = 6 * weights * tokens + 1_204_224 * tokens**2
    np.testing.assert_allclose(metrics.train_flops(model, counts), wanted, rtol=1e-3)
    frozen = metrics.train_flops(model, counts, und_backward=0.0)
    assert frozen < 0.45 * wanted
    beside = dataclasses.replace(model, lora=LoraConfig(16))  # weights get no gradient
    found = metrics.train_flops(beside, counts)
    np.testing.assert_allclose(found, 4 * weights * tokens + 1_204_224 * tokens**2, rtol=1e-3)


def test_frozen_and_latent_only_rows_cost_what_they_do():
    none = {"text": 0, "vit": 0, "latent": 0, "labels": 0, "pairs": 0, "vit_pairs": 0}
    assert metrics.train_flops(MODEL, none) == 0
    one = metrics.train_flops(MODEL, none | {"latent": 5})
    assert metrics.train_flops(MODEL, none | {"latent": 10}) == 2 * one > 0


def test_meter_averages_and_a_resumed_meter_reports_the_same():
    counts = {"text": 3, "vit": 0, "latent": 5}

    def feed(meter, steps):
        for step in steps:
            scalars = {"loss": jnp.float32(step / 3), "lr": jnp.float32(step)}
            meter.add(scalars, counts, flops=1e6)

    unbroken = metrics.Meter(1e9)
    feed(unbroken, range(7))
    whole = unbroken.report()
    first = metrics.Meter(1e9)
    feed(first, range(4))
    stored = json.loads(json.dumps(first.state()))
    second = metrics.Meter(1e9)
    second.restore(stored)
    feed(second, range(4, 7))
    resumed = second.report()
    assert whole["loss"] == resumed["loss"] == pytest.approx(1.0)
    assert whole["lr"] == resumed["lr"] == 6
    assert whole["speed/text_tokens_per_s"] > 0 and whole["speed/mfu"] > 0
    assert "loss" not in unbroken.report()


@pytest.mark.parametrize(("seconds", "most"), [(30.0, 0), (0.2, 1)])
def test_a_signal_finds_no_slow_step_queued_behind_the_one_that_runs(monkeypatch, seconds, most):
    """Devices that work off one step after another, and a loop like that of `train`."""
    clock, queue = [0.0], []
    monkeypatch.setattr(metrics.time, "perf_counter", lambda: clock[0])

    class Scalar:
        def block_until_ready(self):
            while self in queue:
                queue.pop(0)
                clock[0] += seconds
            return self

    meter, counts, stopped = metrics.Meter(None), {"text": 1, "vit": 0, "latent": 0}, None
    for step in range(9):
        assert len(queue) <= 2  # what the devices have to do is bounded at all times
        meter.wait()
        if step == 7:  # the signal came while the step before was waited for
            stopped = len(queue)
            break
        queue.append(Scalar())
        meter.add({"loss": queue[-1]}, counts, flops=1.0)
    assert stopped == most


def test_clock_splits_time():
    clock = metrics.Clock()
    with clock("data"):
        time.sleep(0.05)
    total, spent = clock.split()
    assert spent["data"] >= 0.05 and spent["data"] + spent["step"] == pytest.approx(total)
    assert clock.split()[1].keys() == {"step"}


def test_writers_leave_every_step_once(tmp_path, capsys):
    writers = Writers(tmp_path, start=0, total=20, tensorboard=True)
    for step in (5, 10, 15):
        writers.write(step, {"loss": 1 / step, "skipped": 0.0})
    writers.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 20, "lo')  # killed while writing
    again = Writers(tmp_path, start=10, total=20, tensorboard=False)
    report = {"loss": 0.5, "speed/steps_per_s": 2.0, "time/total": 4.0, "time/data": 1.0}
    again.write(15, report | {"speed/text_tokens_per_s": 30.0, "skipped": 3.0})
    again.close()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [5, 10, 15]
    assert rows[-1]["loss"] == 0.5
    line = capsys.readouterr().out.splitlines()[-1]
    for part in ("step 15/20", "loss 0.5", "skipped 3", "2 steps/s", "data wait 25%", "eta 2s"):
        assert part in line
    assert list((tmp_path / "tensorboard").iterdir())


def test_missing_wandb_is_explained(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    with pytest.raises(ValueError, match="wandb is not installed"):
        Writers(tmp_path, start=0, total=1, tensorboard=False, wandb="project")


class FakeWandb(types.ModuleType):
    """Keeps what it is given."""

    def __init__(self):
        super().__init__("wandb")
        self.started, self.logged = [], []

    def init(self, **options):
        self.started.append(options)
        return types.SimpleNamespace(
            log=self.logged.append, define_metric=lambda *a, **k: None, finish=lambda: None
        )

    def Image(self, picture, caption):
        return caption, picture.size


def test_wandb_goes_on_with_its_run_and_shows_samples_and_held_out_loss(tmp_path, monkeypatch):
    wandb = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    sample = {"a red circle": Image.new("RGB", (40, 30), "red")}
    for start in (0, 3):
        folder = tmp_path / "study" / "sweep_001"
        writers = Writers(folder, start=start, total=9, tensorboard=start == 0, wandb="project")
        writers.write(start + 2, {"eval/loss": 1.5})
        writers.show(start + 2, sample)
        writers.close()
    first, second = wandb.started
    assert first["id"] == second["id"] and first["resume"] == "allow"
    assert (first["name"], first["group"]) == ("study/sweep_001", "study")
    assert {"eval/loss": 1.5, "step": 5} in wandb.logged
    assert {"samples": [("a red circle", (40, 30))], "step": 5} in wandb.logged
    assert sorted(path.name for path in (folder / "samples").iterdir()) == [
        "0000002-0.png",
        "0000005-0.png",
    ]
    other = Writers(tmp_path / "b", start=0, total=9, tensorboard=False, wandb="project")
    other.close()
    assert wandb.started[2]["id"] != first["id"]
    events = b"".join(path.read_bytes() for path in (folder / "tensorboard").iterdir())
    assert b"samples/0" in events and b"eval/loss" in events and b"PNG" in events


def test_heartbeat_beats_and_reports(capsys):
    with metrics.heartbeat("train step", every=0.02):
        time.sleep(0.1)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("compiling train step ...")
    assert lines[-1].startswith("compiled train step in 0.")


def test_heartbeat_is_the_first_process_s(capsys, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with metrics.heartbeat("train step", every=0.02):
        time.sleep(0.1)
    assert capsys.readouterr().out == ""


def test_duration_and_memory_and_peak():
    assert [duration(s) for s in (5, 200, 3720)] == ["5s", "3m20s", "1h02m"]
    assert metrics.memory()["memory/host_gib"] > 0.01
    assert metrics.peak_flops() is None  # a CPU has no data sheet to be measured by

    class Device:
        platform, device_kind = "gpu", "NVIDIA H200"

    assert metrics.peak_flops(Device()) == 989e12
    Device.device_kind = "TPU v5"
    assert metrics.peak_flops(Device()) == 459e12
    Device.device_kind = "something new"
    assert metrics.peak_flops(Device()) is None


def test_profiler_records_its_window_also_after_a_resume_or_an_early_end(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: calls.append(folder))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: calls.append("stop"))
    start = str(tmp_path / "profile")
    for first, last, wanted in [(0, 9, [3, 6]), (4, 9, [4, 6]), (0, 5, [3]), (7, 9, [])]:
        profiler = metrics.Profiler((3, 6), tmp_path)
        changes = []
        for step in range(first, last):
            profiler.at(step)
            changes += [step] * len(calls)
            calls.clear()
        assert changes == wanted
        profiler.close()
        assert calls == (["stop"] if len(wanted) == 1 else [])
        calls.clear()
    none = metrics.Profiler((0, 0), tmp_path)
    none.at(0)
    none.close()
    assert calls == [] and start.endswith("profile")


def test_a_file_asks_for_steps_to_record(tmp_path, monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: calls.append("start"))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: calls.append("stop"))
    request, profiler = tmp_path / "profile_steps", metrics.Profiler((0, 0), tmp_path)
    asked = {2: "", 3: "2\n", 5: "9"}  # what is written before these steps
    seen = []
    for step in range(7):
        if step in asked:
            request.write_text(asked[step])
        profiler.look(step)
        profiler.at(step)
        seen += [(step, call) for call in calls]
        calls.clear()
        assert request.exists() == (step in (2, 5))  # looked at again when nothing is recorded
    assert seen == [(3, "start"), (5, "stop"), (6, "start")]
    profiler.close()
    assert calls == ["stop"]
    request.write_text("two")
    profiler.look(20)
    profiler.at(20)
    told = capsys.readouterr().out
    assert "profile_steps: 'two' is no number of steps" in told and not request.exists()
    assert "recording 2 steps from step 3 on" in told and calls == ["stop"]


def test_a_profiler_may_be_asked_at_a_port(tmp_path, monkeypatch):
    ports = []
    monkeypatch.setattr(jax.profiler, "start_server", ports.append)
    metrics.Profiler((0, 0), tmp_path)
    metrics.Profiler((0, 0), tmp_path, 9012)
    assert ports == [9012] and configuration.load("configs/tiny.py").train.profiler_port == 0


def test_a_terminal_gets_a_progress_bar_with_the_time_left(tmp_path, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    writers = Writers(tmp_path, start=2, total=10, tensorboard=False)
    for _ in range(8):
        writers.advance()
    writers.write(10, {"loss": 1.0})
    writers.close()
    shown = terminal.getvalue()
    assert "2/10" in shown and "10/10" in shown and "step/s" in shown
