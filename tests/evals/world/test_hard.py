"""The harder world's evaluation, fed by models whose behaviour is known."""

import pytest

from tests.inference import toy
from unireason_jax.data.templates import PLAIN
from unireason_jax.evals.world import evaluation
from unireason_jax.inference.trace import Step, Trace
from unireason_jax.world import tasks
from unireason_jax.world.hard.asking import TAGS
from unireason_jax.world.hard.reader import read
from unireason_jax.world.hard.repair import edited, suggest
from unireason_jax.world.hard.things import render
from unireason_jax.world.hard.words import plan_text, reflection_text

SIDE = 4
SIZES = evaluation.Sizes(prompts=2, controls=1, drafts=16, rounds=3, seed=5)


class Model:
    """Knows every example by its id. Its first drafts lack a thing; what it says is right.

    Args:
      mends: it carries its reflections out, and stops at right images; otherwise it blanks what
        is right and leaves the rest as it is.
      blind: it says the same of every picture.
    """

    def __init__(self, *, mends=True, blind=False):
        self.mends, self.blind = mends, blind
        self.settings, self.style = toy.settings(size=(8 * SIDE, 8 * SIDE)), PLAIN

    def run(self, records, *, samples=1, progress):
        out = [self.finish(record) for record in records for _ in range(samples)]
        progress(len(out))
        return out

    def finish(self, record):
        task, seed, index, *_ = record.id.split("-")
        tag = None if task == "hard_refine_t2i" else TAGS[int(index) // 1_000_000]
        self.raw = tasks.example(int(seed), int(index), task, side=SIDE, held_out=True, tag=tag)
        self.things, steps = None, []
        for segment in record.segments:
            given = not segment.is_hole
            if segment.kind == "image":
                image = segment.image if given else self.draw(segment.role)
                self.things = read(image).things
                steps.append(Step("image", segment.role, image=image, given=given))
                continue
            text, handover = (segment.text, None) if given else self.say(segment.role)
            steps.append(Step("text", segment.role, text=text, given=given, handover=handover))
            if handover == "stop":
                break
        return Trace(record.id, record.source, tuple(steps))

    def say(self, role):
        if role == "plan":
            return plan_text(self.raw["plan"]), "image"
        things = self.raw["scene"] if self.blind else self.things
        edit = suggest(self.raw["plan"], things, SIDE)
        stops = edit == suggest(self.raw["plan"], self.raw["scene"], SIDE) and self.mends
        return reflection_text(self.raw["plan"], things, edit), "stop" if stops else "image"

    def draw(self, role):
        if role != "refined":
            return render(self.raw["scene"][1:], SIDE)
        edit = suggest(self.raw["plan"], self.things, SIDE)
        if self.mends:
            return render(edited(self.things, edit), SIDE)
        return render(self.things[1:], SIDE)


def rows(report, name):
    (section,) = (section for section in report.sections if section.name == name)
    return {row: rates for row, rates in section.rows}


def test_a_model_that_mends_repairs_everything_and_damages_nothing():
    spent = []
    report = evaluation.evaluate(Model(), SIZES, is_hard=True, advance=spent.append)
    found = {name: rate.value for name, rate in report.headline.items()}
    assert found["held-out prompts, with plan"] == 0
    assert found["held-out prompts, plan + refinement"] == 1
    assert found["wrong drafts repaired"] == 1 == found["given drafts, wrong drafts repaired"]
    assert found["given drafts, right drafts damaged"] == 0
    assert sum(spent) == pytest.approx(SIZES.cost(is_hard=True))
    paths = {name: rates[0].value for name, rates in rows(report, "equal_compute").items()}
    assert paths["oracle reflections"] == 1 and paths["best of k, exact judge"] == 0
    own, other = rows(report, "shuffled").values()
    assert own[0].value == 1 and other[0].value < 0.5
    needed = rows(report, "given_drafts")
    assert needed["draft needs 0 edits"][0].value == 0
    assert all(rates[1].value == 1 for rates in needed.values())


def test_a_model_that_damages_and_does_not_look_is_told():
    report = evaluation.evaluate(Model(mends=False, blind=True), SIZES, is_hard=True)
    found = {name: rate.value for name, rate in report.headline.items()}
    assert found["wrong drafts repaired"] == 0
    assert found["given drafts, right drafts damaged"] == 1
    own, other = rows(report, "shuffled").values()
    assert own[0].value == other[0].value < 1
    assert any("damaged" in trace.details["caption"][0] for trace in report.failures)
