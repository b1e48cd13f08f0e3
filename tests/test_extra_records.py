"""`data.extra`: records of a file beside the world, in their share."""

import numpy as np
import pytest

from tests.test_synthesize import Drafter, arguments
from unireason_jax import synthesize
from unireason_jax.run import configuration, experiment
from unireason_jax.run.configuration import ConfigError


def test_a_models_own_records_take_their_share_of_the_examples(tmp_path, monkeypatch):
    monkeypatch.setattr(synthesize, "from_flags", lambda _: Drafter())
    records = synthesize.run(arguments(tmp_path)) / "records.jsonl"
    extra = {"data.extra.path": str(records), "data.extra.share": 0.25, "data.examples": 60}
    made = experiment.create(configuration.load("configs/tiny.py", extra))
    pipeline = experiment.make_pipeline(made)
    assert len(next(pipeline)["text_ids"]) == made.config.data.rows
    mixture = pipeline._render.mixture
    share = np.mean(mixture.index[:, 0] == mixture.names.index("extra"))
    assert share == pytest.approx(0.25, abs=0.02)
    assert len(pipeline.quarantine) == 0
    pipeline.close()
    held_out = experiment.make_pipeline(made, held_out=True)
    assert held_out._render.mixture.names == ("world",)
    held_out.close()


def test_a_share_needs_a_path():
    config = configuration.load("configs/tiny.py", {"data.extra.share": 0.5})
    with pytest.raises(ConfigError, match="path and share together"):
        experiment.make_pipeline(experiment.create(config))
