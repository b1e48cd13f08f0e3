"""What a run draws while it learns are held-out requests, for images first."""

import jax
import pytest

from unireason_jax.data.sources import WorldSource
from unireason_jax.data.templates import PLAIN
from unireason_jax.evals import samples
from unireason_jax.inference.systems import catalog
from unireason_jax.run import configuration
from unireason_jax.run.configuration import ConfigError
from unireason_jax.run.run import Run
from unireason_jax.world.scenes import is_held_out_prompt


def config_of(**changes):
    config = configuration.load("configs/tiny.py")
    config.eval.samples = 5
    config.data.update(changes)
    return config


def test_the_world_s_prompts_are_held_out_and_always_the_same():
    found = samples.requests(Run.of(config_of()))
    assert len({one.text for one in found}) == 5 and {one.verb for one in found} == {"generate"}
    assert all(is_held_out_prompt(one.text) for one in found)
    assert found == samples.requests(Run.of(config_of(examples=7, rows=2)))


@pytest.mark.parametrize(
    ("task", "verb"),
    [("think_t2i", "generate"), ("refine_t2i", "generate"), ("edit", "edit"), ("vqa", "ask")],
)
def test_every_kind_of_record_is_asked_in_its_own_way(task, verb):
    source = WorldSource(3, 4, {task: 1.0})
    for record in (source[index] for index in range(4)):
        one = samples.asked(record)
        assert one.verb == verb and one.text in [s.text for s in record.segments]
        assert bool(one.pictures) == (verb != "generate")
        preset = catalog.find({"generate": "refine_t2i", "edit": "edit", "ask": "vqa"}[verb])
        assert preset.request(**samples._given(one, PLAIN)).record.holes


def test_runs_that_cannot_draw_say_so(tmp_path, monkeypatch):
    run = Run.of(config_of(), has_records=False)
    with pytest.raises(ConfigError, match=r"eval\.samples: pictures need the autoencoder"):
        samples.Samples(run, tmp_path)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ConfigError, match="only runs of one process draw"):
        samples.Samples(run, tmp_path)
