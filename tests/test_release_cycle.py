"""A release is converted, records are prepared with its tokenizer, trained on, and written out."""

import json

import jax
import pytest
from PIL import Image

from tests.released_files import write_autoencoder
from unireason_jax import convert, encode, prepare, train
from unireason_jax.data.image_sizes import SIZES, SizeCodec
from unireason_jax.data.resizing import Resize
from unireason_jax.models import functional, huggingface
from unireason_jax.models.archive import Archive
from unireason_jax.models.config import VAEConfig, variant
from unireason_jax.run import configuration
from unireason_jax.run.run import Run

pytestmark = pytest.mark.slow
NANO = variant("nano")
SMALL = {
    "codec": SizeCodec(2, 4),
    "latent_patch": 2,
    "latent_side": 8,
    "vit_patch": 4,
    "vit_side": 8,
    "latent_resize": Resize(32, 16, 4),
    "vit_resize": Resize(32, 16, 4),
}


def write_release(folder):
    """Every file of a small release; its vocabulary is letters."""
    folder.mkdir()
    params = jax.jit(functional.init, static_argnums=0)(NANO, jax.random.key(0))
    huggingface.save(folder, NANO, huggingface.reader_of(params))
    write_autoencoder(folder, VAEConfig(channels=32, multipliers=(1, 1), blocks=1, latents=4))
    (folder / "vae_config.json").write_text(json.dumps({"scale_factor": 0.5}))
    letters = [chr(i) for i in range(97, 123)]
    (folder / "vocab.json").write_text(json.dumps({x: i for i, x in enumerate(letters)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    controls = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>")
    added = {str(26 + i): {"content": x, "special": True} for i, x in enumerate(controls)}
    words = {"added_tokens_decoder": added, "model_max_length": 131072}
    (folder / "tokenizer_config.json").write_text(json.dumps(words, indent=3))


def write_records(folder):
    folder.mkdir()
    rows = []
    for number in range(8):
        Image.new("RGB", (32, 24), (30 * number, 9, 9)).save(folder / f"{number}.png")
        rows.append({"task": "t2i", "prompt": "abc", "image": f"{number}.png"})
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder / "rows.jsonl"


def test_what_was_released_comes_back_from_a_run(tmp_path, monkeypatch, quick_compile):
    monkeypatch.setitem(SIZES, "bagel", SMALL)
    release, start, run = tmp_path / "release", tmp_path / "start", tmp_path / "run"
    write_release(release)
    assert convert.main(["--from", "bagel", "--input", str(release), "--output", str(start)]) == 0
    rows, pixels, records = write_records(tmp_path / "own"), tmp_path / "pixels", tmp_path / "data"
    told = [f"--input={rows}", f"--output={pixels}", f"--tokenizer={release}", "--sizes=bagel"]
    prepare.main(["prepare", *told])
    told = [f"--input={pixels}", f"--output={records}", f"--vae={release / 'ae.safetensors'}"]
    encode.main(["encode", *told])
    config = configuration.load("configs/tiny.py")
    with config.unlocked():
        config.model = configuration.load_workdir(start).model
    config.data.source, config.init_from = str(records), str(start)
    config.data.tokens, config.data.rows, config.train.steps = 128, 8, 2
    config.optim.lr, config.optim.warmup_steps = 0.1, 0
    config.train.save_every, config.eval.every = 2, 0
    made = Run.of(config)
    train.train(made, made.pipeline(), train.epath.Path(run))
    back = tmp_path / "back"
    command = ["--to", "bagel", "--input", str(run), "--output", str(back)]
    assert convert.main([*command, "--which", "params", "--dtype", "bfloat16"]) == 0
    assert {path.name for path in back.iterdir()} == {path.name for path in release.iterdir()}
    for path in release.iterdir():
        if path.suffix != ".safetensors" or path.name.startswith("ae"):
            same = (back / path.name).read_bytes() == path.read_bytes()
            assert same or json.loads((back / path.name).read_text()) == json.loads(
                path.read_text()
            ), path.name
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json", "ae.safetensors"):
        assert (back / name).read_bytes() == (release / name).read_bytes(), name
    one, two = (Archive(huggingface.find_weights(folder)) for folder in (release, back))
    assert {n: one.shape(n) for n in one} == {n: two.shape(n) for n in two}
    assert any(one.read(n).tobytes() != two.read(n).tobytes() for n in one)  # it was trained
