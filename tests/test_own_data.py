"""From a folder of real photographs to a tuned model that BAGEL's own reader takes."""

import json

import jax
import numpy as np
import pytest

from tests import photographs, slow
from tests.conftest import REPOSITORY
from tests.released_files import OWN, write_release
from unireason_jax import convert, encode, prepare, train
from unireason_jax.data import images
from unireason_jax.data.sources import ArrayRecordSource
from unireason_jax.models import huggingface
from unireason_jax.models.archive import Archive
from unireason_jax.run import configuration, init_from
from unireason_jax.run.run import Run

pytestmark = pytest.mark.slow
AUTOENCODER = REPOSITORY / "notebooks" / "autoencoder"
PHOTOGRAPHS, LIKENESS = 6, 0.8


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Release, photographs, and every folder that the steps leave."""
    return tmp_path_factory.mktemp("own")


@pytest.fixture(scope="module")
def latents(home):
    """What is left of the photographs after convert, prepare and encode; the three reports too."""
    write_release(home / "BAGEL-tiny", autoencoder=AUTOENCODER)
    photographs.write(home / "photos", 128, PHOTOGRAPHS)
    told = ["--from", "bagel", "--input", f"{home / 'BAGEL-tiny'}", "--output", f"{home / 'base'}"]
    assert convert.main(told) == 0
    told = [f"--tokenizer={home / 'base/tokenizer'}", "--sizes=bagel_256"]
    prepare.main(["", f"--input={home / 'photos'}", f"--output={home / 'pictures'}", *told])
    told = [f"--output={home / 'latents'}", f"--vae={home / 'base/ae.safetensors'}"]
    encode.main(["", f"--input={home / 'pictures'}", *told])
    return home / "latents"


@pytest.fixture(scope="module")
def tuned(home, latents):
    """The workdir of two steps of LoRA on one device."""
    settings = {"data.source": str(latents), "init_from": str(home / "base"), "data.rows": 1}
    settings |= {"train.steps": 2, "eval.every": 2, "eval.samples": 1, "eval.batches": 1}
    settings |= {"data.tokens": 512, "optim.lr": 1e-2, "optim.warmup_steps": 0}
    config = configuration.load("configs/own_data.py:256", settings)
    init_from.settle(config, home / "run")
    run = Run.of(config, jax.devices()[:1])
    train.train(run, run.pipeline(workdir=home / "run"), train.epath.Path(home / "run"))
    return home / "run"


def test_photographs_become_latents_that_show_them(latents):
    codec = Run.load(latents.parent / "base").codec
    pictures, source = (ArrayRecordSource(latents.parent / n) for n in ("pictures", "latents"))
    assert len(source) == PHOTOGRAPHS
    for index in range(PHOTOGRAPHS):
        segment = source[index].segments[-1]
        assert segment.moments.shape == (2, 16, 16, 16) and segment.image is None
        drawn = codec.decode(segment.moments[0].astype(np.float32))
        photograph = images.load(pictures[index].segments[-1].image)
        assert np.corrcoef(drawn.ravel(), photograph.ravel())[0, 1] > LIKENESS


def test_a_held_out_photograph_is_drawn_while_training(tuned):
    assert [path.name for path in (tuned / "samples").iterdir()] == ["0000002-0.png"]
    rows = [json.loads(line) for line in (tuned / "metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(row["eval/loss/flow"]) for row in rows if "eval/loss" in row)
    assert json.loads((tuned / "pictures.json").read_text()) == {"size": [128, 128]}
    assert Run.load(tuned).spec.latent_resize(512, 512) == (256, 256)


def test_only_adapters_are_saved_and_handed_on(tuned, home):
    kept = json.loads((tuned / "checkpoints" / "2" / "manifest.json").read_text())["leaves"]
    assert kept["params"] and all("lora" in name for name in {**kept["params"], **kept["ema"]})
    adapter = home / "adapter"
    assert convert.main(["--to", "peft", "--input", str(tuned), "--output", str(adapter)]) == 0
    assert json.loads((adapter / "adapter_config.json").read_text())["r"] == 16
    (file,) = adapter.glob("*.safetensors")
    assert all(".lora_A." in name or ".lora_B." in name for name in Archive(file))


def test_the_exported_folder_is_a_release(tuned, home):
    """What BAGEL's reader wants: the files, the tensors by name and shape, and the tokenizer."""
    release, back = home / "BAGEL-tiny", home / "release"
    told = ["--to", "bagel", "--input", str(tuned), "--output", str(back), "--which", "params"]
    assert convert.main(told) == 0
    assert {path.name for path in back.iterdir()} == {path.name for path in release.iterdir()}
    llm, vit, main = (
        json.loads((back / f"{name}config.json").read_text()) for name in ("llm_", "vit_", "")
    )
    archive, start = (Archive(huggingface.find_weights(f)) for f in (back, release))
    wanted = slow.shapes(llm, vit, main, OWN.latent.channels * OWN.latent.patch**2)
    assert {name: archive.shape(name) for name in archive} == wanted
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json", "ae.safetensors"):
        assert (back / name).read_bytes() == (release / name).read_bytes(), name
    moved = {name for name in wanted if (archive.read(name) != start.read(name)).any()}
    assert any("moe_gen" in name for name in moved) and not {n for n in moved if "_proj" not in n}
    again = home / "again"
    assert convert.main(["--from", "bagel", "--input", str(back), "--output", str(again)]) == 0
    one = Run.load(again)
    assert one.model.llm == Run.load(tuned).model.llm
    jax.tree.structure(one.abstract)
