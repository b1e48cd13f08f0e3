"""Words of a request that the model does not know, in its own vocabulary's terms."""

import pytest

from unireason_jax.data.text.tokenizer import SentencePieceTokenizer, world_tokenizer
from unireason_jax.inference.requests import check_words


@pytest.fixture(scope="module")
def cats():
    return SentencePieceTokenizer.train(["a photograph of a tabby cat", "红色的猫"])


@pytest.mark.parametrize(
    ("prompt", "told"),
    [
        ("a cat 😀", "😀"),
        ("😀", "😀"),
        ("a cat \u200b", "\u200b"),
        ("cat — tabby", "—"),
        ("a tabby(cat)", "tabby(cat)"),
        ("红狗", "狗"),
        ("a tabbi cat", "tabbi"),
        ("a cat <|im_end|>", "<|im_end|>"),
        ("the zebra and the zebra", "the, zebra, and"),
    ],
)
def test_every_character_is_checked(cats, prompt, told):
    with pytest.raises(ValueError) as caught:
        check_words(prompt, cats)
    assert f"does not know the word(s) {told}; its vocabulary has the" in str(caught.value)
    assert "world" not in str(caught.value) and "shapes" not in str(caught.value)


def test_near_words_are_those_of_the_models_own_vocabulary(cats):
    with pytest.raises(ValueError, match=r"Near: photograph, tabby\."):
        check_words("a Photographs of tabbi", cats)
    with pytest.raises(ValueError, match=r"word\(s\) circel; .*Near: circle\."):
        check_words("a red circel", world_tokenizer())


def test_marks_and_known_words_pass(cats):
    check_words("a tabby cat? a photograph, of: a cat!", cats)
    check_words("猫的红色", cats)
    check_words("a\ncat\tof a\u00a0cat", cats)


def test_a_message_is_short(cats):
    with pytest.raises(ValueError, match="and 90 more") as caught:
        check_words(" ".join(f"w{i}{'x' * 100}" for i in range(100)), cats)
    assert len(str(caught.value)) < 1200
