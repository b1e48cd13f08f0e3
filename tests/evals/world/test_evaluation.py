"""The world's evaluation, fed by models whose behaviour is known."""

import dataclasses
import json

import numpy as np
import pytest

from tests.inference import toy
from unireason_jax.data.templates import PLAIN
from unireason_jax.evals.world import evaluation, exam, looks, step_by_step
from unireason_jax.inference.conversation import Request
from unireason_jax.inference.trace import Step, Trace
from unireason_jax.world import tasks
from unireason_jax.world.dice import Dice
from unireason_jax.world.edits import NO_CHANGE, Edit, apply_edit
from unireason_jax.world.language import (
    edit_text,
    parse_plan,
    parse_reflection,
    plan_text,
    reflection_text,
)
from unireason_jax.world.parser import parse, to_objects
from unireason_jax.world.renderer import render
from unireason_jax.world.repair import suggest
from unireason_jax.world.requirements import sample_scene
from unireason_jax.world.scenes import make_scene

SIDE = 4
SIZES = evaluation.Sizes(
    prompts=3,
    controls=2,
    pairs=2,
    knowledge=2,
    edits=2,
    questions=2,
    drafts=12,
    process=6,
    hidden=4,
    rounds=3,
    seed=5,
)


class Oracle:
    """Knows every example by its id. Draws drafts that are wrong as told, and repairs as told.

    Args:
      wrong: the plain image and every draft are empty.
      mends: it carries its reflections out; otherwise the image stays as it is.
      stops: it stops at right images, and only there; otherwise never.
      slips: of a drawing in steps every sketch is empty, which it sees, and repairs.
    """

    def __init__(self, *, wrong=False, mends=True, stops=True, slips=False):
        self.wrong, self.mends, self.stops, self.slips = wrong, mends, stops, slips
        self.settings, self.style = toy.settings(size=(8 * SIDE, 8 * SIDE)), PLAIN

    def run(self, records, *, samples=1, progress):
        out = [self.finish(record) for record in records for _ in range(samples)]
        progress(len(out))
        return out

    def finish(self, asked):
        request = asked if isinstance(asked, Request) else Request(asked)
        record = request.record
        self.raw = self.example(record)
        self.inspects = record.id.endswith("inspect")
        self.steps, self.rounds = [], 0
        while len(self.steps) < len(record.segments):
            segment = record.segments[len(self.steps)]
            given = not segment.is_hole
            if segment.kind == "text":
                text, handover = (segment.text, None) if given else self.say(segment.role)
                self.steps.append(
                    Step("text", segment.role, text=text, given=given, handover=handover)
                )
                if handover == "stop":
                    break
                if request.grow and segment.role == "reflection":
                    record = request.grow(record, handover)
            else:
                image = segment.image if given else self.draw(segment.role)
                self.steps.append(Step("image", segment.role, image=image, given=given))
                if self.raw["task"] == "process" and segment.role == "refined" and self.drawn_all():
                    break
        return Trace(record.id, record.source, tuple(self.steps))

    def example(self, record):
        task, seed, index = record.id.split("-")[:3]
        group = next(
            (record.metadata[k] for k in ("tag", "domain", "op") if k in record.metadata), None
        )
        if task == "refine_t2i" or task == "knowledge":
            group = None if task == "refine_t2i" else record.metadata["domain"]
        asked = record.segments[0].text or record.segments[1].text
        for split in ({"held_out": True}, {"held_out": False}, {"unseen_pairs": True}):
            try:
                raw = tasks.example(int(seed), int(index), task, tag=group, side=SIDE, **split)
            except ValueError:
                continue
            if asked in [raw.get(k) for k in ("prompt", "instruction", "question", "hint")]:
                return raw
        raise AssertionError(record)

    def seen(self):
        return to_objects(parse(self.steps[-1].image).objects, SIDE)

    def say(self, role):
        if self.raw["task"] == "process":
            return self.say_process(role)
        if role == "plan":
            return plan_text(self.raw["scene"].objects), "image"
        if role == "answer":
            return self.raw["answer"], "stop"
        edits = suggest(self.raw["requirement"], self.seen(), side=SIDE)
        if not edits:
            return reflection_text(NO_CHANGE, self.seen()), "stop" if self.stops else "image"
        return reflection_text(edits[0], self.seen()), "image"

    def sketches(self):
        return sum(step.role == "sketch" for step in self.steps)

    def drawn_all(self):
        return self.sketches() == len(self.raw["scene"].objects)

    def say_process(self, role):
        objects, drawn = self.raw["scene"].objects, self.sketches()
        if role == "plan":
            edit = Edit("add", objects[drawn].cell, "", *objects[drawn].look)
            text = edit_text(edit, objects[:drawn])
            return f"<ins>{text}</ins><des>{plan_text(objects[: drawn + 1])}</des>", "image"
        if self.inspects:
            return "conflict" if any(step["refine"] for step in self.raw["steps"]) else "", "stop"
        if self.slips:
            return "conflict", "image"
        return ("complete", "stop") if self.drawn_all() else ("continue", "text")

    def draw(self, role):
        blank = np.zeros((8 * SIDE, 8 * SIDE, 3), np.uint8) + np.array([16, 16, 20], np.uint8)
        if role in ("sketch", "refined") and self.raw["task"] == "process":
            number = self.sketches() + (role == "sketch")
            scene = render(make_scene(self.raw["scene"].objects[:number], SIDE))
            return blank if self.slips and role == "sketch" else scene
        if role == "refined":
            looked, said = self.steps[-2].image, self.steps[-1].text
            if not self.mends:
                return looked
            objects = to_objects(parse(looked).objects, SIDE)
            return render(make_scene(apply_edit(objects, parse_reflection(said, SIDE)[1]), SIDE))
        if self.wrong:
            return blank
        given_plan = next((s.text for s in self.steps if s.role == "plan" and s.given), None)
        if given_plan:
            return render(make_scene(parse_plan(given_plan, SIDE).objects, SIDE))
        return render(self.raw["scene"])


def report_dict(report, section):
    found = next(s for s in report.sections if s.name == section)
    return {name: dict(zip(found.columns, row)) for name, row in found.rows}


def test_a_perfect_model_scores_one_everywhere(tmp_path):
    spent = []
    report = evaluation.evaluate(Oracle(), SIZES, advance=spent.append)
    assert sum(spent) == pytest.approx(SIZES.cost())
    for name, rate in report.headline.items():
        if name not in ("given drafts, before", "given drafts, fix rate of a round"):
            assert rate.value == 1.0, name
    assert 0 < report.headline["given drafts, before"].value < 1
    assert all(row["rate"].value == 1.0 for row in report_dict(report, "plans").values())
    own = report_dict(report, "own_drafts")
    assert own["stops at a right image"]["rate"].value == 1.0
    assert own[looks.FIX]["rate"].count == 0
    misled = report_dict(report, "knowledge_controls")["mean of domains"]
    assert [rate.value for rate in misled.values()] == [1, 0, 1]
    assert report_dict(report, "preservation")["all"]["levels of 255"].value == 0
    assert report_dict(report, "process_kept")["all steps"]["levels of 255"].value == 0
    assert all(r["rate"].value == 1 for r in report_dict(report, "inspections").values())
    assert report_dict(report, "hidden")["branch, no-op"]["right"].value == 1
    assert (
        report_dict(report, "samples")["a further sample shows a layout not seen before"][
            "rate"
        ].value
        == 0
    )
    folder = report.write(tmp_path / "report")
    names = {path.name for path in folder.iterdir()}
    expected = {"report.md", "report.json", "outcomes.json", "chart.png", "strips.png", "traces"}
    assert names == expected
    values = json.loads((folder / "report.json").read_text())
    assert values["headline"]["edits"]["value"] == 1.0
    outcomes = json.loads((folder / "outcomes.json").read_text())
    assert outcomes["knowledge, with plan"]["logical"] == [1, 1]
    assert values["sections"]["prompts"]["rows"]["position"]["prompt only"]["count"] == 3
    text = (folder / "report.md").read_text()
    assert "| position | 1.00 [0.44, 1.00] |" in text and "Wilson" in text


def test_a_model_that_repairs_empty_drafts():
    report = evaluation.evaluate(Oracle(wrong=True), SIZES)
    assert report.headline["held-out prompts, prompt only"].value == 0.0
    assert report.headline["held-out prompts, with plan"].value == 0.0
    assert [row["rate"].value for row in report_dict(report, "plans").values()] == [1, 1, 0, 0]
    # three rounds of one edit each repair everything with at most three objects
    rows = report_dict(report, "by_round")
    values = [rows[f"after round {n}"]["rate"].value for n in range(4)]
    assert values == sorted(values) and values[1] > 0 and values[3] > 0.9
    used = report_dict(report, "rounds")
    for needed in (1, 2):
        assert used[f"draft needs {needed}"][f"uses {needed}"].value == 1.0
    given = report_dict(report, "given_rounds")
    assert given["draft needs 0"]["uses 0"].value == given["draft needs 1"]["uses 1"].value == 1.0
    faults = report_dict(report, "faults")
    assert [rate.value for rate in faults.pop("no fault").values()] == [0.0, 0.0, 1.0]
    assert len(faults) == 2 and all(row["goes on"].value == 1.0 for row in faults.values())
    assert all(row["asks for a right edit"].value == 1.0 for row in faults.values())
    own = report_dict(report, "own_drafts")
    assert own["stop accuracy: stops at right, goes on at wrong"]["rate"].value == 1.0
    assert own[looks.FIX]["rate"].value < own[looks.FIXED]["rate"].value > 0.9
    assert own[looks.PRECISION]["rate"].value == own[looks.RECALL]["rate"].value == 1.0
    assert own["reflection follows the grammar"]["rate"].value == 1.0
    equal = report_dict(report, "equal_compute")
    rates = {name: row["rate"].value for name, row in equal.items()}
    assert rates["best of k, exact judge"] == rates["best of k, no judge"] == 0.0
    assert rates["refined"] == rates["oracle reflections"] > 0.9
    assert report.failures == () or all(not t.steps[-1].verdict for t in report.failures)


def test_a_sketch_in_conflict_is_repaired_before_the_next_step():
    part = step_by_step.part(exam.Exam(Oracle(slips=True), seed=5), 3)
    assert part.headline["held-out prompts, step by step"].value == 1.0
    for trace in part.shown:
        assert trace.roles[:5] == ["user", "plan", "sketch", "reflection", "refined"]


def test_a_model_that_looks_is_told_from_one_that_does_not():
    looking = report_dict(evaluation.evaluate(Oracle(), SIZES), "shuffled")
    assert looking["own draft in view: the reflection brings it nearer"]["rate"].value == 1.0
    assert looking["the same words for both"]["rate"].value < 0.5

    class Blind(Oracle):
        def seen(self):
            return to_objects(parse(self.raw["draft"]).objects, SIDE)

        def say(self, role):
            self.steps.append(Step("image", "draft", image=self.raw["draft"]))
            said = super().say(role)
            self.steps.pop()
            return said

    only = evaluation.Sizes(0, 0, 0, 0, 0, 0, drafts=12, rounds=1, seed=5)
    blind = report_dict(evaluation.evaluate(Blind(), only), "shuffled")
    assert blind["the same words for both"]["rate"].value == 1.0


def test_a_model_that_never_repairs_and_never_stops():
    report = evaluation.evaluate(Oracle(wrong=True, mends=False, stops=False), SIZES)
    own = report_dict(report, "own_drafts")
    assert own[looks.FIX]["rate"].value == 0.0
    given = report_dict(report, "given_drafts")
    assert given["break rate: wrong after a round, right before"]["rate"].value == 0.0
    assert given[looks.FIXED]["rate"].value == 0.0
    assert given["stops at a right image"]["rate"].value == 0.0
    assert given["goes on at a wrong image"]["rate"].value == 1.0
    before = report.headline["given drafts, before"].value
    assert report.headline["given drafts, after 3 rounds"].value == before


def test_the_conversation_of_two_turns():
    only = evaluation.Sizes(
        prompts=2, controls=0, pairs=0, knowledge=1, edits=0, questions=0, drafts=0
    )
    only = dataclasses.replace(only, rounds=1, seed=5)
    model = Oracle(wrong=True)
    report = evaluation.evaluate(model, only, conversation="irg_improving_full")
    assert report.headline["held-out prompts, with plan"].value == 0.0
    refined = report_dict(report, "prompts")["single_object"]
    assert refined["plan + refinement"].value == 1.0
    assert {trace.template for trace in report.traces} == {"irg_improving_full"}


def test_parts_can_be_left_out():
    only = evaluation.Sizes(0, 0, 0, 0, 0, 2, 0)
    report = evaluation.evaluate(Oracle(), only)
    assert [section.name for section in report.sections] == ["questions"] and not report.traces
    with pytest.raises(ValueError, match="prompts"):
        evaluation.Sizes(prompts=-1)


def test_turns_of_a_trace():
    requirement = tasks.example(5, 0, "t2i", tag="colors", side=SIDE)["requirement"]
    scene = sample_scene(requirement, Dice(0, 0, "x"), SIDE)
    right, told = render(scene), reflection_text(NO_CHANGE, scene.objects)
    wrong = np.zeros_like(right) + np.array([16, 16, 20], np.uint8)
    steps = (
        Step("image", "draft", image=right),
        Step("text", "reflection", text=told, handover="image"),
        Step("image", "refined", image=wrong),
        Step("text", "reflection", text="purple", handover="stop"),
    )
    trace = looks.judge(Trace("t", "refine_t2i", steps), requirement)
    first, second = looks.turns(trace, requirement)
    assert dataclasses.astuple(first) == (True, False, False, 0, True, True, False, False)
    assert dataclasses.astuple(second) == (False, True, None, 1, False, False, False, False)
    assert looks.verdicts(trace) == [True, False]
    assert [looks.after_round(trace, n) for n in range(3)] == [True, False, False]
