"""Training adapters: the base is never written, small checkpoints go on anywhere, bit for bit."""

import json
import logging as standard
import zlib
from pathlib import Path

import jax
import numpy as np
import pytest

from tests import untrained
from unireason_jax import train
from unireason_jax.inference.load import load
from unireason_jax.models import lora
from unireason_jax.run import configuration, initial_state
from unireason_jax.run.run import Run
from unireason_jax.training import checkpoint
from unireason_jax.training.optim import flatten

pytestmark = pytest.mark.usefixtures("quick_compile")
DEMO = Path(__file__).resolve().parents[2] / "notebooks" / "demo"
SMALL = {
    "lora.rank": 2,
    "lora.dropout": 0.25,
    "data.rows": 2,
    "data.examples": 48,
    "data.window": 16,
    "train.steps": 4,
    "train.save_every": 2,
    "train.log_every": 2,
    "train.keep": 3,
    "train.tensorboard": False,
    "eval.every": 0,
    "mesh.data": 1,
}


def make_run(base, devices=1, **overrides):
    changes = {key.replace("__", "."): value for key, value in overrides.items()}
    config = configuration.load("configs/tiny.py", SMALL | {"init_from": str(base)} | changes)
    return Run.of(config, jax.devices()[:devices]).settled()


def trained(run, workdir):
    return train.train(run, run.pipeline(workdir=workdir), train.epath.Path(workdir))


def checksums(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path): zlib.crc32(path.read_bytes()) for path in files}


def same(one, two):
    one, two = flatten(one), flatten(two)
    assert one.keys() == two.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], two[name], err_msg=name)


@pytest.fixture(scope="module")
def base(quick_compile, tmp_path_factory):
    return untrained.write(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def unbroken(base, tmp_path_factory):
    """Workdir of four steps on one device, and the state they ended in."""
    before, workdir = checksums(base), tmp_path_factory.mktemp("unbroken")
    state = trained(make_run(base), workdir)
    assert checksums(base) == before
    return workdir, state


def test_only_adapters_learn_and_are_kept(base, unbroken):
    workdir, state = unbroken
    start, now = flatten(checkpoint.load_params(base, which="ema")), flatten(state.params)
    for name, leaf in start.items():
        np.testing.assert_array_equal(leaf, now[name], err_msg=name)
    learned = lora.own(now)
    assert all(np.any(leaf) for leaf in learned.values()) and len(learned) == 28
    assert flatten(state.ema).keys() == learned.keys()
    manifest = json.loads((workdir / "checkpoints/4/manifest.json").read_text().split("\n")[0])
    assert manifest["leaves"]["params"].keys() == learned.keys()
    assert not any("embed" in name for part in manifest["leaves"].values() for name in part)


def test_an_interrupted_run_ends_as_an_unbroken_one(base, unbroken, tmp_path):
    trained(make_run(base, train__steps=2, optim__total_steps=4), tmp_path)
    state = trained(make_run(base, train__steps=4), tmp_path)
    same(state.params, unbroken[1].params)
    same(state.ema, unbroken[1].ema)


def test_an_adapter_of_two_devices_goes_on_on_one(base, unbroken, tmp_path):
    trained(make_run(base, 2, train__steps=2, optim__total_steps=4), tmp_path)
    state = trained(make_run(base, 1, train__steps=4), tmp_path)
    for name, leaf in flatten(unbroken[1].params).items():
        np.testing.assert_allclose(flatten(state.params)[name], leaf, atol=2e-5, err_msg=name)


def test_merged_weights_are_read_where_no_adapters_are_expected(base, unbroken):
    workdir, _ = unbroken
    plain = make_run(base, lora__rank=0)
    merged = flatten(checkpoint.load_params(workdir, expected=plain.abstract.params, which="ema"))
    raw = flatten(checkpoint.load_params(workdir, which="ema"))
    a, b = lora.parts_of("stack/blocks/gen/out/kernel")
    kernel = raw["stack/blocks/gen/out/kernel"]
    wanted = kernel + 8 * np.einsum("lnhr,lrd->lnhd", raw[a], raw[b])
    np.testing.assert_allclose(merged["stack/blocks/gen/out/kernel"], wanted, atol=1e-6)
    np.testing.assert_array_equal(merged["embed"], raw["embed"])


@pytest.mark.parametrize(
    ("changes", "warns"),
    [
        ({}, True),
        ({"lora__targets": ("^latent_out/kernel$",)}, False),
        ({"lora__rank": 0}, False),
        ({"lora__rank": 0, "optim__freeze": ("^latent_out/",)}, True),
    ],
)
def test_a_head_that_is_zero_and_does_not_move_is_told(changes, warns, base, caplog):
    """What is drawn then stays noise, and the flow loss cannot fall."""
    with caplog.at_level(standard.WARNING, logger="absl"):
        initial_state.initial_params(make_run(base, **changes))
    assert ("llm2vae" in caplog.text and "stay noise" in caplog.text) == warns


def test_sampling_with_a_head_that_is_zero_is_told(base, caplog):
    with caplog.at_level(standard.WARNING, logger="absl"):
        load(base)
        assert "pictures will be noise" in caplog.text and str(base) in caplog.text
        caplog.clear()
        load(DEMO)
        assert "noise" not in caplog.text
