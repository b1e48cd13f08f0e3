"""Released folders to workdirs and back, bit for bit, through the command."""

import json
import shutil

import jax
import numpy as np
import pytest

from unireason_jax import checkpoint, configuration, convert, optim, sharding
from unireason_jax.models import functional, huggingface, released, vae
from unireason_jax.models.archive import Archive, write_archive
from unireason_jax.models.config import VAEConfig, variant

NANO = variant("nano", llm={"qk_norm": False, "norm_eps": 1e-5})
TINY = VAEConfig(channels=32, multipliers=(1, 1), blocks=1, latents=4)


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """A bfloat16 release in shards, with an autoencoder and a tokenizer."""
    folder = tmp_path_factory.mktemp("release")
    params = jax.jit(functional.init, static_argnums=0)(NANO, jax.random.key(0))
    huggingface.save(folder, NANO, huggingface.reader_of(params), shard_bytes=30_000)
    made = jax.jit(vae.init, static_argnums=0)(TINY, jax.random.key(1))
    made = {n: np.asarray(x) for n, x in made.items()}
    made = {n: x.transpose(3, 2, 0, 1) if x.ndim == 4 else x for n, x in made.items()}
    shapes = {n: (x.shape, "F32") for n, x in made.items()}
    write_archive(folder, "ae", shapes, lambda n: [made[n]], shard_bytes=1 << 30)
    letters = [chr(i) for i in range(97, 123)]
    (folder / "vocab.json").write_text(json.dumps({x: i for i, x in enumerate(letters)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    controls = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>")
    added = {str(26 + i): {"content": x, "special": True} for i, x in enumerate(controls)}
    (folder / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": added}))
    return folder


def run(*arguments):
    """The command's exit status."""
    return convert.main([str(x) for x in arguments])


def same(one, two):
    """Asserts that two archives hold the same tensors, bit for bit."""
    first, second = (Archive(huggingface.find_weights(folder)) for folder in (one, two))
    assert set(first) == set(second)
    for name in first:
        a, b = first.read(name), second.read(name)
        assert a.dtype == b.dtype and a.tobytes() == b.tobytes(), name


def test_out_and_back_bit_for_bit(release, tmp_path, capsys):
    assert run("--from", "bagel", "--input", release, "--output", tmp_path / "w") == 0
    assert "peak memory" in capsys.readouterr().out
    assert run("--to", "bagel", "--input", tmp_path / "w", "--output", tmp_path / "r") == 0
    same(release, tmp_path / "r")
    assert huggingface.read_config(tmp_path / "r").llm.norm_eps == 1e-5
    for name in ("ae.safetensors", "vocab.json", "merges.txt"):
        assert (tmp_path / "r" / name).read_bytes() == (release / name).read_bytes()


def test_the_recorded_release_comes_back_bit_for_bit(goldens, tmp_path):
    assert run("--from", "bagel", "--input", goldens, "--output", tmp_path / "w") == 0
    back = tmp_path / "r"
    many = ("--dtype", "float32", "--shard_gib", 0.0005)
    assert run("--to", "bagel", "--input", tmp_path / "w", "--output", back, *many) == 0
    assert (back / "ema.safetensors.index.json").exists()
    same(goldens, back)


def test_a_workdir_loads_as_the_released_folder_does(release, tmp_path):
    run("--from", "bagel", "--input", release, "--output", tmp_path / "w", "--shard_gib", 0.0001)
    config = configuration.model_config(configuration.load_workdir(tmp_path / "w"))
    read = huggingface.read_config(release, dtype="bfloat16", remat="full", chunk=config.chunk)
    assert functional.abstract(config) == functional.abstract(read)
    assert config.llm == read.llm and config.vit == read.vit and config.latent == read.latent
    wanted = huggingface.load(release, read)
    mesh = sharding.make_mesh({"fsdp": 4, "tensor": 2})
    shapes = functional.abstract(config)
    target = sharding.shardings(mesh, shapes, functional.logical_axes(config))
    for which in ("ema", "params"):
        found = checkpoint.load_params(
            tmp_path / "w", which=which, expected=shapes, shardings=target, dtype="float32"
        )
        jax.tree.map(np.testing.assert_array_equal, found, wanted)
    placed = jax.tree.map(lambda x, s: x.sharding.is_equivalent_to(s, x.ndim), found, target)
    assert all(jax.tree.leaves(placed))


def test_a_trained_run_is_written_out(release, tmp_path):
    """From an Orbax checkpoint with a moving average, leaf by leaf."""
    from unireason_jax import state

    made = convert.workdir_config(NANO)
    configuration.save(tmp_path / "run", made)
    params = huggingface.load(release, NANO)
    optimizer = optim.make_optimizer(
        optim.OptimConfig(ema=0.5, freeze=("^vit/",)), functional.logical_axes(NANO)
    )
    trainable, _ = optimizer.split(params)
    average = jax.tree.map(lambda x: x + 1, trainable)
    with checkpoint.Checkpoints(tmp_path / "run") as checkpoints:
        whole = state.TrainState(jax.numpy.int32(3), params, optimizer.init(params), average)
        checkpoints.save(3, whole, None)
    for which in ("ema", "params"):
        out = tmp_path / which
        options = ("--which", which, "--dtype", "float32")
        assert run("--to", "bagel", "--input", tmp_path / "run", "--output", out, *options) == 0
        found = huggingface.load(out, huggingface.read_config(out))
        for path, leaf in optim.flatten(found).items():
            wanted = optim.flatten(params)[path]
            moved = which == "ema" and not path.startswith("vit/")
            np.testing.assert_array_equal(leaf, wanted + moved, path)


def test_a_fresh_start_from_a_language_model_and_a_vision_tower(release, tmp_path):
    """The und expert is copied to the gen expert, a patch convolution becomes linear."""
    source = Archive(huggingface.find_weights(release))
    config = huggingface.read_config(release)
    llm, vit = {}, {}
    for name in source:
        if "_moe_gen" not in name and name.startswith("language_model.model."):
            llm[name.removeprefix("language_model.")] = source.read(name)
        if name.startswith("vit_model."):
            vit[name.removeprefix("vit_model.")] = source.read(name)
    patch = "vision_model.embeddings.patch_embedding.weight"
    side = config.vit.patch
    linear = vit[patch]
    vit[patch] = linear.reshape(-1, side, side, 3).transpose(0, 3, 1, 2)
    files = released.json_configs(config)
    parts = (("q", llm, files["llm_config.json"]),
             ("s", vit, {"vision_config": files["vit_config.json"]}))  # fmt: skip
    for name, tensors, values in parts:
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(values))
        shapes = {n: (x.shape, "BF16") for n, x in tensors.items()}
        write_archive(tmp_path / name, "model", shapes, lambda n: [tensors[n]], shard_bytes=1 << 30)  # noqa: B023
    command = ("--from", "qwen2", "--input", tmp_path / "q", "--vit", tmp_path / "s")
    assert run(*command, "--latent_side", 8, "--output", tmp_path / "w") == 0
    found = checkpoint.load_params(tmp_path / "w", dtype="float32")
    wanted = huggingface.load(release, config)
    und = found["stack"]["blocks"]["und"]
    jax.tree.map(np.testing.assert_array_equal, found["vit"], wanted["vit"])
    np.testing.assert_array_equal(found["head"]["kernel"], wanted["embed"].T)
    assert (np.asarray(und["query_norm"]["scale"]) == 1).all()
    jax.tree.map(np.testing.assert_array_equal, und, found["stack"]["blocks"]["gen"])
    for name, leaf in wanted["stack"]["blocks"]["und"].items():
        jax.tree.map(np.testing.assert_array_equal, und[name], leaf)
    assert not np.any(found["latent_out"]["kernel"]) and np.any(found["latent_in"]["kernel"])


def copy_with(release, folder, change):
    """A copy of a release with something spoiled."""
    shutil.copytree(release, folder)
    change(folder)
    return folder


def without_controls(folder):
    (folder / "tokenizer_config.json").unlink()


def other_autoencoder(folder):
    (folder / "ae.safetensors").unlink()
    table = {"encoder.conv_in.weight": ((8, 3, 3, 3), "F32")}
    write_archive(
        folder, "ae", table, lambda _: [np.zeros((8, 3, 3, 3), "f4")], shard_bytes=1 << 20
    )


def lost_shard(folder):
    sorted(folder.glob("ema-0*"))[1].unlink()


def cut_shard(folder):
    path = sorted(folder.glob("ema-0*"))[1]
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_controls, "tokenizer lacks <|im_start|>"),
        (other_autoencoder, "'decoder.conv_in.weight' is missing"),
        (lost_shard, "safetensors: missing"),
        (cut_shard, "truncated; tensor"),
    ],
)
def test_nothing_is_written_when_the_input_is_wrong(release, tmp_path, capsys, change, message):
    folder = copy_with(release, tmp_path / "in", change)
    assert run("--from", "bagel", "--input", folder, "--output", tmp_path / "w") == 1
    error = capsys.readouterr().err
    assert message in error and len(error.strip().splitlines()) == 1
    assert not (tmp_path / "w").exists()


def test_a_workdir_is_not_overwritten(release, tmp_path, capsys):
    assert run("--from", "bagel", "--input", release, "--output", tmp_path) == 0
    assert run("--from", "bagel", "--input", release, "--output", tmp_path) == 1
    assert "choose another --output" in capsys.readouterr().err
    assert run("--to", "bagel", "--input", tmp_path / "none", "--output", tmp_path / "x") == 1
    assert "config.json: not found" in capsys.readouterr().err
