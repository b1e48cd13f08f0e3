"""Latents made ahead of time are what encoding on the fly gives, to the precision of storage."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from configs import own_data
from tests import photographs
from unireason_jax import encode as encode_verb
from unireason_jax.data.bagel import latents
from unireason_jax.data.bagel.tokens import SampleSpec, tokenize
from unireason_jax.data.files.streams import FileRecords, IndexedRecords
from unireason_jax.data.image_sizes import SIZES, SizeCodec
from unireason_jax.data.sources import ArrayRecordSource, WorldSource
from unireason_jax.data.text.tokenizer import load_tokenizer
from unireason_jax.encode import Encoder, encode
from unireason_jax.models import vae
from unireason_jax.models.config import VAEConfig
from unireason_jax.prepare import prepare
from unireason_jax.run import configuration
from unireason_jax.run.run import Run
from unireason_jax.world.basis import PatchBasis

TINY = VAEConfig(channels=32, multipliers=(1, 1), blocks=1, latents=4)
TASKS = {"t2i": 1, "edit": 1, "refine_t2i": 1, "vqa": 1}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared") / "world"
    prepare(IndexedRecords(WorldSource(3, 40, TASKS)), folder, sizes="world", shard_records=16)
    return folder


@pytest.fixture(scope="module")
def autoencoder():
    params = jax.jit(vae.init, static_argnums=0)(TINY, jax.random.key(0))
    return vae.Autoencoder(TINY, params)


def pairs(folder, encoded, codec):
    """(online, cached) sequences of every record, rendered with the same key."""
    spec = SampleSpec(load_tokenizer(folder / "tokenizer"), **SIZES["world"] | {"codec": codec})
    spec = dataclasses.replace(spec, dropout=(0.1, 0.2, 0.2))
    online, cached = ArrayRecordSource(folder), ArrayRecordSource(encoded)
    assert len(online) == len(cached)
    for index in range(len(online)):
        rngs = (np.random.default_rng([7, index]) for _ in range(2))
        yield tuple(tokenize(s[index], spec, rng) for s, rng in zip((online, cached), rngs))


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float32", 0), ("float16", 2e-3), ("bfloat16", 2e-2)]
)
def test_the_worlds_latents_are_those_of_the_online_path(dtype, tolerance, prepared, tmp_path):
    report = encode(prepared, tmp_path / "out", Encoder(PatchBasis.create()), dtype=dtype)
    assert f"40 records with {dtype} latents in 3 shards" in report
    latent_tokens = 0
    for online, cached in pairs(prepared, tmp_path / "out", PatchBasis.create()):
        for field in dataclasses.fields(online):
            ours, theirs = getattr(cached, field.name), getattr(online, field.name)
            if field.name == "latents" and tolerance:
                np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance)
            else:
                np.testing.assert_array_equal(ours, theirs, err_msg=field.name)
        latent_tokens += len(online.latents)
    assert latent_tokens > 500


def test_lengths_statistics_and_licences_stay(prepared, tmp_path):
    encode(prepared, tmp_path / "out", Encoder(PatchBasis.create()))
    before, after = ArrayRecordSource(prepared), ArrayRecordSource(tmp_path / "out")
    np.testing.assert_array_equal(before.lengths(), after.lengths())
    assert before.manifest["counts"] == after.manifest["counts"]
    assert after.manifest["latents"]["dtype"] == "float16"
    segments = [segment for index in range(40) for segment in after[index].segments]
    pictures = [s for s in segments if s.kind == "image"]
    assert all((s.image is not None) == s.und for s in pictures)  # pixels for the ViT only
    assert all((s.moments is not None) == latents.needs_latents(s) for s in segments)


def test_an_autoencoder_runs_on_every_device_and_compiles_once_a_size(autoencoder):
    encoder = Encoder(autoencoder)
    assert encoder.rows == jax.device_count() == 8
    rng = np.random.default_rng(0)
    for count, size in ((8, (16, 8, 3)), (3, (16, 8, 3)), (5, (8, 8, 3))):
        pictures = rng.integers(0, 256, (count, *size), np.uint8)
        found = encoder(pictures)
        assert found.shape == (count, 2, size[0] // 2, size[1] // 2, 4)
        for moments, picture in zip(found, pictures):
            np.testing.assert_allclose(moments, autoencoder.encode(picture), rtol=0, atol=2e-6)
    assert encoder._moments._cache_size() == len(encoder.sizes) == 2


def test_an_autoencoders_latents_are_those_of_the_online_path(autoencoder, tmp_path, monkeypatch):
    monkeypatch.setitem(SIZES, "world", SIZES["world"] | {"codec": SizeCodec(2, 4)})
    world = IndexedRecords(WorldSource(3, 12, TASKS))
    prepare(world, tmp_path / "pixels", sizes="world", shard_records=8)
    encode(tmp_path / "pixels", tmp_path / "out", Encoder(autoencoder), dtype="float32")
    compared = 0
    for online, cached in pairs(tmp_path / "pixels", tmp_path / "out", autoencoder):
        np.testing.assert_array_equal(cached.latents, online.latents)
        np.testing.assert_array_equal(cached.noise_seeds, online.noise_seeds)
        compared += len(online.latents)
    assert compared > 1000


@pytest.mark.parametrize(("side", "form"), [(96, 256), (300, 512)])
def test_the_next_command_names_the_config_of_the_pictures_size(side, form, tmp_path):
    photographs.write(tmp_path / "photos", side, 1)
    records = FileRecords((tmp_path / "photos" / "metadata.jsonl",))
    prepare(records, tmp_path / "pixels", sizes="bagel_512")
    (tmp_path / "base" / "checkpoints").mkdir(parents=True)
    source, spec = ArrayRecordSource(tmp_path / "pixels"), SIZES["bagel_512"]
    encoder = Encoder(spec["codec"], file=str(tmp_path / "base" / "ae.safetensors"))
    spec = SampleSpec(load_tokenizer(tmp_path / "pixels" / "tokenizer"), **spec)
    job = encode_verb.Encoding(source, spec, encoder, "float16")
    told = encode_verb.next_command(job, tmp_path / "out")
    assert told.startswith(f"next: unireason train --config configs/own_data.py:{form} --workdir")
    assert told.endswith(f"={tmp_path / 'out'} --config.init_from={tmp_path / 'base'}")


def test_the_forms_are_those_of_the_config():
    assert set(map(str, encode_verb.FORMS)) == set(own_data.TOKENS)


def test_interrupted_encoding_goes_on_and_ends_the_same(prepared, tmp_path, monkeypatch):
    encode(prepared, tmp_path / "whole", Encoder(PatchBasis.create()))
    read = ArrayRecordSource.__getitem__

    def stops(self, index):
        if index == 20:
            raise KeyboardInterrupt
        return read(self, index)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ArrayRecordSource, "__getitem__", stops)
        encode(prepared, tmp_path / "out", Encoder(PatchBasis.create()))
    first = tmp_path / "out" / "records-00000.array_record"
    when = first.stat().st_mtime_ns
    encode(prepared, tmp_path / "out", Encoder(PatchBasis.create()))
    assert first.stat().st_mtime_ns == when
    for path in (tmp_path / "whole").glob("*.*"):
        assert path.read_bytes() == (tmp_path / "out" / path.name).read_bytes(), path.name


def test_latents_of_another_autoencoder_are_refused(prepared, tmp_path, autoencoder):
    with pytest.raises(ValueError, match="measured for latents of 24 channels at stride 8, not 4"):
        encode(prepared, tmp_path / "out", Encoder(autoencoder))
    encode(prepared, tmp_path / "out", Encoder(PatchBasis.create()))
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    latents.check(manifest, PatchBasis.create(), "out")
    other = PatchBasis.create()
    other = PatchBasis(other.basis, other.mean + 20, other.scale)
    with pytest.raises(ValueError, match="out holds latents of another autoencoder"):
        latents.check(manifest, other, "out")
    latents.check({}, other, "pixels")


def test_the_command_says_what_is_missing(prepared, tmp_path, capsys):
    with pytest.raises(SystemExit, match="encode: say what to encode and where to write"):
        encode_verb.main(["encode", f"--input={prepared}"])
    with pytest.raises(SystemExit, match="run `unireason prepare`"):
        encode_verb.main(["encode", f"--input={tmp_path}", f"--output={tmp_path / 'x'}"])
    encode_verb.main(["encode", f"--input={prepared}", f"--output={tmp_path / 'x'}"])
    assert "40 records with float16 latents" in capsys.readouterr().out


def test_training_reads_encoded_records_and_keeps_its_plan_beside_them(prepared, tmp_path):
    config = configuration.load("configs/tiny.py")
    encode(prepared, tmp_path / "out", Encoder(PatchBasis.create()), dtype="float32")
    batches = []
    for folder in (prepared, tmp_path / "out"):
        config.data.source = str(folder)
        pipeline = Run.of(config).pipeline(workdir=tmp_path / "run", whole=True)
        batches.append(next(pipeline))
        pipeline.close()
        assert list((folder / "plans").glob("plan-*.npz"))
    for name, values in batches[0].items():
        np.testing.assert_array_equal(values, batches[1][name], err_msg=name)
