"""Words and pictures of Janus-Pro, as recorded from the official processor."""

import json
import pickle

import numpy as np
import pytest

from unireason_jax.data.janus import pictures, prompts
from unireason_jax.data.janus.tokenizer import JanusTokenizer
from unireason_jax.proof.janus import compare_pictures, compare_prompts
from unireason_jax.proof.verdicts import Report


class Words:
    """What the comparisons of words and pictures need of a recording."""

    def __init__(self, folder):
        from unireason_jax.models.janus import release_config
        from unireason_jax.proof.golden import read

        self.folder, self.config = folder, release_config.read_config(folder)[0]
        self.tokenizer = JanusTokenizer.load(folder / "tokenizer")
        self.file = lambda name: read(folder / f"{name}.safetensors")


def test_prompts_and_pictures_are_the_official_ones(janus_goldens):
    report = Report(janus_goldens, margin=0.0)
    compare_prompts(Words(janus_goldens), report)
    compare_pictures(Words(janus_goldens), report)
    assert report.failures == []
    assert len(report.rows) == 97


def test_special_strings_in_a_users_words_stay_words(janus_goldens):
    words = JanusTokenizer.load(janus_goldens / "tokenizer")
    assert words.place not in words.encode(f"a {prompts.PLACE} b")
    assert words.place in words.encode_prompt(f"a {prompts.PLACE} b")
    again = pickle.loads(pickle.dumps(words))
    assert again.encode_prompt("red") == words.encode_prompt("red")


def test_a_tokenizer_is_saved_and_read_again(janus_goldens, tmp_path):
    words = JanusTokenizer.load(janus_goldens / "tokenizer")
    words.save(tmp_path)
    text = f"{prompts.USER}: 12 cats{prompts.BETWEEN}{prompts.ASSISTANT}:"
    assert JanusTokenizer.load(tmp_path).encode_prompt(text) == words.encode_prompt(text)


def test_a_tokenizer_without_its_pad_is_refused(janus_goldens, tmp_path):
    text = (janus_goldens / "tokenizer" / "tokenizer.json").read_text("utf-8")
    (tmp_path / "tokenizer.json").write_text(text.replace(prompts.PAD, "<pad>"), "utf-8")
    with pytest.raises(ValueError, match=r"lacks .*pad"):
        JanusTokenizer.load(tmp_path)


def test_roles_that_do_not_alternate_are_refused():
    good = [(prompts.USER, "a"), (prompts.ASSISTANT, "b")]
    assert prompts.checked(good) == good
    with pytest.raises(ValueError, match="message 1"):
        prompts.checked(good[::-1])


def test_the_filling_is_the_processors_colour(tmp_path):
    (tmp_path / pictures.FILE).write_text(
        json.dumps({"image_size": 8, "min_size": 2, "image_mean": [0.1, 0.5, 1.0]})
    )
    square = pictures.Square.load(tmp_path).apply(np.full((4, 8, 3), 9, np.uint8))
    assert square.shape == (8, 8, 3)
    assert square[0, 0].tolist() == [25, 127, 255]
    assert square[4, 4].tolist() == [9, 9, 9]


@pytest.mark.parametrize("text", ["{}", '{"image_size": "big"}'])
def test_a_damaged_processor_is_refused_by_file(tmp_path, text):
    (tmp_path / pictures.FILE).write_text(text)
    with pytest.raises(ValueError, match=pictures.FILE):
        pictures.Square.load(tmp_path)
