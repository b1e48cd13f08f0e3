"""The parity command: on the official recordings, and on folders of other shapes."""

import json
import shutil

import numpy as np
import pytest

from tests import recording_steps
from tests.recording import SHAPES, Folder
from tests.slow import Item, Slow
from unireason_jax import convert, parity
from unireason_jax.models import huggingface
from unireason_jax.models.archive import Archive, read_json
from unireason_jax.proof.golden import read, relative

pytestmark = pytest.mark.usefixtures("quick_compile")
CONFIGS = ("llm_config.json", "vit_config.json", "config.json")


def test_the_slow_model_is_the_official_one(goldens):
    """What other shapes are compared with computes what the official code does."""
    weights, _ = read(goldens / "ema.safetensors")
    llm, vit, main = (read_json(goldens / name) for name in CONFIGS)
    slow = Slow(weights, llm, vit, main, tuple(main["new_token_ids"].values()))
    text, meta = read(goldens / "textgen.safetensors")
    said = Item("text", np.array(meta["cases"]["text_only"][0]["ids"]))
    tokens = text["out.text_only.tokens"][:, 0]
    states, _ = slow.decode([said, Item("raw", tokens)])
    found = slow.logits(states[-len(tokens) :])
    assert relative(found, text["out.text_only.logits"][:, 0]) < 1e-6
    seen, _ = read(goldens / "vit.safetensors")
    ends = np.cumsum(seen["in.vit_token_seqlens"])
    patches, places = seen["in.packed_vit_tokens"], seen["in.packed_vit_position_ids"]
    towers = [slow.tower(patches[s], places[s]) for s in (slice(ends[0]), slice(*ends))]
    assert relative(np.concatenate(towers), seen["out.vit_last_hidden"]) < 1e-6
    step, _ = read(goldens / "train_step.safetensors")
    noised, places = step["out.x_t"][-6:], step["in.packed_latent_position_ids"][-6:]
    embedded, gen = slow.tokens(Item("latent", noised, places, step["out.t_shifted"][-1]))
    assert gen.tolist() == [False, *[True] * 6, False]
    assert relative(embedded, step["out.packed_sequence_in"][-8:]) < 1e-6


@pytest.fixture(scope="module", params=list(SHAPES))
def folder(request, tmp_path_factory):
    """A checkpoint of another shape, with a recorded training step."""
    made = Folder(tmp_path_factory.mktemp("folder") / "a", SHAPES[request.param])
    made.record_training()
    return made


def test_the_forward_pass_of_other_shapes(folder):
    report = parity.compare(folder.path)
    assert report.failures == []
    compared = {row.name.split()[0] for row in report.rows}
    recorded = {name for name in read(folder.path / "train_step.safetensors")[0]}
    assert compared == {name for name in recorded if name.startswith("out.")}
    assert all(row.limit == 1e-5 for row in report.rows)


def test_other_shapes_survive_the_round_trip(folder, tmp_path):
    """Every tensor keeps its name, shape and bytes; what is computed is written as well."""
    config = huggingface.read_config(folder.path)
    there, back = str(tmp_path / "w"), str(tmp_path / "r")
    assert convert.main(["--from", "bagel", "--input", str(folder.path), "--output", there]) == 0
    command = ["--to", "bagel", "--input", there, "--output", back, "--dtype", "float32"]
    assert convert.main(command) == 0
    assert huggingface.read_config(back) == config
    found = Archive(huggingface.find_weights(back))
    assert set(found) == set(folder.tensors)
    for name, value in folder.tensors.items():
        if "pos_embed" not in name:
            np.testing.assert_array_equal(found.read(name), value.astype(np.float32), name)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [name for name, shape in SHAPES.items() if shape.vit is not None])
def test_generation_of_other_shapes(shape, tmp_path):
    """Autoencoder, vision tower, greedy text and guided images of other sizes."""
    made = Folder(tmp_path / "a", SHAPES[shape])
    slow = recording_steps.autoencoder(made)
    recording_steps.record_autoencoder(made, slow)
    recording_steps.record_vit(made)
    recording_steps.record_text(made, slow)
    recording_steps.record_images(made, slow)
    report = parity.compare(made.path)
    assert report.failures == []
    assert {row.file for row in report.rows} == {"vae", "vit", "textgen", "imagegen"}
    assert len(report.rows) > 80


def spoil(folder, name, change):
    """Applies a function to one tensor of the recorded training step."""
    from safetensors.numpy import save_file

    tensors, meta = read(folder / "train_step.safetensors")
    tensors[name] = change(tensors.get(name))
    file = folder / "train_step.safetensors"
    save_file(tensors, file, metadata={"meta": json.dumps(meta)})


def test_a_wrong_number_fails_and_an_unknown_tensor_is_listed(folder, tmp_path, capsys):
    copy = tmp_path / "a"
    shutil.copytree(folder.path, copy)
    spoil(copy, "out.pred_velocity", lambda x: x * (1 + 1e-4))
    spoil(copy, "out.router_logits", lambda _: np.zeros(3, np.float32))
    command = ["--goldens", str(copy), "--json", str(tmp_path / "out" / "rows.json")]
    assert parity.main(command) == 1
    table = capsys.readouterr().out
    (failed,) = [line for line in table.splitlines() if line.endswith("FAIL")]
    assert failed.split()[1] == "out.pred_velocity"
    assert "FAIL: 1 of " in table
    written = json.loads((tmp_path / "out" / "rows.json").read_text())
    assert [r["name"] for r in written["rows"] if not r["passed"]] == ["out.pred_velocity"]
    assert "out.router_logits" in {row["tensors"] for row in written["excluded"]}


def test_a_folder_without_recordings_is_named(tmp_path, capsys):
    assert parity.main(["--goldens", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "no recordings; looked for vae.safetensors" in error and error.count("\n") == 1


@pytest.mark.slow
def test_bfloat16_stays_inside_the_recorded_envelope(goldens):
    report = parity.compare(goldens, "bfloat16")
    assert report.failures == []
    _, meta = read(goldens / "bf16_envelope.safetensors")
    assert len(report.rows) == len(meta["stats"]) == 18
    assert all(row.limit < 0.04 for row in report.rows)


def test_what_the_envelope_has_and_no_check_meets_fails(tmp_path):
    report = parity.Report(tmp_path, {"textgen.out.lost": 0.01, "textgen.out.kept": 0.01})
    report.add("textgen", "out.kept", [1.0, 2.001], [1.0, 2.0])
    report.add("textgen", "out.other", [1.0], [2.0])
    report.close("textgen", ["out.kept", "out.other"])
    assert [(row.name, row.passed) for row in report.rows] == [
        ("out.kept", True),
        ("out.lost: not met", False),
    ]


def test_formulas_of_reinforcement(rl_goldens, tmp_path, capsys):
    """Every recorded value passes, and a wrong one is found."""
    assert parity.main(["--goldens", str(rl_goldens)]) == 0
    assert "PASS: all" in capsys.readouterr().out
    recorded = json.loads((rl_goldens / "rl_values.json").read_text())
    recorded["sde"][3]["mean"][0] += 1e-6
    (tmp_path / "rl_values.json").write_text(json.dumps(recorded))
    assert parity.main(["--goldens", str(tmp_path)]) == 1
    assert "FAIL: 1 of" in capsys.readouterr().out
    recorded["sde"][3].pop("t_next")
    (tmp_path / "rl_values.json").write_text(json.dumps(recorded))
    assert parity.main(["--goldens", str(tmp_path)]) == 2
    assert "sde[3]" in capsys.readouterr().err
