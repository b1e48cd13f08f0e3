"""What weights that never move are kept as, and what a device then holds."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from unireason_jax.models import functional, lora
from unireason_jax.models.sizes import LoraConfig
from unireason_jax.run import configuration, initial_state, memory_options
from unireason_jax.run.configuration import ConfigError
from unireason_jax.run.run import Run
from unireason_jax.training.optim import flatten

DEMO = Path(__file__).resolve().parents[2] / "notebooks" / "demo"
UND, GEN = "stack/blocks/und/up/kernel", "stack/blocks/gen/up/kernel"


def leaves(**overrides):
    """Shapes of all parameters of a tiny run by path, and the run."""
    changes = {key.replace("__", "."): value for key, value in overrides.items()}
    changes |= {"data.rows": 1, "init_from": "base"}
    run = Run.of(configuration.load("configs/tiny.py", changes), jax.devices()[:1])
    return flatten(run.abstract.params), run


def test_nothing_changes_unless_asked():
    found, _ = leaves(optim__freeze=("^stack/blocks/und/",))
    assert {leaf.dtype for leaf in found.values()} == {jnp.dtype("float32")}


def test_frozen_matrices_are_kept_as_they_are_multiplied_beside_adapters():
    found, run = leaves(lora__rank=2, model__dtype="bfloat16")
    assert found[UND].dtype == found["embed"].dtype == jnp.bfloat16
    assert found["stack/und_norm/scale"].dtype == found[lora.parts_of(UND)[0]].dtype == jnp.float32
    assert flatten(run.abstract.ema).keys() == lora.own(found).keys()


@pytest.mark.parametrize(("kind", "codes"), [("int8", jnp.int8), ("nf4", jnp.uint8)])
def test_few_bits_are_kept_of_what_is_frozen_only(kind, codes):
    found, run = leaves(optim__freeze=("^stack/blocks/und/",), model__frozen_dtype=kind)
    assert found[f"{UND}/codes"].dtype == codes and UND not in found
    assert found[GEN].dtype == jnp.float32
    trainable = flatten(run.optimizer.split(run.abstract.params)[0])
    assert GEN in trainable and not any("/und/" in path for path in trainable)


def test_few_bits_of_nothing_are_refused():
    for freeze in ((), ("^embed$",)):
        with pytest.raises(ConfigError, match=r"config.model.frozen_dtype=int8: "):
            leaves(optim__freeze=freeze, model__frozen_dtype="int8")
    with pytest.raises(ValueError, match="'int4' is not one of float32, bfloat16, int8, nf4"):
        leaves(lora__rank=1, model__frozen_dtype="int4")


def test_random_weights_get_no_adapters_and_stay_whole():
    for changes in ({"lora__rank": 2}, {"optim__freeze": ("/und/",), "model__frozen_dtype": "nf4"}):
        with pytest.raises(ConfigError, match=r"config\.init_from=scratch: "):
            initial_state.refuse_scratch(leaves(**changes)[1])
    initial_state.refuse_scratch(leaves()[1])


def test_the_table_of_choices_says_what_each_takes():
    run = leaves(lora__rank=2)[1]
    held = [
        memory_options.sizes(memory_options.changed(run, way))["parameters"]
        for way in memory_options.FROZEN
    ]
    assert held == sorted(held, reverse=True) and held[0] > 1.5 * held[1]
    kept = [
        memory_options.sizes(memory_options.changed(run, way))["optimizer state"]
        for way in memory_options.RULES
    ]
    assert kept[0] > 1.8 * kept[1] > 1.5 * kept[2]
    lines = memory_options.table(run).splitlines()
    assert len(lines) == 1 + len(memory_options.FROZEN) + len(memory_options.RULES)
    assert lines[4].startswith("  model.frozen_dtype=nf4") and lines[4].endswith(" GiB")
    assert len(memory_options.table(leaves()[1]).splitlines()) == 1 + len(memory_options.RULES)


def test_adapters_of_the_demo_take_less_than_a_mebibyte():
    model = configuration.model_config(configuration.load_workdir(DEMO))
    shapes = functional.abstract(functional.with_adapters(model, LoraConfig(4)))
    assert 0.5 * 2**20 < 4 * functional.count(lora.own(flatten(shapes))) < 2**20
    with pytest.raises(ValueError, match=r"lora\.rank is -1"):
        dataclasses.replace(LoraConfig(1), rank=-1)
