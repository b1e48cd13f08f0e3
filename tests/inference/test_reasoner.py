"""The reasoner: same result alone, among others and on eight devices; stopping; errors."""

import dataclasses

import jax
import numpy as np
import pytest

from tests.inference import toy
from unireason_jax.data.templates import PLAIN, TEMPLATES
from unireason_jax.inference.context import Context
from unireason_jax.inference.reasoner import Reasoner
from unireason_jax.inference.settings import TextSettings
from unireason_jax.pods import sharding
from unireason_jax.world.tasks import example

pytestmark = pytest.mark.usefixtures("quick_compile")


def requests(count, rounds=1):
    raws = [example(0, i, "t2i", side=toy.SIDE) for i in range(count)]
    return [
        TEMPLATES["refine_t2i"]({"id": raw["id"], "prompt": raw["prompt"], "rounds": rounds})
        for raw in raws
    ]


def run(reasoner, records):
    """Traces, and the latents of every picture by its seed, which are not rounded to 255 levels."""
    latents = {}

    def draw(context, seeds, *rest):
        out = plain(context, seeds, *rest)
        latents.update({seeds[row]: found.latents for row, found in out.items()})
        return out

    with pytest.MonkeyPatch.context() as patch:
        plain = Context.draw
        patch.setattr(Context, "draw", draw)
        return reasoner.run(records), latents


def same(a, b, latents_a, latents_b):
    """Equal texts and decisions, and latents within 1e-5; returns the pictures so compared.

    A number between two of the 255 levels may be rounded either way. What is drawn after a look at
    a picture that differs by one level has no such bound, only that it differs by one level again.
    """
    assert a.id == b.id and a.roles == b.roles and a.texts == b.texts
    assert a.ended == b.ended and a.forwards == b.forwards
    compared, equal = 0, True
    for one, two in zip(a.steps, b.steps):
        assert (one.seed, one.handover, one.cut) == (two.seed, two.handover, two.cut)
        if one.image is None:
            continue
        if equal and not one.given:
            np.testing.assert_allclose(latents_a[one.seed], latents_b[two.seed], rtol=0, atol=1e-5)
            compared += 1
        assert np.abs(one.image.astype(int) - two.image.astype(int)).max() <= 1
        equal = equal and np.array_equal(one.image, two.image)
    return compared


@pytest.fixture(scope="module")
def batch():
    """Eight conversations of different length, every phase of which is walked, and latents."""
    return run(toy.reasoner(learned_stop=False, flow={"image_scale": 1.5}), requests(8))


@pytest.fixture(scope="module")
def together(batch):
    """The eight conversations."""
    return batch[0]


def test_a_conversation_does_not_depend_on_its_batch(batch):
    traces, latents = batch
    reasoner = toy.reasoner(learned_stop=False, flow={"image_scale": 1.5})
    for number in (0, 5):
        (alone,), own = run(reasoner, [requests(8)[number]])
        assert same(traces[number], alone, latents, own) >= 1
    assert len({t.texts[0] for t in traces}) > 1
    assert len({t.images[0].tobytes() for t in traces}) == 8


@pytest.mark.slow
def test_exact_is_the_same_to_the_bit_in_bfloat16():
    config = dataclasses.replace(toy.config(), dtype="bfloat16")
    raws = [example(0, i, "t2i", side=toy.SIDE) for i in range(4)]
    records = [TEMPLATES["t2i"]({key: raw[key] for key in ("id", "prompt")}, PLAIN) for raw in raws]
    settings = toy.settings(flow={"timesteps": 4})
    reasoner = Reasoner(config, toy.params(), toy.spec(), settings)
    exact = dataclasses.replace(settings, exact=True)
    together = reasoner.run(records, settings=exact)
    fewer = reasoner.run(records[2:], settings=dataclasses.replace(exact, batch_rows=1))
    for one, other in zip(
        together, [*reasoner.run(records[:2][::-1], settings=exact)[::-1], *fewer]
    ):
        np.testing.assert_array_equal(one.image, other.image)
    batch = reasoner.run(records)
    off = np.abs([a.image.astype(int) - b.image.astype(int) for a, b in zip(batch, together)])
    assert off.max() <= 1 and (off > 0).mean() < 0.1


def test_eight_devices_give_the_same():
    raws = [example(0, i, "edit", side=toy.SIDE) for i in range(8)]
    keys = ("id", "instruction", "input_image")
    records = [TEMPLATES["think_edit"]({key: raw[key] for key in keys}) for raw in raws]
    mesh = sharding.make_mesh({"data": -1}, devices=jax.devices()[:8])
    spread = Reasoner(toy.config(), toy.params(), toy.spec(), toy.settings(), mesh=mesh)
    (wanted, one), (found, eight) = (run(r, records) for r in (toy.reasoner(), spread))
    assert sum(same(a, b, one, eight) for a, b in zip(wanted, found, strict=True)) == 8


def test_steps_follow_the_template(together):
    roles = ["user", "plan", "draft", "reflection", "refined", "reflection"]
    for trace, record in zip(together, requests(8)):
        assert trace.roles == roles and trace.template == "refine_t2i"
        assert trace.steps[0].text == record.segments[0].text and trace.steps[0].given
        assert [s.given for s in trace.steps[1:]] == [False] * 5
        draft, refined = trace.steps[2], trace.steps[4]
        assert draft.forwards == 2 * 4 and refined.forwards == 3 * 4
        assert draft.image.shape == (24, 24, 3) and draft.seed != refined.seed
        assert trace.rounds == 1


def moody():
    """The toy's weights, but layers that change the residual more: its wishes differ by row."""
    params = jax.tree.map(lambda leaf: leaf, toy.params())
    for name in ("out", "down"):
        part = params["stack"]["blocks"]["und"][name]
        part["kernel"] = 8 * part["kernel"]
    return params


def test_the_model_may_stop_unless_told_otherwise():
    hot = {"text": TextSettings(temperature=3.0)}
    free = Reasoner(toy.config(), moody(), toy.spec(), toy.settings(**hot)).run(
        requests(8, rounds=2)
    )
    assert {t.ended for t in free} <= {"stop", "rounds"} and len({t.rounds for t in free}) > 1
    for trace in free:
        looks = [step.handover for step in trace.steps if step.role == "reflection"]
        assert "stop" not in looks[:-1]
        assert (looks[-1] == "stop") == (trace.ended == "stop")
    twice = Reasoner(toy.config(), moody(), toy.spec(), toy.settings(min_rounds=1, **hot))
    assert min(t.rounds for t in twice.run(requests(8, rounds=2))) >= 1


def test_other_templates_and_sizes():
    raw = example(0, 0, "edit", side=toy.SIDE)
    edit = TEMPLATES["think_edit"](
        {"id": "e", "instruction": raw["instruction"], "input_image": raw["input_image"]}
    )
    question = TEMPLATES["vqa"]({"id": "q", "image": raw["input_image"], "question": "what color"})
    plain = TEMPLATES["t2i"]({"id": "p", "prompt": "a red circle"})
    reasoner = toy.reasoner()
    a, b, c, d = reasoner.run([edit, question], samples=2)
    assert a.roles == ["user", "source", "plan", "image"] and a.image.shape == (24, 24, 3)
    assert c.roles == ["source", "user", "answer"] and not c.images
    assert (a.sample, b.sample) == (0, 1) and not np.array_equal(a.image, b.image)
    assert c.texts == d.texts  # greedy
    wide = dataclasses.replace(reasoner.settings, size=(16, 32))
    assert reasoner.run([plain], settings=wide)[0].image.shape == (16, 32, 3)
    odd = dataclasses.replace(reasoner.settings, size=(20, 20))
    with pytest.raises(ValueError, match="multiples of 8"):
        reasoner.run([plain], settings=odd)


def test_errors_name_the_record():
    reasoner = toy.reasoner()
    raw = example(0, 0, "t2i", side=toy.SIDE)
    with pytest.raises(ValueError, match="nothing to generate"):
        reasoner.run([TEMPLATES["t2i"](raw)])
    long = TEMPLATES["t2i"]({"id": "long", "prompt": "red " * 250})
    with pytest.raises(ValueError, match=r"'long'.*252 tokens.*200"):
        reasoner.run([long])
    blind = Reasoner(toy.config(), toy.params(), dataclasses.replace(toy.spec(), vit_patch=0))
    look = TEMPLATES["vqa"]({"id": "q", "image": np.zeros((24, 24, 3), np.uint8), "question": "?"})
    with pytest.raises(ValueError, match="'q', source: this checkpoint has no ViT"):
        blind.run([look])
    small = dataclasses.replace(toy.config(), llm=dataclasses.replace(toy.config().llm, vocab=8))
    with pytest.raises(ValueError, match="do not belong together"):
        Reasoner(small, toy.params(), toy.spec())


def test_rows_at_their_own_state_give_what_they_give_together():
    """Two rows that take in, draw and shrink at different times, against one batch of all."""
    raws = [example(0, i, "edit", side=toy.SIDE) for i in range(2)]
    keys = ("id", "instruction", "input_image")
    records = [TEMPLATES["think_edit"]({key: raw[key] for key in keys}) for raw in raws]
    mixed = [*requests(3, rounds=2), *records, *requests(5)[3:]]
    hot = {"text": TextSettings(temperature=3.0), "flow": {"image_scale": 1.5}}
    wide, latents = run(toy.reasoner(**hot), mixed)
    narrow, others = run(toy.reasoner(batch_rows=2, **hot), mixed)
    for a, b in zip(wide, narrow, strict=True):
        assert same(a, b, latents, others) >= 1
    assert len({len(trace.steps) for trace in wide}) > 1
