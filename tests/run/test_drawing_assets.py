"""What a run keeps for sampling: its autoencoder, from wherever it is known, and its size."""

import json
import logging as standard

import pytest
from PIL import Image

from tests.released_files import write_autoencoder
from unireason_jax import encode as encode_verb
from unireason_jax.data import resizing
from unireason_jax.data.bagel.latents import probe
from unireason_jax.data.files.streams import IndexedRecords
from unireason_jax.data.image_sizes import SIZES, SizeCodec
from unireason_jax.data.sources import WorldSource
from unireason_jax.models import vae
from unireason_jax.models.config import VAEConfig
from unireason_jax.prepare import prepare
from unireason_jax.run import configuration, drawing_assets
from unireason_jax.run.run import Run

TINY = VAEConfig(channels=32, multipliers=(1, 1), blocks=1, latents=4)
SMALL = {
    "codec": SizeCodec(2, 4),
    "latent_patch": 1,
    "latent_side": 16,
    "vit_patch": 8,
    "vit_side": 8,
    "latent_resize": resizing.Resize(24, 16, 2),
    "vit_resize": resizing.Resize(32, 16, 8),
}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """An autoencoder under a name of its own, with a configuration beside it."""
    folder = tmp_path_factory.mktemp("release")
    found = write_autoencoder(folder, TINY).rename(folder / "flux.safetensors")
    (folder / "vae_config.json").write_text(json.dumps({"scale_factor": 0.5, "z_channels": 4}))
    return found


@pytest.fixture(scope="module")
def encoded(file, tmp_path_factory):
    """Latents of the world's pictures, made by the command."""
    folder = tmp_path_factory.mktemp("encoded")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SIZES, "bagel", SMALL)
        world = IndexedRecords(WorldSource(3, 8, {"t2i": 1}))
        prepare(world, folder / "pixels", sizes="bagel", shard_records=8)
        command = [f"--input={folder / 'pixels'}", f"--vae={file}", f"--output={folder / 'out'}"]
        encode_verb.main(["encode", *command])
        encode_verb.main(["encode", *command])  # once more changes nothing
    return folder / "out"


@pytest.fixture(autouse=True)
def sizes(monkeypatch):
    monkeypatch.setitem(SIZES, "bagel", SMALL)


def config(source, **changes):
    made = configuration.load("configs/tiny.py")
    made.data.source, made.model.latent.channels, made.model.latent.side = str(source), 4, 16
    made.update(changes)
    return made


def same(workdir, file):
    one, two = (vae.Autoencoder(*vae.load(path)) for path in (workdir / "ae.safetensors", file))
    assert one.config == two.config and one.config.scale == 0.5
    assert probe(one) == probe(two)


def test_encode_keeps_the_autoencoder_and_a_run_takes_it_along(encoded, file, tmp_path):
    same(encoded, file)
    Run.of(config(encoded)).save(tmp_path)
    same(tmp_path, file)
    made = Run.load(tmp_path)
    assert isinstance(made.codec, vae.Autoencoder)
    assert drawing_assets.size_of(tmp_path) == (24, 24)  # pictures of 32 pixels, resized


def test_the_autoencoder_of_the_start_is_taken_if_it_is_the_one(encoded, file, tmp_path, caplog):
    latents = tmp_path / "latents"
    latents.mkdir()
    for path in encoded.iterdir():
        if path.name not in ("ae.safetensors", "vae_config.json"):
            (latents / path.name).symlink_to(path)
    start, other = tmp_path / "start", tmp_path / "other"
    drawing_assets.keep_autoencoder(file, start)
    for place in (start, start / "checkpoints" / "0"):
        workdir = tmp_path / place.name
        Run.of(config(latents, init_from=str(place))).save(workdir / "run")
        same(workdir / "run", file)
    drawing_assets.keep_autoencoder(start / "ae.safetensors", other)
    (other / "vae_config.json").unlink()  # without the scale its latents are others
    with pytest.raises(ValueError, match="latents of another autoencoder"):
        Run.of(config(latents, init_from=str(other))).save(tmp_path / "wrong")
    with caplog.at_level(standard.WARNING, logger="absl"):
        made = Run.of(config(latents, init_from="scratch"))
        made.save(tmp_path / "none")
    assert "nothing can be drawn with it until the ae.safetensors" in caplog.text
    assert drawing_assets.complaint(made.config, made.codec, tmp_path / "none") in caplog.text
    sound = Run.of(config(encoded))
    assert not drawing_assets.complaint(sound.config, sound.codec, tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no ae\.safetensors either"):
        Run.load(tmp_path / "none")


def test_an_autoencoder_given_by_its_file_brings_its_configuration(encoded, file, tmp_path):
    made = config(encoded)
    made.data.vae = str(file)
    Run.of(made).save(tmp_path)
    same(tmp_path, file)


def test_the_size_is_that_of_most_pictures(tmp_path):
    rows = []
    for number, (width, height) in enumerate([(32, 48), (32, 48), (64, 64), (32, 48)]):
        Image.new("RGB", (width, height)).save(tmp_path / f"{number}.png")
        rows.append({"task": "t2i", "prompt": "a red circle", "image": f"{number}.png"})
    (tmp_path / "own.jsonl").write_text("\n".join(map(json.dumps, rows)))
    made = configuration.load("configs/tiny.py")
    made.data.source, made.data.sizes = str(tmp_path / "own.jsonl"), "world"
    Run.of(made).save(tmp_path / "run")
    assert drawing_assets.size_of(tmp_path / "run") == (48, 32)
    (tmp_path / "run" / drawing_assets.PICTURES).write_text("{")
    with pytest.raises(ValueError, match=r"pictures\.json: damaged"):
        drawing_assets.size_of(tmp_path / "run")
    Run.of(configuration.load("configs/tiny.py")).save(tmp_path / "world")
    assert drawing_assets.size_of(tmp_path / "world") is None


def test_nothing_is_copied_within_a_file_system_and_the_source_survives(file, tmp_path):
    drawing_assets.keep_autoencoder(file, tmp_path)
    before = file.read_bytes()
    part = tmp_path / ".ae.part.safetensors"
    part.hardlink_to(file)  # as a killed process leaves it
    drawing_assets.keep_autoencoder(file, tmp_path)
    drawing_assets.keep_autoencoder(tmp_path / "ae.safetensors", tmp_path)
    assert file.read_bytes() == before and (tmp_path / "ae.safetensors").samefile(file)
