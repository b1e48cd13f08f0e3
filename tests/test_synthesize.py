"""The verb `synthesize`, with a model whose drafts are known."""

import json

import numpy as np
import pytest

from tests.inference import toy
from unireason_jax import synthesize
from unireason_jax.data.templates import PLAIN
from unireason_jax.inference.trace import Step, Trace
from unireason_jax.world import tasks


class Drafter:
    """Draws the world's own drafts, half of them with a fault."""

    settings, style = toy.settings(size=(32, 32)), PLAIN

    def run(self, records):
        return [Trace(record.id, record.source, (self.draft(record),)) for record in records]

    def draft(self, record):
        _, seed, index = record.id.split("-")
        image = tasks.example(int(seed), int(index), "refine_t2i")["draft"]
        return Step("image", "image", image=image)


def arguments(tmp_path, *more):
    flags = ["--checkpoint", "x", "--out", str(tmp_path / "out"), "--count", "12", *more]
    return synthesize.parser().parse_args(flags)


def test_drafts_become_records_with_a_picture_of_some(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(synthesize, "from_flags", lambda _: Drafter())
    folder = synthesize.run(arguments(tmp_path))
    records = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    assert 6 <= len(records) <= 12 and all(record["task"] == "refine_t2i" for record in records)
    assert (folder / "examples.png").stat().st_size > 5000
    said = capsys.readouterr().out
    assert f"{len(records)} records" in said and "12 drafts: " in said
    # the records lead to right pictures; a second start draws nothing
    monkeypatch.setattr(Drafter, "draft", lambda *_: pytest.fail("drawn again"))
    assert synthesize.run(arguments(tmp_path)) == folder
    with pytest.raises(ValueError, match="belongs to"):
        synthesize.run(arguments(tmp_path, "--seed", "1"))


def test_a_model_that_plans_is_criticised_with_its_plan_in_view(tmp_path, monkeypatch):
    def run(self, records):
        plan = Step("text", "plan", text="<think> square red large a1 </think>")
        return [Trace(r.id, r.source, (plan, self.draft(r))) for r in records]

    monkeypatch.setattr(Drafter, "run", run)
    monkeypatch.setattr(synthesize, "from_flags", lambda _: Drafter())
    folder = synthesize.run(arguments(tmp_path, "--plan"))
    for line in (folder / "records.jsonl").read_text().splitlines():
        assert json.loads(line)["explanation"] == "square red large a1"


def test_a_model_of_nothing_but_mush_is_told_so(tmp_path, monkeypatch):
    mush = Step("image", "image", image=np.full((32, 32, 3), 90, np.uint8))
    monkeypatch.setattr(Drafter, "draft", lambda *_: mush)
    monkeypatch.setattr(synthesize, "from_flags", lambda _: Drafter())
    with pytest.raises(ValueError, match=r"no draft gave a record; fates.*of the pixels"):
        synthesize.run(arguments(tmp_path))
    with pytest.raises(ValueError, match="--count"):
        synthesize.run(arguments(tmp_path, "--count", "0"))
