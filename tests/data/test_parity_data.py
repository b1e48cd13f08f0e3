"""All that the official data pipelines recorded is equal, or different for a named reason."""

import json

import numpy as np
import pytest

from unireason_jax.data.templates import STYLES
from unireason_jax.parity import main
from unireason_jax.proof import packs, pixels, published_rows
from unireason_jax.proof.data import compare_data
from unireason_jax.proof.published_rows import RELEASED
from unireason_jax.proof.recorded import Recorded
from unireason_jax.proof.tally import Tally


@pytest.fixture(scope="module")
def tally(data_goldens):
    return compare_data(data_goldens)


def test_all_recorded_data_is_equal(tally):
    assert not tally.failures, tally.table()
    assert tally.compared > 9000


def test_every_type_of_record_and_every_pack_is_compared(tally, data_goldens):
    recorded = Recorded(data_goldens)
    for sample in recorded.samples:
        assert tally.checks[f"rows of {sample['tree']}: {sample['type']}"].compared
    compared = sum(tally.checks[f"{group}: token ids"].compared for group in GROUPS)
    left_out = tally.excluded[packs.VIDEO] + tally.deviations[packs.SECOND_LABEL]
    assert compared + left_out == len(recorded.packs) and left_out <= 8


GROUPS = ("packs", "packs with dropout")


@pytest.mark.parametrize("field", packs.KINDS)
def test_one_wrong_number_in_a_pack_is_found(field, data_goldens):
    recorded = Recorded(data_goldens)
    pack = next(p for p in recorded.packs if f"{p['id']}/{field}" in recorded.pack_arrays)
    recorded.packs = [pack]
    recorded.pack_arrays[f"{pack['id']}/{field}"][-1] += 1
    found = Tally()
    packs.compare_packs(recorded, found)
    assert found.failures == [f"packs: {packs.KINDS[field]}"]
    assert "FAIL  " + pack["id"] in found.table()


def test_other_splits_draws_and_pixels_are_found(data_goldens):
    recorded = Recorded(data_goldens)
    pack = next(p for p in recorded.packs if "packed_vit_tokens" in p)
    wrong = {
        "split lengths": pack | {"split_lens": pack["split_lens"][::-1]},
        "split modes": pack | {"attn_modes": ["full"] * len(pack["attn_modes"])},
        "ViT pixels": pack | {"packed_vit_tokens": {"sha256": "0"}},
    }
    for kind, changed in wrong.items():
        recorded.packs, found = [changed], Tally()
        packs.compare_packs(recorded, found)
        assert found.failures == [f"packs: {kind}"]
    recorded.packs = [pack | {"randn_draws": [*pack["randn_draws"], 0.0]}]
    with pytest.raises(ValueError, match="draws of the reference are left over"):
        packs.compare_packs(recorded, Tally())


def test_another_resize_rule_is_found(data_goldens):
    recorded, found = Recorded(data_goldens), Tally()
    recorded.config["limits"]["vit"]["max_image_size"] -= 14
    pixels.compare_transforms(recorded, found)
    assert "resized images: vit" in found.failures
    assert "resized images: vae" not in found.failures


def test_another_wording_of_a_row_is_found(data_goldens, monkeypatch):
    recorded, found = Recorded(data_goldens), Tally()
    recorded.samples = [s for s in recorded.samples if s["type"] == "think_t2i"]
    monkeypatch.setitem(STYLES, "unireason_released", RELEASED)  # without its system prompts
    published_rows.compare_rows(recorded, found)
    assert "rows of unireason: think_t2i" in found.failures


def test_the_command_prints_writes_and_judges(data_goldens, tmp_path, capsys):
    assert main(["--goldens", str(data_goldens), "--json", str(tmp_path / "found.json")]) == 0
    printed = capsys.readouterr().out
    assert "different on purpose:" in printed and "PASS: all of" in printed
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["passed"] and found["checks"]["packs: masks"]["compared"] >= 10
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "packs.json").write_text("[]")
    assert main(["--goldens", str(empty)]) == 2
    assert "config.json" in capsys.readouterr().err


def test_a_tally_reports_shapes_and_levels():
    found = Tally()
    assert found.equal("a", "here", [1, 2], [1, 2])
    assert found.equal("b", "here", np.zeros(3), np.full(3, 1.5), level=2)
    assert not found.equal("b", "here", np.zeros(3), np.full(3, 2.5), level=2)
    assert not found.equal("c", "there", [1], [1, 2])
    assert found.failures == ["b", "c"] and found.compared == 4
    assert "there: shape [1] instead of [2]" in found.table()


def test_orders_are_named_as_different_and_what_they_lose_is_counted(tally):
    assert tally.deviations[published_rows.ORDER] == 77
    assert tally.deviations[published_rows.REMAINDER] > 5
