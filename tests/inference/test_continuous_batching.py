"""Conversations that come and go: the same as in a batch, and to the bit whoever else is there."""

import dataclasses
import itertools

import numpy as np
import pytest

from tests.inference import toy
from unireason_jax.inference import gradual_drawing, sampler
from unireason_jax.inference.continuous_batching import Live, visible
from unireason_jax.inference.settings import FlowSettings, TextSettings
from unireason_jax.inference.trace import Step
from unireason_jax.world.tasks import example

pytestmark = [pytest.mark.usefixtures("quick_compile"), pytest.mark.slow]

HOT = {"text": TextSettings(temperature=1.0), "learned_stop": False}
ALL = [example(0, i, "t2i", side=toy.SIDE)["prompt"] for i in range(60)]
PROMPTS = [prompt for prompt in ALL if not toy.spec().tokenizer.unknown(prompt)][:4]


@pytest.fixture(scope="module")
def reasoner():
    return toy.reasoner(**HOT)


class Heard(list):
    """The news of one conversation."""

    @property
    def trace(self):
        return next((news.trace for news in self if news.kind == "end"), None)

    def words(self, number):
        """The words of the numbered text, as they came."""
        texts, now = [], ""
        for news in self:
            now += news.text if news.kind == "words" else ""
            if news.kind == "step" and news.step.kind == "text":
                texts, now = [*texts, now], ""
        return texts[number]


def add(live, reasoner, prompt, previews=0, **options):
    heard = Heard()
    job = reasoner.prepare("generate", prompt, preset="refine_t2i", rounds=1, **options)
    return live.add(*job, heard.append, previews), heard


def finish(live, most=500):
    for _ in range(most):
        if not live.guests:
            return
        live.work()
    raise AssertionError("it does not end")


@pytest.fixture(scope="module")
def alone(reasoner):
    """One conversation among nobody."""
    live = Live(reasoner.engine, 4)
    _, heard = add(live, reasoner, PROMPTS[0])
    finish(live)
    return heard


def test_it_says_and_draws_what_a_batch_does(reasoner, alone):
    whole = reasoner.generate(PROMPTS[0], preset="refine_t2i", rounds=1)
    assert alone.trace.roles == whole.roles and alone.trace.texts == whole.texts
    assert [s.seed for s in alone.trace.steps] == [s.seed for s in whole.steps]
    for one, two in zip(alone.trace.images, whole.images, strict=True):
        assert np.abs(one.astype(int) - two.astype(int)).max() <= 1


def test_words_come_in_pieces_and_steps_in_order(alone):
    made = [step for step in alone.trace.steps if not step.given]
    assert [news.step for news in alone if news.kind == "step"] == made
    for number, text in enumerate(alone.trace.texts):
        assert alone.words(number) == text
    assert sum(news.kind == "words" for news in alone) > len(alone.trace.texts)


def test_others_who_come_and_leave_change_no_bit(reasoner, alone):
    live = Live(reasoner.engine, 4)
    first, _ = add(live, reasoner, PROMPTS[1])
    add(live, reasoner, PROMPTS[2] + " " + PROMPTS[3], temperature=0.0)
    live.work()
    _, heard = add(live, reasoner, PROMPTS[0])
    live.work()
    live.drop(first)
    add(live, reasoner, PROMPTS[3], temperature=2.0, top_p=0.5)
    finish(live)
    for one, two in zip(heard.trace.steps, alone.trace.steps, strict=True):
        assert (one.text, one.handover, one.cut) == (two.text, two.handover, two.cut)
        assert np.array_equal(one.image, two.image)
    assert not live.guests and all(pool.is_empty for pool in live.pools.values())


def test_samples_of_a_prompt_read_it_once_and_are_what_they_are_alone(reasoner, alone, monkeypatch):
    read, prefill_text = [], sampler.prefill_text
    monkeypatch.setattr(
        sampler, "prefill_text", lambda *args, **how: read.append(1) or prefill_text(*args, **how)
    )
    live = Live(reasoner.engine, 4)
    add(live, reasoner, PROMPTS[0], sample=1)
    live.work()
    _, heard = add(live, reasoner, PROMPTS[0])
    live.work()
    assert len(read) == 1
    finish(live)
    for one, two in zip(heard.trace.steps, alone.trace.steps, strict=True):
        assert (one.text, one.handover, one.cut) == (two.text, two.handover, two.cut)
        assert np.array_equal(one.image, two.image)


def test_one_that_fails_takes_nobody_along(reasoner, alone, monkeypatch):
    live = Live(reasoner.engine, 4)
    guest, broken = add(live, reasoner, PROMPTS[1])
    monkeypatch.setattr(guest.batch, "guides", lambda *row: 1 / 0)
    _, heard = add(live, reasoner, PROMPTS[0])
    finish(live)
    assert isinstance(broken[-1].error, ZeroDivisionError)
    assert heard.trace.texts == alone.trace.texts


def test_images_are_seen_while_they_are_drawn_and_share_one_program(reasoner, alone):
    live = Live(reasoner.engine, 4)
    compiled = gradual_drawing.draw_some._cache_size()
    _, heard = add(live, reasoner, PROMPTS[0], previews=4, timesteps=11, interval=(0.0, 1.0))
    finish(live)
    assert gradual_drawing.draw_some._cache_size() == compiled
    shares = [news.share for news in heard if news.kind == "preview"]
    assert shares == [0.4, 0.8] * 2
    shown = next(news.image for news in heard if news.kind == "preview")
    assert shown.shape == heard.trace.images[0].shape


def test_a_solver_and_a_step_cache_draw_the_same_in_pieces(reasoner):
    options = {"preset": "t2i", "solver": "ab2", "cache": "taylor", "timesteps": 11}
    whole = reasoner.generate(PROMPTS[0], **options, interval=(0.3, 0.9))
    live, heard = Live(reasoner.engine, 1), Heard()
    job = reasoner.prepare("generate", PROMPTS[0], **options, interval=(0.3, 0.9))
    live.add(*job, heard.append)
    finish(live)
    assert heard.trace.forwards == whole.forwards
    assert np.abs(heard.trace.image.astype(int) - whole.image.astype(int)).max() <= 1


def test_it_goes_on_from_a_reflection_that_was_edited(reasoner, alone):
    steps = [step for step in alone.trace.steps if not step.given]
    edited = [Step("text", "reflection", text=text) for text in PROMPTS[2:]]
    live = Live(reasoner.engine, 4)
    _, one = add(live, reasoner, PROMPTS[0], told=[*steps[:2], edited[0]])
    _, two = add(live, reasoner, PROMPTS[0], told=[*steps[:2], edited[1]])
    finish(live)
    assert one.trace.roles == two.trace.roles == alone.trace.roles
    assert one.trace.texts[:2] == [steps[0].text, PROMPTS[2]]
    assert np.array_equal(one.trace.images[0], steps[1].image)
    assert not np.array_equal(one.trace.images[1], two.trace.images[1])
    told = {"preset": "refine_t2i", "rounds": 1, "told": [*steps[:2], edited[0]]}
    again = reasoner.generate(PROMPTS[0], **told)
    assert np.abs(again.images[1].astype(int) - one.trace.images[1]).max() <= 1


def test_steps_that_do_not_fit_are_refused(reasoner):
    wrong = [Step("text", "reflection", text="the circle is blue")]
    with pytest.raises(ValueError, match=r"'reflection'.*goes on with 'plan'"):
        reasoner.prepare("generate", PROMPTS[0], preset="refine_t2i", told=wrong)


def test_the_tag_of_a_text_being_written_is_not_shown():
    whole = "<think> a red circle </think>"
    seen = [visible(whole[:n], "think") for n in range(len(whole) + 1)]
    assert all(b.startswith(a) for a, b in itertools.pairwise(seen))
    assert seen[-1] == "a red circle" and not any("<" in text for text in seen)
    assert visible("ab\ufffd", None) == "ab"


@pytest.mark.parametrize("interval", [(0.0, 1.0), (0.4, 1.0), (0.3, 0.8)])
def test_few_steps_run_every_program_of_many(interval):
    usual = FlowSettings(interval=interval, cache="taylor")
    few = gradual_drawing.shortened(usual)
    assert few.timesteps < 10 and few.program == dataclasses.replace(
        usual.program, timesteps=few.timesteps
    )
    kinds = [{guided for *_, guided in one.segments()} for one in (usual, few)]
    assert kinds[0] == kinds[1]
