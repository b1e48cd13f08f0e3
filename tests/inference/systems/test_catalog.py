"""Presets: the papers' values, stages that follow each other, and drawings in steps."""

import dataclasses

import numpy as np
import pytest

from tests.inference import toy
from unireason_jax.data.records import Record
from unireason_jax.data.templates import PLAIN, STYLE_OF, TEMPLATES, prompts
from unireason_jax.data.templates.segments import given, supervised, target
from unireason_jax.inference.context import Written
from unireason_jax.inference.conversation import Conversation
from unireason_jax.inference.reasoner import Reasoner
from unireason_jax.inference.settings import Settings, TextSettings
from unireason_jax.inference.systems import catalog
from unireason_jax.inference.systems.catalog import PRESETS, grow_process
from unireason_jax.world.tasks import example

pytestmark = pytest.mark.usefixtures("quick_compile")


def numbers(flow):
    return flow.text_scale, flow.image_scale, flow.interval, flow.shift, flow.renorm


def test_any_preset_is_there_in_fewer_passes():
    exact, fast = catalog.find("irg").settings(Settings()), catalog.find("irg:fast")
    settings = fast.settings(Settings())
    assert fast.name == "irg:fast" and exact.flow.cache is None
    for made, usual, branches in (
        (settings.flow, exact.flow, 2),
        (settings.refine, exact.refine, 3),
    ):
        assert made.text_scale == usual.text_scale
        assert usual.forwards(branches) / made.forwards(branches) > 1.8
    assert catalog.find("t2i:fast").settings(Settings()).flow.cache is not None


def test_scales_and_intervals_are_those_of_the_papers():
    late, always = (0.4, 1.0), (0.0, 1.0)
    made = {
        name: preset.settings(Settings(by_codes=preset.codes is not None))
        for name, preset in catalog.SYSTEMS.items()
    }
    assert {settings.flow.timesteps for settings in made.values()} == {50}
    t2i = (4.0, 1.0, late, 3.0, "global")
    for name in ("bagel_t2i", "unireason_t2i", "unireason_refine", "irg", "irg_released"):
        assert numbers(made[name].flow) == t2i, name
    assert numbers(made["bagel_edit"].flow) == (4.0, 2.0, always, 3.0, "text_channel")
    assert numbers(made["uni_edit_direct"].flow) == numbers(made["bagel_edit"].flow)
    assert made["bagel_t2i_released"].flow.text_scale == 1 + 1.5 * (4 - 1)
    second = {name: numbers(made[name].refine)[:3] for name in made if made[name].refine}
    assert second["irg"] == (2.0, 2.0, always) and second["irg_released"] == (4.0, 2.0, always)
    assert second["unireason_refine"] == (3.0, 1.5, late)
    assert second["unireason_refine_released"] == (4.0, 1.5, always)
    assert made["unireason_t2i"].text.temperature == 0.3
    assert made["bagel_understand"].text.temperature == 0


def test_a_preset_that_draws_otherwise_than_the_model_is_refused():
    """What only answers, or is of a template alone, is of any model."""
    by_flow, by_codes = Settings(), Settings(by_codes=True)
    told = r"preset '{}' draws {}, but this model draws {}; take one of its own"
    with pytest.raises(ValueError, match=told.format("bagel_t2i", "by flow", "with codes")):
        catalog.find("bagel_t2i").settings(by_codes)
    with pytest.raises(ValueError, match=told.format("janus_edit", "with codes", "by flow")):
        catalog.find("janus_edit").settings(by_flow)
    with pytest.raises(ValueError, match="cache is of models that draw by flow"):
        catalog.find("t2i:fast").settings(by_codes)
    for name in ("janus_understand", "bagel_understand", "refine_t2i"):
        assert not catalog.find(name).settings(by_flow).by_codes
        assert catalog.find(name).settings(by_codes).by_codes


def test_costs_are_those_of_the_papers():
    """Image forwards of a finished sample, as counted for the released scripts."""
    irg, refine = (catalog.SYSTEMS[name] for name in ("irg_released", "unireason_refine"))
    assert irg.flow.forwards(2) + irg.refine.forwards(3) == 237
    assert refine.flow.forwards(2) + refine.refine.forwards(3) == 221


def test_an_unknown_preset_names_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'unireason_refine'"):
        catalog.find("unireason_refin")
    with pytest.raises(ValueError, match="draws code by code; leave ':fast' out"):
        catalog.find("janus_t2i:fast")
    with pytest.raises(ValueError, match="prompt is empty"):
        catalog.find("t2i").request("  ")
    with pytest.raises(ValueError, match="needs an image"):
        catalog.find("bagel_edit").request("add a hat")


def run(name, **request):
    """A preset on the toy model, with its contexts and scales but few and equal steps."""
    preset = PRESETS[name]
    settings = preset.settings(toy.settings())
    quick = {"timesteps": 3, "interval": (0.0, 1.0), "renorm": "global"}
    flows = {
        part: dataclasses.replace(getattr(settings, part), **quick)
        for part in ("flow", "refine")
        if getattr(settings, part)
    }
    settings = dataclasses.replace(settings, size=(24, 24), max_text=5, **flows)
    spec = dataclasses.replace(toy.spec(), max_text=None)
    reasoner = Reasoner(toy.config(), toy.params(), spec, settings)
    (trace,) = reasoner.run([preset.request("a red circle", **request)])
    return trace


def test_a_draft_is_refined_under_another_system_prompt():
    trace = run("unireason_refine_released")
    assert trace.roles == [
        *("system", "user", "plan", "image"),
        *("system", "user", "reflection", "refined"),
    ]
    systems = [step.text for step in trace.steps if step.role == "system"]
    assert systems == [prompts.BAGEL_THINK_IMAGE, prompts.REFINE]
    assert trace.steps[5].text == prompts.REFLECT
    assert [step.forwards for step in trace.steps if step.kind == "image"] == [4, 6]


def test_what_is_kept_of_a_plan_replaces_it_in_the_context(monkeypatch):
    prompt, kept, image = given("user", "a red circle"), "a blue square", target("image", None)
    plan = supervised("plan", None, "think", then="image", style=PLAIN)
    flows = {"text_scale": 2.0, "image_scale": 1.0}
    written, told = (Record("one", (prompt, text, image)) for text in (plan, given("plan", kept)))
    monkeypatch.setattr(Settings, "kept", lambda self, role, text: kept)
    reasoner = toy.reasoner(flow=flows)
    (one,), (two,) = reasoner.run([written]), reasoner.run([told])
    assert one.content_of("plan") == kept and one.text_of("plan") != kept
    np.testing.assert_array_equal(one.image, two.image)


def test_samples_that_share_their_texts():
    hot = {"text": TextSettings(temperature=3.0)}
    record = TEMPLATES["think_t2i"]({"id": "p", "prompt": "a red circle"})
    alone = toy.reasoner(**hot).run([record], samples=4)
    pairs = toy.reasoner(share_texts=2, **hot).run([record], samples=4)
    assert len({trace.texts[0] for trace in alone}) == 4
    assert [trace.texts[0] for trace in pairs] == [alone[n].texts[0] for n in (0, 0, 2, 2)]
    assert len({trace.image.tobytes() for trace in pairs}) == 4


def test_a_second_plan_may_follow_a_reflection():
    record = PRESETS["rethink_t2i"].request("a red circle", rounds=1).record
    roles = [segment.role for segment in record.segments]
    assert roles == ["user", "plan", "draft", "reflection", "plan", "refined", "reflection"]
    hand_overs = [s.next for s in record.segments if s.kind == "text" and s.loss == "text"]
    assert hand_overs == ["text", "image", "stop"]
    stage = catalog.SYSTEMS["unireason_rethink"].following[0]
    made = stage({"id": "a", "prompt": "p", "explanation": "e", "rounds": 1}, PLAIN)
    assert [s.tag for s in made.segments if s.role == "plan"] == ["think", "think"]


def test_a_chat_needs_no_picture():
    request = PRESETS["bagel_think_chat"].request("how many moons?").record
    assert [s.role for s in request.segments] == ["system", "user", "answer"]
    parts = [{"text": "what is"}, {"image": np.zeros((8, 8, 3), np.uint8)}, {"text": "this?"}]
    request = PRESETS["bagel_chat"].request(parts=parts).record
    assert [s.role for s in request.segments] == ["user", "source", "user", "answer"]
    assert not request.segments[1].gen and request.segments[1].und
    with pytest.raises(ValueError, match=r"\{text\} or \{image\}"):
        PRESETS["bagel_chat"].request(parts=[{"video": 1}])
    with pytest.raises(ValueError, match="no `parts`"):
        PRESETS["bagel_t2i"].request(parts=parts)


def test_irg_thinks_twice_and_draws_twice():
    trace = run("irg_released")
    assert trace.roles == ["system", "user", "plan", "draft", "reflection", "refined"]
    assert [step.forwards for step in trace.steps if step.kind == "image"] == [4, 6]


def test_an_edit_of_bagel_sees_the_image_first():
    source = example(0, 0, "edit", side=toy.SIDE)["input_image"]
    trace = run("bagel_edit", image=source)
    assert trace.roles == ["source", "user", "image"] and trace.forwards == 6


def test_a_repair_may_end_a_drawing_in_steps():
    image, ended = np.zeros((24, 24, 3), np.uint8), {}
    for wish in ("stop", "text"):
        request = PRESETS["process_driven"].request("draw a cat")
        spec = dataclasses.replace(toy.spec(), max_text=None)
        talk = Conversation(request, 0, spec, toy.settings())
        talk.wrote(Written([20], "image", False), 0)
        talk.drew(image, 0, 1)
        talk.heard("stop")  # a sketch is always inspected
        assert not talk.ended and talk.hole.role == "reflection"
        talk.wrote(Written([21], "image", False), 0)
        assert talk.hole.role == "refined"
        talk.drew(image, 0, 1)
        talk.heard(wish)
        ended[wish] = talk.ended
    assert ended == {"stop": "stop", "text": None} and talk.hole.role == "plan"


def test_a_drawing_in_steps_goes_on_as_the_model_says():
    record = TEMPLATES["process"]({"id": "p", "prompt": "draw a cat", "steps": 1})

    def roles(record):
        return [segment.role for segment in record.segments[1:]]

    step = ["plan", "sketch", "reflection"]
    assert roles(grow_process(record, "text", 4)) == step * 2
    repaired = grow_process(record, "image", 4)
    assert roles(repaired) == [*step, "refined", *step]
    assert roles(grow_process(repaired, "text", 4)) == [*step, "refined", *step, *step]
    assert roles(grow_process(repaired, "text", 2)) == roles(repaired)
    assert roles(grow_process(record, "image", 1)) == [*step, "refined"]
    trace = run("process_driven", rounds=2)
    assert trace.steps[0].text == "Please create the image step-by-step: a red circle"
    sketches, looks = (trace.roles.count(role) for role in ("sketch", "reflection"))
    assert 1 <= sketches == looks <= 2
    wanted = [step.handover for step in trace.steps if step.role == "reflection"]
    assert trace.roles.count("refined") == wanted.count("image")
    ends = [step.handover for step in trace.steps if step.role in ("reflection", "refined")]
    assert (trace.ended == "stop") == (ends[-1] == "stop") and "stop" not in ends[:-1]


def test_every_system_is_known_to_all_that_ask_for_it():
    """By the style of its records a run knows its system; by its verbs the system is sampled."""
    assert set(catalog.VERBS) == set(STYLE_OF)
    for verbs in catalog.VERBS.values():
        assert set(verbs) == {"generate", "edit", "ask"} and set(verbs.values()) <= set(
            catalog.PRESETS
        )
