"""Adapters of a Janus in PEFT's form: names that PEFT can load, and those that it cannot."""

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from unireason_jax.models import functional, peft
from unireason_jax.models.archive import ArchiveError
from unireason_jax.models.config import variant
from unireason_jax.models.sizes import LoraConfig

PREFIX, TOWER = "base_model.model.", "vision_model.vision_tower.blocks.0."


def adapted(*targets):
    return functional.with_adapters(variant("janus_nano"), LoraConfig(2, targets=targets))


def drawn(model):
    """Random adapters."""
    fresh = jax.eval_shape(lambda: functional.init_adapters(model, jax.random.key(0)))
    rng = np.random.default_rng(0)
    return {path: rng.normal(size=leaf.shape).astype(np.float32) for path, leaf in fresh.items()}


def test_a_part_of_a_matrix_of_the_tower_is_refused_before_anything_is_written(tmp_path):
    model = adapted("^vit/blocks/(query|value|up)/kernel$")
    told = r"vit/blocks/query/kernel is of a part of {}attn\.qkv, which PEFT adapts as a whole \(2 "
    with pytest.raises(ValueError, match=told.format(TOWER)) as found:
        peft.write(tmp_path / "out", model, drawn(model))
    assert "lora.targets" in str(found.value) and "--to janus" in str(found.value)
    assert not (tmp_path / "out").exists()


def test_all_other_kernels_are_written_and_read(tmp_path):
    model = adapted(
        "^vit/blocks/(out|up|down)/kernel$", "^stack/blocks/", "^aligner/", "^gen_head/"
    )
    leaves = drawn(model)
    peft.write(tmp_path, model, leaves)
    names = load_file(tmp_path / peft.WEIGHTS).keys()
    assert f"{PREFIX}{TOWER}attn.proj.lora_A.weight" in names
    assert f"{PREFIX}gen_head.vision_head.lora_B.weight" in names
    assert not any("#" in name for name in names)
    _, again = peft.read(tmp_path, functional.bare(model))
    assert again.keys() == leaves.keys()
    for path, leaf in leaves.items():
        np.testing.assert_array_equal(again[path], leaf, err_msg=path)


def test_an_adapter_of_the_whole_matrix_is_refused_with_why(tmp_path):
    model = adapted("^vit/blocks/out/kernel$")
    peft.write(tmp_path, model, drawn(model))
    tensors = load_file(tmp_path / peft.WEIGHTS)
    width = tensors[f"{PREFIX}{TOWER}attn.proj.lora_A.weight"].shape[1]
    tensors[f"{PREFIX}{TOWER}attn.qkv.lora_A.weight"] = np.zeros((2, width), np.float32)
    save_file(tensors, tmp_path / peft.WEIGHTS)
    with pytest.raises(ArchiveError, match=r"attn\.qkv\.lora_A\.weight' .* several here"):
        peft.read(tmp_path, functional.bare(model))
