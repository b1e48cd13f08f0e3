"""A conversation in Python that goes on, and its callbacks."""

import numpy as np
import pytest

from tests.inference import toy

pytestmark = [pytest.mark.usefixtures("quick_compile"), pytest.mark.slow]


@pytest.fixture(scope="module")
def model():
    return toy.reasoner(learned_stop=False)


def test_what_is_said_next_is_about_the_last_picture(model):
    words, seen = [], []
    chat = model.chat(
        on_text=lambda role, text: words.append((role, text)),
        on_image=lambda role, image, share: seen.append((role, image, share)),
    )
    first = chat.say("a red circle", preset="think_t2i")
    assert "".join(text for _, text in words) == first.texts[0] and words[0][0] == "plan"
    assert seen[-1][2] == 1.0 and np.array_equal(seen[-1][1], first.image)
    drawn = chat.image
    second = chat.say("a blue square", preset="edit")
    assert np.array_equal(second.steps[0].image, drawn) or np.array_equal(
        next(s.image for s in second.steps if s.given and s.kind == "image"), drawn
    )
    answer = chat.ask("a red circle ?")
    assert chat.trace.roles == [*first.roles, *without(second), *without(answer)]
    assert chat._repr_png_().startswith(b"\x89PNG")


def without(trace):
    """Its roles, but for the picture that it began with."""
    return [step.role for step in trace.steps if not (step.given and step.kind == "image")]


def test_a_wrong_word_leaves_the_conversation_as_it_was(model):
    chat = model.chat(preset="t2i")
    with pytest.raises(ValueError, match="zebra"):
        chat.say("a zebra")
    assert chat.trace is None and chat.image is None


def test_callbacks_are_for_one_prompt(model):
    with pytest.raises(ValueError, match="for one prompt"):
        model.generate(["a red circle", "a blue square"], on_text=print)
