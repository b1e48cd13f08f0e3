"""`data.extra`: records of a file beside the world, in their share."""

import numpy as np
import pytest

from tests.test_synthesize import Drafter, arguments
from unireason_jax import synthesize
from unireason_jax.run import configuration
from unireason_jax.run.configuration import ConfigError
from unireason_jax.run.run import Run


def test_a_models_own_records_take_their_share_of_the_examples(tmp_path, monkeypatch):
    monkeypatch.setattr(synthesize, "from_flags", lambda _: Drafter())
    records = synthesize.run(arguments(tmp_path)) / "records.jsonl"
    extra = {"data.extra.path": str(records), "data.extra.share": 0.25, "data.examples": 60}
    made = Run.of(configuration.load("configs/tiny.py", extra))
    pipeline = made.pipeline(whole=True)
    assert len(next(pipeline)["text_ids"]) == made.config.data.rows
    mixture = pipeline._maker.mixture
    share = np.mean(mixture.index[:, 0] == mixture.names.index("extra"))
    assert share == pytest.approx(0.25, abs=0.02)
    assert len(pipeline.quarantine) == 0
    pipeline.close()
    held_out = made.pipeline(held_out=True, whole=True)
    assert held_out._maker.mixture.names == ("world",)
    held_out.close()


def test_a_share_needs_a_path():
    config = configuration.load("configs/tiny.py", {"data.extra.share": 0.5})
    with pytest.raises(ConfigError, match="path and share together"):
        Run.of(config).pipeline(whole=True)
