"""The parity command on the recordings of Janus-Pro."""

import json
import shutil

import pytest

from unireason_jax import parity
from unireason_jax.proof.janus import JanusGolden
from unireason_jax.proof.janus_network import compare_conversations
from unireason_jax.proof.verdicts import Report

pytestmark = pytest.mark.usefixtures("quick_compile")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_everything_recorded_is_reproduced(janus_goldens, dtype):
    report = parity.compare(janus_goldens, dtype)
    assert report.failures == []
    assert all("no check knows" not in reason for *_, reason in report.excluded)
    limits = {row.limit for row in report.rows}
    assert dtype == "bfloat16" or limits == {0.0, 5e-6, 2e-5}


@pytest.mark.slow
def test_another_epsilon_or_theta_is_seen(janus_goldens, tmp_path):
    for field, value in (("rms_norm_eps", 1e-5), ("rope_theta", 10100.0)):
        folder = tmp_path / field
        shutil.copytree(janus_goldens, folder)
        config = json.loads((folder / "config.json").read_text())
        config["language_config"][field] = value
        (folder / "config.json").chmod(0o644)
        (folder / "config.json").write_text(json.dumps(config))
        report = Report(folder, margin=0.0)
        compare_conversations(JanusGolden(folder), report)
        assert any("hidden_final" in row.name for row in report.failures)
