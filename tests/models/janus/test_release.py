"""The layout of Janus releases: every official name, and configs that are refused by name."""

import itertools
import json

import pytest

from unireason_jax.models.archive import Archive
from unireason_jax.models.config import VARIANTS, from_dict, to_dict
from unireason_jax.models.janus import release, release_config
from unireason_jax.models.janus.config import VQConfig

CONFIG = "config.json"


def official(rows):
    """The names and shapes of a collapsed table."""
    for row in rows:
        letters = [letter for letter in "ij" if letter in row]
        ranges = [range(row[letter][0], row[letter][1] + 1) for letter in letters]
        for numbers in itertools.product(*ranges):
            name = row["name"]
            for letter, number in zip(letters, numbers):
                name = name.replace(f"{{{letter}}}", str(number))
            yield name, tuple(row["shape"])


@pytest.mark.parametrize(
    "name, key", [("janus_pro_1b", "Janus-Pro-1B"), ("janus_pro_7b", "Janus-Pro-7B")]
)
def test_every_official_name_and_shape(janus_goldens, name, key):
    table = json.loads((janus_goldens / "official_layout.json").read_text())[key]
    wanted = dict(official(table["rows"]))
    assert len(wanted) == table["tensors"]
    assert release.official_shapes(VARIANTS[name], VQConfig()) == wanted


def test_variants_survive_json():
    for name, config in VARIANTS.items():
        assert from_dict(json.loads(json.dumps(to_dict(config)))) == config, name


@pytest.fixture
def folder(janus_goldens, tmp_path):
    """A release's config.json, to be changed."""
    (tmp_path / CONFIG).write_bytes((janus_goldens / CONFIG).read_bytes())

    def changed(*keys, value):
        values = json.loads((tmp_path / CONFIG).read_text())
        inner = values
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = value
        (tmp_path / CONFIG).write_text(json.dumps(values))
        return tmp_path

    return changed


@pytest.mark.parametrize(
    "keys, value",
    [
        (("model_type",), "llava"),
        (("aligner_config", "params", "projector_type"), "linear"),
        (("gen_vision_config", "cls"), "VQ-8"),
        (("vision_config", "params", "select_feature"), "cls"),
        (("vision_config", "params", "select_layer"), -9),
        (("language_config", "hidden_act"), "gelu"),
        (("language_config", "attention_bias"), True),
        (("language_config", "tie_word_embeddings"), True),
        (("language_config", "rope_scaling"), {"rope_type": "yarn"}),
        (("language_config", "num_attention_heads"), "many"),
        (("gen_head_config", "params", "image_token_size"), 65),
        (("tiny_overrides", "vq", "ch_mult"), 4),
    ],
)
def test_what_is_not_implemented_is_refused_by_name(folder, keys, value):
    field = {"gen_head_config": "gen_head"}.get(keys[0], keys[-1])
    with pytest.raises(ValueError, match=rf"config.json: .*{field}"):
        release_config.read_config(folder(*keys, value=value))


def test_sizes_are_read_and_not_assumed(folder):
    folder("vision_config", "params", "select_layer", value=-2)
    folder("language_config", "rope_theta", value=5e4)
    folder("language_config", "rms_norm_eps", value=1e-5)
    folder("tiny_overrides", "vq", "group_norm_eps", value=1e-5)
    path = folder("language_config", "num_key_value_heads", value=2)
    config, tokenizer = release_config.read_config(path)
    assert (config.vit.layers, config.llm.kv_heads) == (2, 2)
    assert (config.llm.rope_theta, config.llm.norm_eps) == (5e4, 1e-5)
    assert tokenizer.norm_eps == 1e-5


@pytest.mark.parametrize(
    "keys, value, message",
    [
        (("language_config", "hidden_size"), 128, r"tensor '\S+' has shape"),
        (("language_config", "num_hidden_layers"), 4, r"'\S+layers\.3\S+' .* is missing"),
        (("vision_config", "params", "select_layer"), 2, r"'\S+blocks\.2\S+' is not part"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(janus_goldens, folder, keys, value, message):
    archive = Archive(release.find_weights(janus_goldens))
    sizes = release_config.read_config(folder(*keys, value=value))
    with pytest.raises(ValueError, match=message):
        release.check(archive, *sizes)
