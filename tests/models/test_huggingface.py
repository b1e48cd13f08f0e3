"""Released checkpoints in and out: bit for bit, by slice, and refused with the tensor's name."""

import json

import jax
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from unireason_jax.models import functional, huggingface, official_names, released
from unireason_jax.models.archive import Archive, write_archive
from unireason_jax.models.config import variant
from unireason_jax.pods import sharding

NANO = variant("nano", llm={"qk_norm": False})


@pytest.fixture(scope="module")
def params():
    return jax.jit(functional.init, static_argnums=0)(NANO, jax.random.key(0))


@pytest.fixture
def folder(tmp_path, params):
    """A float32 release of a nano model without query-key norm."""
    huggingface.save(tmp_path, NANO, huggingface.reader_of(params), dtype="float32")
    return tmp_path


def tensors(folder):
    """All tensors of a single-file release, read by the safetensors library."""
    with safe_open(folder / "ema.safetensors", framework="numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys()}


def rewrite(folder, change):
    """Applies a function to the dict of tensors of a release."""
    found = tensors(folder)
    change(found)
    save_file({k: np.ascontiguousarray(v) for k, v in found.items()}, folder / "ema.safetensors")


def test_config_and_weights_come_back(folder, params):
    config = huggingface.read_config(folder)
    assert config == NANO
    found = huggingface.load(folder, config)
    jax.tree.map(np.testing.assert_array_equal, found, params)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_shards_with_an_index_come_back(tmp_path, params, dtype):
    read = huggingface.reader_of(params)
    files = huggingface.save(tmp_path, NANO, read, dtype=dtype, shard_bytes=30_000)
    shards = [name for name in files if name.startswith("ema-")]
    assert len(shards) > 3 and "ema.safetensors.index.json" in files
    assert all((tmp_path / name).stat().st_size < 40_000 for name in shards)
    found = huggingface.load(tmp_path, huggingface.read_config(tmp_path), dtype=dtype)
    wanted = jax.tree.map(lambda x: x.astype(dtype), params)
    jax.tree.map(np.testing.assert_array_equal, found, wanted)
    with safe_open(tmp_path / shards[-1], framework="numpy") as file:
        name = next(iter(file.keys()))
        assert file.get_tensor(name).dtype == np.dtype(dtype)


def test_a_released_file_is_written_back_bit_for_bit(goldens, tmp_path):
    config = huggingface.read_config(goldens)
    params = huggingface.load(goldens, config)
    huggingface.save(tmp_path, config, huggingface.reader_of(params), dtype="float32")
    ours, theirs = tensors(tmp_path), tensors(goldens)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name].view(np.uint32), value.view(np.uint32), name)
    assert huggingface.read_config(tmp_path) == config


def test_each_device_reads_its_own_slice(folder, params):
    mesh = sharding.make_mesh({"fsdp": 4, "tensor": 2})
    shapes, axes = functional.abstract(NANO), functional.logical_axes(NANO)
    target = sharding.shardings(mesh, shapes, axes)
    found = huggingface.load(folder, NANO, shardings=target)
    jax.tree.map(np.testing.assert_array_equal, found, params)
    for leaf, place in zip(jax.tree.leaves(found), jax.tree.leaves(target)):
        assert leaf.sharding.is_equivalent_to(place, leaf.ndim)


def test_every_slice_of_every_leaf_is_what_indexing_gives(folder, params):
    archive, rng = Archive(folder / "ema.safetensors"), np.random.default_rng(0)
    for path, tensor in official_names.layout(NANO).items():
        leaf = np.asarray(official_names.at_path(params, path))
        read = huggingface.leaf_reader(archive, tensor, np.dtype(np.float32))
        for _ in range(3):
            bounds = [np.sort(rng.integers(0, n + 1, 2)) for n in leaf.shape]
            index = tuple(slice(int(a), max(int(b), int(a) + 1)) for a, b in bounds)
            index = tuple(
                slice(s.start - 1, s.stop - 1) if s.stop > n else s
                for s, n in zip(index, leaf.shape)
            )
            np.testing.assert_array_equal(read(index), leaf[index], path)


def rename(tensors):
    tensors["llm2vae.wait"] = tensors.pop("llm2vae.weight")


def drop_layer(tensors):
    del tensors["language_model.model.layers.1.mlp_moe_gen.up_proj.weight"]


def cut(tensors):
    tensors["vae2llm.weight"] = tensors["vae2llm.weight"][:-1]


def add(tensors):
    tensors["lora.weight"] = np.zeros(3, np.float32)


def to_integers(tensors):
    name = "connector.fc1.bias"
    tensors[name] = tensors[name].astype(np.int32)


def spoil_table(tensors):
    tensors[huggingface.LATENT_TABLE] = tensors[huggingface.LATENT_TABLE] + 0.1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (rename, r"'llm2vae\.weight' \[16, 32\] is missing"),
        (drop_layer, r"layers\.1\.mlp_moe_gen\.up_proj\.weight' \[64, 32\] is missing"),
        (cut, r"'vae2llm\.weight' has shape \[31, 16\].*ask for \[32, 16\]"),
        (add, r"'lora\.weight' is not part of the model"),
        (to_integers, r"'connector\.fc1\.bias' is I32"),
        (spoil_table, r"'latent_pos_embed\.pos_embed' is not the fixed sin-cos table"),
    ],
)
def test_a_wrong_tensor_is_named(folder, change, message):
    rewrite(folder, change)
    with pytest.raises(ValueError, match=message):
        huggingface.load(folder, huggingface.read_config(folder))


def test_truncated_and_foreign_files_are_named(folder):
    path = folder / "ema.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:-100])
    with pytest.raises(ValueError, match=r"ema\.safetensors: truncated; tensor"):
        huggingface.read_config(folder)
    path.write_bytes(b"PK\x03\x04" + data[4:50])
    with pytest.raises(ValueError, match="not a safetensors file"):
        huggingface.read_config(folder)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"looked for ema\.safetensors"):
        huggingface.read_config(folder)


def test_contradicting_configs_are_named(folder):
    file = folder / "llm_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({k: v for k, v in config.items() if k != "hidden_size"}))
    with pytest.raises(ValueError, match=r"llm_config\.json: field 'hidden_size' is missing"):
        huggingface.read_config(folder)
    file.write_text(json.dumps(config))
    main = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(main | {"vit_max_num_patch_per_side": 9}))
    with pytest.raises(
        ValueError, match=r"'vit_pos_embed.*\[64, 32\], but the configs ask.*\[81, 32\]"
    ):
        huggingface.load(folder, huggingface.read_config(folder))


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("llm_config.json", {"hidden_act": "gelu"}, "'hidden_act' is 'gelu'; only 'silu'"),
        ("llm_config.json", {"rope_scaling": {"type": "yarn"}}, "'rope_type' is 'yarn'"),
        ("llm_config.json", {"use_sliding_window": True}, "'use_sliding_window' is True"),
        ("vit_config.json", {"num_channels": 4}, "'num_channels' is 4"),
        ("config.json", {"connector_act": "relu"}, "'connector_act' is 'relu'"),
        ("llm_config.json", {"hidden_size": "64"}, "'hidden_size' is '64'; it must be a whole"),
        ("llm_config.json", {"num_attention_heads": 0}, "'num_attention_heads' is 0; it must"),
        ("llm_config.json", {"num_hidden_layers": 10**9}, "'num_hidden_layers' is 1000000000"),
        ("llm_config.json", {"intermediate_size": True}, "'intermediate_size' is True"),
        ("llm_config.json", {"rope_theta": [1]}, r"'rope_theta' is \[1\]; it must be a number"),
        ("llm_config.json", {"rms_norm_eps": float("nan")}, "'rms_norm_eps' is nan"),
        ("llm_config.json", {"rope_scaling": "linear"}, "'rope_parameters' or 'rope_scaling'"),
        ("vit_config.json", {"patch_size": -14}, "'patch_size' is -14"),
        ("config.json", {"latent_patch_size": 2.0}, "'latent_patch_size' is 2.0"),
        ("config.json", {"vit_max_num_patch_per_side": 2**60}, "'vit_max_num_patch_per_side' is"),
    ],
)
def test_what_is_not_implemented_is_refused_by_field(folder, file, change, message):
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=rf"{file}: field {message}"):
        huggingface.read_config(folder)


def test_missing_keys_have_the_official_defaults(folder):
    """Qwen2's, SigLIP's and BAGEL's; newer Qwen2 configs keep the rotary base in a dict."""
    released_config = huggingface.read_config(folder)
    for file, keys in (
        ("llm_config.json", ("rope_theta", "rms_norm_eps", "head_dim", "qk_norm")),
        ("vit_config.json", ("layer_norm_eps", "rope")),
        ("config.json", ("latent_patch_size", "max_latent_size", "vit_max_num_patch_per_side")),
    ):
        values = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps({k: v for k, v in values.items() if k not in keys}))
    config = huggingface.read_config(folder)
    assert config.llm.rope_theta == 1e4 and config.llm.norm_eps == config.vit.norm_eps == 1e-6
    assert config.vit == released_config.vit and config.latent == released_config.latent
    values = json.loads((folder / "llm_config.json").read_text())
    values["rope_parameters"] = {"rope_type": "default", "rope_theta": 5e5}
    (folder / "llm_config.json").write_text(json.dumps(values))
    assert huggingface.read_config(folder).llm.rope_theta == 5e5
    bare = released.vit_config({}, "config.json")
    assert (bare.width, bare.layers, bare.heads, bare.mlp) == (768, 11, 12, 3072)
    assert (bare.patch, bare.side, bare.learned) == (16, 14, None)


def test_the_side_of_the_latent_table_comes_from_the_tensor(folder):
    main = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(main | {"max_latent_size": 32}))
    assert huggingface.read_config(folder).latent.side == NANO.latent.side
    rewrite(folder, lambda t: t.pop(huggingface.LATENT_TABLE))
    assert huggingface.read_config(folder).latent.side == 32


def test_an_archive_reads_what_it_wrote(tmp_path):
    rng = np.random.default_rng(1)
    values = {"a": rng.normal(size=(5, 3)).astype(np.float32), "b": rng.integers(0, 9, 4)}
    announced = {"a": ((5, 3), "F32"), "b": ((4,), "I64")}
    write_archive(
        tmp_path, "x", announced, lambda n: [values[n][:2], values[n][2:]], shard_bytes=99
    )
    archive = Archive(tmp_path / "x.safetensors")
    for name, value in values.items():
        np.testing.assert_array_equal(archive.read(name), value)
    np.testing.assert_array_equal(
        archive.read("a", (slice(1, 4), slice(0, 2))), values["a"][1:4, :2]
    )
    with pytest.raises(ValueError, match="'a' has 6 elements"):
        write_archive(tmp_path, "y", announced, lambda n: [values[n][:2]], shard_bytes=99)
    assert not (tmp_path / "y.safetensors").exists()
