"""Adapters by name, merged and beside, and from and to the form of PEFT, bit for bit."""

import json
import shutil

import jax
import numpy as np
import pytest

import unireason_jax
from tests import untrained
from unireason_jax import convert
from unireason_jax.models import functional, peft
from unireason_jax.models.archive import Archive
from unireason_jax.models.sizes import LoraConfig
from unireason_jax.run.run import Run
from unireason_jax.training.optim import flatten

pytestmark = pytest.mark.usefixtures("quick_compile")
NAME = "base_model.model.language_model.model.layers.{}.self_attn.{}.lora_{}.weight"


def run(*arguments):
    """The command's exit status."""
    return convert.main([str(x) for x in arguments])


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return untrained.write(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def adapter(base, tmp_path_factory):
    """A folder of PEFT's, as `peft.write` makes it of random adapters."""
    folder = tmp_path_factory.mktemp("peft")
    model = functional.with_adapters(Run.load(base).model, LoraConfig(2, alpha=3.0, rslora=True))
    fresh = jax.jit(lambda: functional.init_adapters(model, jax.random.key(0)))()
    rng = np.random.default_rng(0)
    leaves = {k: rng.normal(size=v.shape, scale=0.1).astype(np.float32) for k, v in fresh.items()}
    peft.write(folder, model, leaves)
    return folder


@pytest.fixture(scope="module")
def workdir(base, adapter, tmp_path_factory):
    """The adapter as a run that learned it would have left it."""
    out = tmp_path_factory.mktemp("work") / "w"
    assert run("--from", "peft", "--input", adapter, "--base", base, "--output", out) == 0
    return out


def test_names_and_layout_are_those_of_the_released_modules(adapter):
    archive = Archive(adapter / peft.WEIGHTS)
    assert archive.shape(NAME.format(0, "q_proj", "A")) == (2, 32)
    assert archive.shape(NAME.format(1, "k_proj_moe_gen", "B")) == (16, 2)
    assert len(list(archive)) == 2 * 2 * 2 * 7  # matrices, layers, experts, kernels of each
    values = json.loads((adapter / peft.CONFIG).read_text())
    assert values["r"] == 2 and values["lora_alpha"] == 3.0 and values["use_rslora"] is True
    assert r"language_model\.model\.layers\.\d+\.mlp_moe_gen\.gate_proj" in values["target_modules"]


def test_there_and_back_bit_for_bit(adapter, workdir, tmp_path):
    assert run("--to", "peft", "--input", workdir, "--output", tmp_path / "again") == 0
    for name in (peft.WEIGHTS, peft.CONFIG):
        assert (tmp_path / "again" / name).read_bytes() == (adapter / name).read_bytes()


def test_a_name_a_folder_and_a_run_are_the_same_adapter(base, adapter, workdir):
    shutil.copytree(adapter, base / "adapters" / "mine")
    shutil.copytree(workdir, base / "adapters" / "other")
    found = [unireason_jax.load(base, adapter=a) for a in ("mine", "other", str(adapter))]
    found.append(unireason_jax.load(workdir))
    plain = flatten(unireason_jax.load(base).engine.params)
    first = flatten(found[0].engine.params)
    assert first.keys() == plain.keys()
    changed = {name for name in plain if np.any(first[name] != plain[name])}
    layers = {name for name in plain if name.startswith("stack/blocks")}
    assert changed == {name for name in layers if name.endswith("kernel")}
    for other in found[1:]:
        for name, leaf in flatten(other.engine.params).items():
            np.testing.assert_array_equal(leaf, first[name], err_msg=name)
    with pytest.raises(FileNotFoundError, match=r"--adapter none: .* has mine, other\."):
        unireason_jax.load(base, adapter="none")
    with pytest.raises(ValueError, match="has adapters of its own"):
        unireason_jax.load(workdir, adapter="mine")


def test_merged_draws_what_beside_draws(workdir):
    texts = []
    for options in ({}, {"merged": False}):
        reasoner = unireason_jax.load(workdir, **options)
        is_beside = "lora" in flatten(reasoner.engine.params).__str__()
        assert is_beside == (options != {})
        texts.append(reasoner.generate("a red circle", timesteps=3, max_text=4))
    pictures = [np.asarray(t.image, np.int32) for t in texts]
    assert np.max(np.abs(pictures[0] - pictures[1])) <= 1


def test_bagel_gets_the_merged_weights(base, workdir, tmp_path):
    for source, out in ((workdir, "merged"), (base, "plain")):
        options = ("--output", tmp_path / out, "--dtype", "float32")
        assert run("--to", "bagel", "--input", source, *options) == 0
    merged, plain = (Archive(tmp_path / out / "ema.safetensors") for out in ("merged", "plain"))
    assert set(merged) == set(plain)
    name = "language_model.model.layers.1.mlp_moe_gen.down_proj.weight"
    parts = [
        Archive(workdir / "checkpoints/0/params.safetensors").read(
            f"stack/blocks/gen/down/lora/{x}"
        )
        for x in "ab"
    ]
    wanted = plain.read(name) + 3 / 2**0.5 * (parts[0][1] @ parts[1][1]).T
    np.testing.assert_allclose(merged.read(name), wanted, atol=1e-6)
    same = "language_model.model.embed_tokens.weight"
    assert merged.read(same).tobytes() == plain.read(same).tobytes()
    assert run("--to", "peft", "--input", base, "--output", tmp_path / "none") == 1


def test_weights_that_moved_are_found_or_asked_for(base, workdir, tmp_path):
    together = tmp_path / "here"
    shutil.copytree(workdir, together / "run")
    note = json.loads((workdir / "checkpoints/0/manifest.json").read_text().split("\n")[0])["base"]
    assert note["path"] == str(base / "checkpoints/1")
    moved = tmp_path / "elsewhere"
    shutil.move(base, moved)
    try:
        with pytest.raises(FileNotFoundError, match="--checkpoint WEIGHTS --adapter"):
            unireason_jax.load(workdir)
        unireason_jax.load(moved, adapter=str(workdir))
    finally:
        shutil.move(moved, base)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"use_dora": True}, "use_dora is True"),
        ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
        ({"r": 3}, "r of adapter_config.json wrong"),
        ({"lora_alpha": None}, "adapter_config.json"),
    ],
)
def test_what_cannot_be_read_is_told(base, adapter, tmp_path, capsys, change, told):
    folder = shutil.copytree(adapter, tmp_path / "p")
    values = json.loads((folder / peft.CONFIG).read_text()) | change
    (folder / peft.CONFIG).write_text(json.dumps(values))
    assert run("--from", "peft", "--input", folder, "--base", base, "--output", tmp_path / "w") == 1
    message = capsys.readouterr().err
    assert told in message and message.count("\n") == 1
    assert not (tmp_path / "w" / "checkpoints").exists()
