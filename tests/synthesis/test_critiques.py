"""Refinement records from drafts: right in the end, minimal, and the same after a crash."""

import json

import numpy as np
import pytest
from PIL import Image

from unireason_jax.data.sources import JsonSource
from unireason_jax.storage.journal import Journal
from unireason_jax.synthesis import critiques, world_roles
from unireason_jax.synthesis.roles import Draft, Request, Roles
from unireason_jax.world import tasks
from unireason_jax.world.edits import NO_CHANGE
from unireason_jax.world.language import parse_plan, parse_reflection
from unireason_jax.world.parser import parse, to_objects
from unireason_jax.world.renderer import render
from unireason_jax.world.scenes import CELL, make_scene, row_column
from unireason_jax.world.verifier import check, check_image

SIDE = 4
REQUESTS = world_roles.requests(3, 40, SIDE)
SETTINGS = {"seed": 3}


def drafts(requests):
    """Faulty and right drafts of the world, slightly noisy; every ninth is mush."""
    out = []
    for request in requests:
        index = int(request.id.rsplit("-", 1)[1])
        raw = tasks.example(3, index, "refine_t2i", side=SIDE)
        noise = np.random.default_rng(index).integers(0, 6, raw["draft"].shape)
        image = (raw["draft"].astype(int) + noise).clip(0, 255).astype(np.uint8)
        out.append(Draft(np.full_like(image, 100) if index % 9 == 8 else image))
    return out


def roles(generator=drafts):
    return Roles(generator, world_roles.verify, world_roles.teach, world_roles.prefer)


def make(folder, generator=drafts, **options):
    return critiques.criticise(
        REQUESTS, roles(generator), folder, settings=SETTINGS, batch=8, **options
    )


def records(folder):
    return [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]


def picture(folder, name):
    return np.asarray(Image.open(folder / name))


def test_every_record_is_right_in_the_end_and_changes_only_what_it_says(tmp_path):
    counts = make(tmp_path)
    assert counts[critiques.UNUSABLE] == 4  # the mush
    assert counts[critiques.KEPT] > 15 and counts[critiques.RIGHT] > 3
    assert sum(counts[f] for f in ("kept", "right", "unusable", "worse")) == len(REQUESTS)
    wanted = {f"own-{request.id}": request for request in REQUESTS}
    for record in records(tmp_path):
        request, image = wanted[record["id"]], picture(tmp_path, record["draft"])
        for step in record["rounds"]:
            after = picture(tmp_path, step["image"])
            seen, edit = parse_reflection(step["reflection"])
            assert seen == to_objects(parse(image).objects, SIDE)
            changed = {
                (y // CELL, x // CELL) for y, x in zip(*np.nonzero((after != image).any(-1)))
            }
            assert changed <= {row_column(cell) for cell in (edit.cell, edit.to) if cell}
            image = after
        assert check_image(request.details, image).passed
        plan = parse_plan(record["explanation"], SIDE).objects
        assert check(request.details, plan, side=SIDE).passed
        assert to_objects(parse(image).objects, SIDE) == plan
        assert parse_reflection(record["final_reflection"]) == (plan, NO_CHANGE)


def test_what_a_request_leaves_open_is_not_always_the_same():
    requirement = tasks.example(3, 0, "t2i", tag="single_object", side=SIDE)["requirement"]
    plans = set()
    for number in range(12):
        request = Request(f"r-{number}", "a shape", requirement)
        empty = render(make_scene((), SIDE))
        lesson = world_roles.teach(request, empty, world_roles.verify(request, empty))
        (obj,) = parse_plan(lesson.plan, SIDE).objects
        assert check(requirement, [obj], side=SIDE).passed
        plans.add(lesson.plan)
    assert len(plans) > 6


def test_a_plan_that_was_drawn_from_is_kept_wrong_or_not(tmp_path):
    def planned(requests):
        return [Draft(draft.image, f"plan {r.id}") for draft, r in zip(drafts(requests), requests)]

    make(tmp_path, planned)
    for record in records(tmp_path):
        assert record["explanation"] == "plan " + record["id"].removeprefix("own-")


def test_the_records_can_be_trained_on(tmp_path):
    make(tmp_path)
    source = JsonSource(tmp_path / "records.jsonl")
    assert {source[i].source for i in range(len(source))} == {"refine_t2i"}
    assert source[0].segments[-1].next == "stop"


def test_a_crash_changes_nothing(tmp_path):
    make(tmp_path / "whole")
    calls = []

    def dying(requests):
        calls.append(len(requests))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return drafts(requests)

    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "crashed", dying)
    journal = tmp_path / "crashed" / "journal.jsonl"
    journal.write_bytes(journal.read_bytes() + b'{"key": "refine_t2i-3-')  # a torn write
    calls.clear()
    make(tmp_path / "crashed", lambda requests: calls.append(len(requests)) or drafts(requests))
    assert sum(calls) == len(REQUESTS) - 16  # two batches of eight were done
    assert records(tmp_path / "crashed") == records(tmp_path / "whole")
    calls.clear()
    make(tmp_path / "crashed", lambda requests: calls.append(1))
    assert not calls


def test_right_drafts_are_limited_and_a_stranger_judge_is_obeyed(tmp_path):
    counts = make(tmp_path / "few", right_share=0.1)
    right = [r for r in records(tmp_path / "few") if not r["rounds"]]
    assert 0 < len(right) <= 0.1 * counts["records"]
    nobody = Roles(
        drafts, world_roles.verify, world_roles.teach, lambda request, draft, refined: False
    )
    with pytest.raises(ValueError, match=r"does not prefer the repaired picture': 2\d"):
        critiques.criticise(REQUESTS, nobody, tmp_path / "none", settings=SETTINGS)


def test_a_draft_beyond_repair_is_counted_with_its_reason(tmp_path):
    scene = make_scene(tasks.example(3, 0, "refine_t2i", side=SIDE)["scene"].objects, SIDE)
    crowded = tasks.example(1, 4, "t2i", tag="many", side=SIDE)["scene"]
    request = Request("x", "one", tasks.example(3, 0, "t2i", tag="single_object")["requirement"])
    crowd = roles(lambda requests: [Draft(render(crowded))])
    with pytest.raises(ValueError, match="edits away"):
        critiques.criticise([request], crowd, tmp_path, settings={})
    assert len(scene.objects) < len(crowded.objects)
    row = json.loads((tmp_path / "journal.jsonl").read_text().splitlines()[1])
    assert row["fate"] == "unusable" and "3 edits" in row["reason"]


def test_a_journal_of_other_settings_is_refused(tmp_path):
    Journal(tmp_path / "j", {"seed": 1}).add([{"key": "a"}])
    assert "a" in Journal(tmp_path / "j", {"seed": 1})
    with pytest.raises(ValueError, match="belongs to"):
        Journal(tmp_path / "j", {"seed": 2})
    (tmp_path / "k").write_text("hello\n")
    with pytest.raises(ValueError, match="not a journal"):
        Journal(tmp_path / "k", {})
