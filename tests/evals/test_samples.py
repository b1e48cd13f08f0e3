"""The prompts that a run draws while it learns are held-out requests for an image."""

import jax
import pytest

from unireason_jax.evals import samples
from unireason_jax.run import configuration, corpus
from unireason_jax.run.configuration import ConfigError
from unireason_jax.run.run import Run
from unireason_jax.world.scenes import is_held_out_prompt


def config_of(**changes):
    config = configuration.load("configs/tiny.py")
    config.eval.samples = 5
    config.data.update(changes)
    return config


def test_the_world_s_prompts_are_held_out_and_always_the_same():
    found = samples.prompts(Run.of(config_of()))
    assert len(set(found)) == 5 and all(map(is_held_out_prompt, found))
    assert found == samples.prompts(Run.of(config_of(examples=7, rows=2)))


def test_edits_and_questions_are_no_prompts():
    for index, record in enumerate(corpus.make_sources(config_of(), seed=0)[0]["world"]):
        kind = record.id.rpartition("-")[0]
        assert bool(samples._prompt(record)) == ("edit" not in kind and "vqa" not in kind), kind
        if index > 60:
            break


def test_runs_that_cannot_draw_say_so(tmp_path, monkeypatch):
    run = Run.of(config_of(), has_records=False)
    with pytest.raises(ConfigError, match=r"eval\.samples: pictures need the autoencoder"):
        samples.Samples(run, tmp_path)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ConfigError, match="only runs of one process draw"):
        samples.Samples(run, tmp_path)
