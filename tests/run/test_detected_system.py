"""Whose way of sampling a model follows."""

import json
from pathlib import Path

import pytest

from unireason_jax.data.templates import STYLE_OF, STYLES
from unireason_jax.inference.settings import FlowSettings, Settings, with_options
from unireason_jax.inference.systems.catalog import PRESETS, VERBS, verbs_of
from unireason_jax.run import configuration, detected_system, tokenizing
from unireason_jax.run.configuration import ConfigError


@pytest.mark.parametrize(
    "name, system",
    [
        ("BAGEL-7B-MoT", "bagel"),
        ("UniReason-1.0", "unireason"),
        ("uni_reason", "unireason"),
        ("Uni-Edit-BAGEL", "uni_edit"),
        ("IRG-7B", "irg"),
        ("virgo", "bagel"),
        ("weights", "bagel"),
    ],
)
def test_a_release_is_known_by_its_folder(name, system, tmp_path):
    assert detected_system.system_of(tmp_path / name) == system


def test_every_system_has_a_style_and_presets():
    assert VERBS.keys() == STYLE_OF.keys()
    assert set(STYLE_OF.values()) <= STYLES.keys()
    assert {name for verbs in VERBS.values() for name in verbs.values()} <= PRESETS.keys()
    assert verbs_of("") == VERBS["bagel"]


def folder(path: Path, **about):
    path.mkdir(parents=True)
    (path / "manifest.json").write_text(json.dumps({"shards": [], "sizes": "bagel", **about}))


def told(monkeypatch, tmp_path, **changes):
    """The config of a run on two groups, with values set."""
    config = configuration.load("configs/common.py")
    config.data.source, config.data.groups = str(tmp_path), {"a": 0.5, "b": 0.5}
    for name, value in changes.items():
        part, _, key = name.rpartition("__")
        setattr(getattr(config, part) if part else config, key, value)

    class Source:
        def __init__(self, path):
            self.manifest = json.loads((path / "manifest.json").read_text())

    for module in (detected_system, tokenizing):
        monkeypatch.setattr(module, "ArrayRecordSource", Source)
    return detected_system.told(config)


def test_a_run_takes_system_and_style_from_its_records(monkeypatch, tmp_path):
    folder(tmp_path / "a", style="plain", system="bagel")
    folder(tmp_path / "b", style="unireason", system="unireason")
    made = told(monkeypatch, tmp_path)
    assert (made.system, made.data.style) == ("unireason", "unireason")
    made = told(monkeypatch, tmp_path, system="bagel", data__style="process")
    assert (made.system, made.data.style) == ("bagel", "process")
    with pytest.raises(ConfigError, match=r"config\.system is 'begal'"):
        told(monkeypatch, tmp_path, system="begal")


def test_folders_of_before_say_nothing(monkeypatch, tmp_path):
    for name in "ab":
        folder(tmp_path / name)
    made = told(monkeypatch, tmp_path)
    assert (made.system, made.data.style) == ("", "plain")


def test_single_values_go_before_those_of_a_preset():
    base = Settings(refine=FlowSettings(shift=4.0), max_reflection=9)
    given = {"timesteps": 25, "guidance": 2.0, "interval": [0.0, 0.5], "renorm": "channel"}
    made = with_options(base, given | {"max_text": 5})
    assert made.flow.timesteps == made.refine.timesteps == 25
    assert made.refine.shift == 4.0 and made.refine.text_scale == 2.0
    assert made.refine.interval == (0.0, 0.5) and made.flow.renorm == "channel"
    assert made.limit_of("reflection") == made.limit_of("plan") == 5
