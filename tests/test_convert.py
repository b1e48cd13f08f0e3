"""Released folders to workdirs and back, bit for bit, through the command."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

import unireason_jax
from tests import untrained
from tests.released_files import write_all, write_autoencoder
from unireason_jax import convert
from unireason_jax.data.templates import STYLES
from unireason_jax.inference.systems import catalog
from unireason_jax.models import functional, huggingface, released
from unireason_jax.models.archive import Archive
from unireason_jax.models.config import VAEConfig, variant
from unireason_jax.pods import sharding
from unireason_jax.run import configuration
from unireason_jax.training import checkpoint, optim

NANO = variant("nano", llm={"qk_norm": False, "norm_eps": 1e-5})
TINY = VAEConfig(channels=32, multipliers=(1, 1), blocks=1, latents=4)


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """A bfloat16 release in shards, with an autoencoder and a tokenizer."""
    folder = tmp_path_factory.mktemp("release")
    params = jax.jit(functional.init, static_argnums=0)(NANO, jax.random.key(0))
    huggingface.save(folder, NANO, huggingface.reader_of(params), shard_bytes=30_000)
    write_autoencoder(folder, TINY)
    (folder / "vae_config.json").write_text(json.dumps({"scale_factor": 0.5, "z_channels": 4}))
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
    for name in ("ae.safetensors", "vae_config.json", "vocab.json", "merges.txt"):
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


@pytest.mark.parametrize(
    ("flags", "system", "style"),
    [((), "bagel", "bagel"), (("--system", "unireason"), "unireason", "unireason")],
)
def test_a_converted_folder_remembers_its_system(flags, system, style, release, tmp_path):
    assert run("--from", "bagel", "--input", release, "--output", tmp_path, *flags) == 0
    made = configuration.load_workdir(tmp_path)
    assert (made.system, made.data.style) == (system, style)
    m = unireason_jax.load(tmp_path)
    assert m.presets == catalog.verbs_of(system) and m.style == STYLES[style]


def test_a_converted_folder_draws_edits_and_answers(release, tmp_path):
    assert run("--from", "bagel", "--input", release, "--output", tmp_path) == 0
    m = unireason_jax.load(tmp_path)
    assert m.settings.flow.timesteps == 50 and m.settings.size == (1024, 1024)
    flow = dataclasses.replace(m.settings.flow, timesteps=3)
    m.settings = dataclasses.replace(m.settings, flow=flow, size=(16, 32), max_text=4)
    drawn = m.generate("abc", preset="think_t2i")
    assert drawn.roles == ["user", "plan", "image"] and drawn.image.shape == (16, 32, 3)
    photo = np.random.default_rng(0).integers(0, 256, (90, 41, 3)).astype(np.uint8)
    edited = m.edit(photo, "abc", preset="edit")
    assert edited.image.shape == (32, 16, 3)  # the long edge at most 8 tokens of 4 pixels
    assert m.ask(photo, "abc").roles == ["source", "user", "answer"]


def test_a_trained_run_is_written_out(release, tmp_path):
    """From an Orbax checkpoint with a moving average, leaf by leaf."""
    from unireason_jax.training import state

    configuration.save(tmp_path / "run", configuration.of_model(NANO, "bagel_7b_mot"))
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


@pytest.fixture(scope="module")
def parts(release, tmp_path_factory):
    """The release's language model and its vision tower as Qwen2.5 and SigLIP are released."""
    folder = tmp_path_factory.mktemp("parts")
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
    vit[patch] = vit[patch].reshape(-1, side, side, 3).transpose(0, 3, 1, 2)
    vit["vision_model.head.probe"] = np.zeros((1, 1, 3), "f4")  # SigLIP's pooling is left out
    files = released.json_configs(config)
    vision = {"vision_config": files["vit_config.json"]}
    for name, tensors, values in (("q", llm, files["llm_config.json"]), ("s", vit, vision)):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps(values))
        write_all(folder / name, "model", tensors)
    return folder


def fresh(tmp_path, *command):
    """The parameters of a fresh start."""
    assert run(*command, "--latent_side", 8, "--output", tmp_path / "w") == 0
    found = checkpoint.load_params(tmp_path / "w", dtype="float32")
    blocks = found["stack"]["blocks"]
    jax.tree.map(np.testing.assert_array_equal, blocks["und"], blocks["gen"])
    assert not np.any(found["latent_out"]["kernel"]) and np.any(found["latent_in"]["kernel"])
    return found


def test_a_fresh_start_from_a_language_model_and_a_vision_tower(release, parts, tmp_path):
    """The und expert is copied to the gen expert, a patch convolution becomes linear."""
    found = fresh(tmp_path, "--from", "qwen2", "--input", parts / "q", "--vit", parts / "s")
    wanted = huggingface.load(release, huggingface.read_config(release))
    und = found["stack"]["blocks"]["und"]
    jax.tree.map(np.testing.assert_array_equal, found["vit"], wanted["vit"])
    np.testing.assert_array_equal(found["head"]["kernel"], wanted["embed"].T)  # tied
    assert (np.asarray(und["query_norm"]["scale"]) == 1).all()
    for name, leaf in wanted["stack"]["blocks"]["und"].items():
        jax.tree.map(np.testing.assert_array_equal, und[name], leaf)


def test_a_fresh_start_from_a_language_model_alone(release, parts, tmp_path):
    found = fresh(tmp_path, "--from", "qwen2", "--input", parts / "q")
    wanted = huggingface.load(release, huggingface.read_config(release))
    np.testing.assert_array_equal(found["embed"], wanted["embed"])
    assert "vit" not in found and "connector_in" not in found
    assert configuration.model_config(configuration.load_workdir(tmp_path / "w")).vit is None


def test_a_fresh_start_from_a_vision_tower_alone(release, parts, tmp_path):
    """The language model is drawn: alike for the same seed, as wide as `init` draws it."""
    command = ("--from", "siglip", "--input", parts / "s", "--variant", "nano")
    found = fresh(tmp_path, *command)
    wanted = huggingface.load(release, huggingface.read_config(release))
    jax.tree.map(np.testing.assert_array_equal, found["vit"], wanted["vit"])
    wide = variant("nano", latent={"channels": 16})
    drawn = jax.jit(functional.init, static_argnums=0)(wide, jax.random.key(2))
    assert jax.tree.map(np.shape, found) == jax.tree.map(np.shape, drawn)
    for path, leaf in optim.flatten(found).items():
        if not path.startswith("vit/"):
            np.testing.assert_allclose(leaf.std(), optim.flatten(drawn)[path].std(), rtol=0.1)
    again = fresh(tmp_path / "again", *command)
    jax.tree.map(np.testing.assert_array_equal, found, again)


def copy_with(release, folder, change):
    """A copy of a release with something spoiled."""
    shutil.copytree(release, folder)
    change(folder)
    return folder


def without_controls(folder):
    (folder / "tokenizer_config.json").unlink()


def broken_words(folder):
    (folder / "tokenizer.json").write_text("{}")


def lost_shard(folder):
    sorted(folder.glob("ema-0*"))[1].unlink()


def cut_shard(folder):
    path = sorted(folder.glob("ema-0*"))[1]
    path.write_bytes(path.read_bytes()[:-1])


def rewrite(folder, stem, change):
    """One file with changed tensors instead of what was there."""
    file = folder / "ae.safetensors" if stem == "ae" else huggingface.find_weights(folder)
    archive = Archive(file)
    tensors = {name: archive.read(name) for name in archive}
    change(tensors)
    for path in folder.glob(f"{stem}[-.]*"):
        path.unlink()
    write_all(folder, stem, tensors)


def renamed(folder):
    rewrite(folder, "ema", lambda t: t.update({"llm2vae.wait": t.pop("llm2vae.weight")}))


def quantised(folder):
    name = "language_model.lm_head.weight"
    rewrite(folder, "ema", lambda t: t.update({name: t[name].astype(np.uint8)}))


def foreign_type(folder):
    path = sorted(folder.glob("ema-0*"))[1]
    path.write_bytes(path.read_bytes().replace(b'"BF16"', b'"F8_X"', 1))


def other_autoencoder(folder):
    rewrite(folder, "ae", lambda t: t.update({"quant_conv.weight": np.zeros((8, 8, 1, 1), "f4")}))


def diffusers_autoencoder(folder):
    """The names of another library."""
    names = ("encoder.conv_in.weight", "decoder.conv_in.weight")
    rewrite(folder, "ae", lambda t: [t.pop(n) for n in list(t) if n not in names])


def narrow_autoencoder(folder):
    rewrite(folder, "ae", lambda t: t.pop("encoder.mid.attn_1.q.bias"))


def other_scale(folder):
    (folder / "vae_config.json").write_text(json.dumps({"ch_mult": [1, 2]}))


def stretched(folder):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"interpolate_pos": True}))


def blind(folder):
    sees = ("vit_model.", "connector.", "vit_pos_embed")
    rewrite(folder, "ema", lambda t: [t.pop(n) for n in list(t) if n.startswith(sees)])


def nothing(folder):
    names = ("llm2vae.weight", "language_model.lm_head.weight")
    rewrite(folder, "ema", lambda t: [t[name].fill(np.nan) for name in names])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (blind, "config.json: says that the model looks at images, but"),
        (nothing, "'language_model.lm_head.weight' holds nothing but NaN (2 such)"),
        (without_controls, "tokenizer lacks <|im_start|>"),
        (broken_words, "tokenizer.json cannot be read"),
        (lost_shard, "safetensors: missing"),
        (cut_shard, "truncated; tensor"),
        (renamed, "'llm2vae.weight' [16, 32] is missing"),
        (quantised, "'language_model.lm_head.weight' is U8; weights must be F32, BF16 or F16"),
        (foreign_type, "has type F8_X; known are"),
        (other_autoencoder, "'quant_conv.weight' is not part of the autoencoder"),
        (diffusers_autoencoder, "this is not FLUX's autoencoder"),
        (narrow_autoencoder, "'encoder.mid.attn_1.q.bias' [32] is missing"),
        (other_scale, "vae_config.json: field 'ch_mult' is [1, 2], but the tensors say [1, 1]"),
        (stretched, "field 'interpolate_pos' is True; only False is implemented"),
    ],
)
def test_nothing_is_written_when_the_input_is_wrong(release, tmp_path, capsys, change, message):
    folder = copy_with(release, tmp_path / "in", change)
    assert run("--from", "bagel", "--input", folder, "--output", tmp_path / "w") == 1
    error = capsys.readouterr().err
    assert message in error and len(error.strip().splitlines()) == 1
    assert str(folder) in error
    assert not (tmp_path / "w").exists()


def test_without_a_tokenizer_the_next_step_is_to_bring_one(release, tmp_path, capsys):
    def without_words(folder):
        for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
            (folder / name).unlink()

    folder = copy_with(release, tmp_path / "release", without_words)
    assert run("--from", "bagel", "--input", folder, "--output", tmp_path / "out") == 0
    told = capsys.readouterr().out
    assert "next: copy the release's tokenizer (vocab.json, merges.txt" in told
    assert f"into {tmp_path / 'out' / 'tokenizer'}" in told and "unireason generate" not in told


def test_which_weights_of_a_release_can_be_said(release, tmp_path, capsys):
    folder = shutil.copytree(release, tmp_path / "in")
    archive = Archive(huggingface.find_weights(release))
    table = "latent_pos_embed.pos_embed", "vit_pos_embed.pos_embed"
    tensors = {n: archive.read(n) * (1 if n in table else -1) for n in archive}
    tensors["llm2vae.weight"].reshape(-1)[:4] = np.nan  # some NaN is no reason
    write_all(folder, "model", tensors)
    for which, sign in (("ema", 1), ("model", -1)):
        out = tmp_path / which
        command = ("--from", "bagel", "--input", folder, "--output", out, "--weights", which)
        assert run(*command) == 0
        assert f"{which}.safetensors" in capsys.readouterr().out
        found = checkpoint.load_params(out, dtype="float32")["embed"]
        wanted = archive.read("language_model.model.embed_tokens.weight").astype("f4")
        np.testing.assert_array_equal(found, sign * wanted)
    for path in folder.glob("model*"):
        path.unlink()
    assert run(*command[:-3], tmp_path / "none", "--weights", "model") == 1
    assert "looked for model.safetensors" in capsys.readouterr().err


def test_a_release_without_vit_that_says_so_is_taken(release, tmp_path):
    folder = copy_with(release, tmp_path / "in", blind)
    values = json.loads((folder / "config.json").read_text()) | {"visual_und": False}
    (folder / "config.json").write_text(json.dumps(values))
    assert run("--from", "bagel", "--input", folder, "--output", tmp_path / "w") == 0
    assert configuration.model_config(configuration.load_workdir(tmp_path / "w")).vit is None


def test_a_workdir_is_not_overwritten(release, tmp_path, capsys):
    assert run("--from", "bagel", "--input", release, "--output", tmp_path) == 0
    assert run("--from", "bagel", "--input", release, "--output", tmp_path) == 1
    assert "choose another --output" in capsys.readouterr().err
    assert run("--to", "bagel", "--input", tmp_path / "none", "--output", tmp_path / "x") == 1
    assert "config.json: not found" in capsys.readouterr().err


def test_weights_alone_draw_what_their_run_draws(tmp_path, capsys):
    run = untrained.write(tmp_path / "run")
    command = ["--to", "weights", "--input", str(run), "--output", str(tmp_path / "whole")]
    assert convert.main([*command, "--dtype", "float32"]) == 0
    told = capsys.readouterr().out
    assert "checkpoints/0/params.safetensors" in told and "codec.npz" in told
    a, b = (checkpoint.load_params(folder) for folder in (run, tmp_path / "whole"))
    jax.tree.map(np.testing.assert_array_equal, a, b)
    drawn = [
        unireason_jax.load(folder).generate("a red circle") for folder in (run, tmp_path / "whole")
    ]
    np.testing.assert_array_equal(drawn[0].image, drawn[1].image)
    assert convert.main([*command[:-1], str(tmp_path / "half")]) == 0
    half = Archive(tmp_path / "half" / "checkpoints" / "0" / "params.safetensors")
    assert {half.dtype(name) for name in half} == {"BF16"}
    sizes = [
        sum(file.stat().st_size for file in (tmp_path / name).rglob("*.safetensors"))
        for name in ("whole", "half")
    ]
    assert sizes[1] < 0.6 * sizes[0]
    assert convert.main(command) == 1 and "choose another --output" in capsys.readouterr().err
