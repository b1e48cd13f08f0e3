"""Janus releases to workdirs and back, bit for bit, through the command."""

import json
import shutil

import numpy as np
import pytest

from tests.models.test_torch_archive import written
from unireason_jax import convert
from unireason_jax.data.janus import pictures, prompts
from unireason_jax.models.archive import Archive, write_archive
from unireason_jax.models.janus import release, release_config
from unireason_jax.run import janus_release


def run(*arguments):
    """The command's exit status."""
    return convert.main([str(x) for x in arguments])


def same(one, two):
    """Asserts that two archives hold the same tensors, bit for bit."""
    assert set(one) == set(two)
    for name in one:
        a, b = one.read(name), two.read(name)
        assert a.dtype == b.dtype and a.tobytes() == b.tobytes(), name


@pytest.fixture(scope="module")
def folder(janus_goldens, tmp_path_factory):
    """A bfloat16 release in shards, with numbers in its unused tensors too."""
    target = tmp_path_factory.mktemp("release")
    archive = Archive(release.find_weights(janus_goldens))
    tensors = {name: (archive.shape(name), "BF16") for name in archive}

    def produce(name):
        value = archive.read(name) + (name == "gen_vision_model.quantize.codebook_used")
        yield value.astype("bfloat16")

    write_archive(target, "model", tensors, produce, shard_bytes=300_000)
    for path in [janus_goldens / "config.json", *(janus_goldens / "tokenizer").iterdir()]:
        shutil.copyfile(path, target / path.name)
    return target


@pytest.fixture(scope="module")
def workdir(folder, tmp_path_factory):
    """The release as a workdir."""
    target = tmp_path_factory.mktemp("runs") / "janus"
    assert run("--from", "janus", "--input", folder, "--output", target) == 0
    return target


def test_out_and_back_bit_for_bit(folder, workdir, tmp_path):
    assert run("--to", "janus", "--input", workdir, "--output", tmp_path / "again") == 0
    same(release.open_weights(folder), release.open_weights(tmp_path / "again"))
    for name in janus_release.FILES:
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()
    first, second = (
        json.loads((f / "config.json").read_text()) for f in (folder, tmp_path / "again")
    )
    assert first | {"torch_dtype": "bfloat16"} == second


def test_float32_and_the_weights_alone(folder, workdir, tmp_path):
    wide = tmp_path / "wide"
    assert run("--to", "janus", "--input", workdir, "--output", wide, "--dtype", "float32") == 0
    archive, given = release.open_weights(wide), release.open_weights(folder)
    assert {archive.dtype(name) for name in archive} == {"F32"}
    for name in ("gen_embed.weight", "vision_model.vision_tower.blocks.1.attn.qkv.weight"):
        assert np.array_equal(archive.read(name), given.read(name).astype(np.float32))
    assert run("--to", "weights", "--input", workdir, "--output", tmp_path / "alone") == 0
    assert run("--to", "janus", "--input", tmp_path / "alone", "--output", tmp_path / "r") == 0
    same(given, release.open_weights(tmp_path / "r"))


def test_pytorch_files_give_the_same_workdir(folder, workdir, tmp_path):
    given, source = release.open_weights(folder), tmp_path / "release"
    source.mkdir()
    written(source / "pytorch_model.bin", {name: (given.read(name), 0) for name in given})
    for name in ("config.json", *janus_release.FILES):
        shutil.copyfile(folder / name, source / name)
    assert run("--from", "janus", "--input", source, "--output", tmp_path / "w") == 0
    for name in ("checkpoints/0/params.safetensors", janus_release.CODES):
        same(Archive(workdir / name), Archive(tmp_path / "w" / name))


def test_a_config_that_was_never_released_is_written_out(folder, workdir, tmp_path):
    shutil.copytree(workdir, tmp_path / "run")
    (tmp_path / "run" / janus_release.KEPT).unlink()
    assert run("--to", "janus", "--input", tmp_path / "run", "--output", tmp_path / "r") == 0
    assert release_config.read_config(tmp_path / "r") == release_config.read_config(folder)


@pytest.mark.parametrize(
    "name, change, message",
    [
        ("config.json", ('"hidden_size": 64', '"hidden_size": 32'), "has shape"),
        (pictures.FILE, ('"image_size": 64', '"image_size": 96'), "image_size"),
        ("processor_config.json", (": 16", ": 17"), "num_image_tokens"),
        ("tokenizer.json", (prompts.PAD, "<pad>"), "lacks"),
        ("tokenizer.json", None, "no tokenizer"),
        (pictures.FILE, None, "missing"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_written(
    folder, tmp_path, capsys, name, change, message
):
    source = tmp_path / "release"
    shutil.copytree(folder, source)
    if change is None:
        (source / name).unlink()
    else:
        text = (source / name).read_text("utf-8")
        assert change[0] in text
        (source / name).write_text(text.replace(*change), "utf-8")
    assert run("--from", "janus", "--input", source, "--output", tmp_path / "w") == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "w" / "checkpoints").exists()


def test_a_run_is_written_in_its_own_kind_only(workdir, tmp_path, capsys):
    assert run("--to", "bagel", "--input", workdir, "--output", tmp_path / "r") == 1
    assert "--to janus" in capsys.readouterr().err
