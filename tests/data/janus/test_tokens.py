"""Records as rows of text, looked-at pictures and codes."""

import dataclasses

import numpy as np
import pytest

from unireason_jax.data import record_tokens
from unireason_jax.data.bagel.tokens import SampleSpec
from unireason_jax.data.image_sizes import SizeCodes
from unireason_jax.data.janus import prompts, script
from unireason_jax.data.janus.pictures import Square
from unireason_jax.data.janus.tokenizer import JanusTokenizer
from unireason_jax.data.records import Record, RecordError, Segment
from unireason_jax.data.rows import Budgets, assemble, row_spec
from unireason_jax.data.templates import to_record
from unireason_jax.data.text.tokenizer import world_tokenizer
from unireason_jax.rules.visibility import dense
from unireason_jax.world.cells import CellCodes
from unireason_jax.world.renderer import render
from unireason_jax.world.scenes import Object, Scene

RNG = np.random.default_rng
PICTURE = np.zeros((32, 32, 3), np.uint8)


class Codes(SizeCodes):
    """Codes that count up."""

    def encode(self, image):
        zeros = super().encode(image)
        return np.arange(zeros.size, dtype=np.int32).reshape(zeros.shape)


@pytest.fixture(scope="module")
def spec(janus_goldens):
    """Pictures of 64 pixels: 16 features of the tower, 16 codes."""
    words = JanusTokenizer.load(janus_goldens / "tokenizer")
    rules = {"vit_resize": Square(64), "latent_resize": Square(64)}
    return SampleSpec(words, Codes(16, 64), 1, 4, 16, 4, **rules)


def record(*segments):
    """A record of segments."""
    return Record("r", tuple(segments), "test")


USER = Segment("text", "user", text="A red cup of tea on a wooden table.")
DRAWN = Segment("image", "image", image=PICTURE, loss="flow")
ANSWER = Segment("text", "answer", text="The square is red.", loss="text", next="stop")
LOOKED = Segment("image", "source", image=PICTURE, und=True, gen=True)


def in_order(sequence, codes=1000):
    """The tokens in true order: text ids, -1 for features, 1000 + code."""
    made = [sequence.text_ids, np.full(len(sequence.vit_positions), -1), codes + sequence.code_ids]
    out = np.zeros(sum(map(len, made)), np.int64)
    out[sequence.order] = np.concatenate(made)
    return out.tolist()


def test_drawing_is_the_official_prompt_then_the_codes(spec):
    words = spec.tokenizer
    sequence = record_tokens.tokenize(record(USER, DRAWN), spec, RNG(0))
    text = prompts.conversation([(prompts.USER, USER.text), (prompts.ASSISTANT, "")])
    prompt = words.encode_prompt(text + prompts.BEGIN)
    assert in_order(sequence) == [*prompt, *range(1000, 1016), words.eoi]
    assert sequence.code_weights.tolist() == [1.0] * 16
    assert sequence.code_from.tolist() == [len(prompt) - 1, *[-1] * 15]
    assert not sequence.text_weights.any()


def test_questions_are_the_official_conversation(spec):
    words = spec.tokenizer
    system = Segment("text", "system", text=prompts.SYSTEM)
    question = Segment("text", "user", text="What is the colour of the square?")
    sequence = record_tokens.tokenize(record(system, LOOKED, question, ANSWER), spec, RNG(0))
    messages = [
        (prompts.USER, f"{prompts.PLACE}\n{question.text}"),
        (prompts.ASSISTANT, ANSWER.text),
    ]
    ids = words.encode_prompt(prompts.conversation(messages, prompts.SYSTEM))
    marks = {"place": words.place, "begin": words.soi, "end": words.eoi, "tokens": 16}
    found = in_order(sequence)
    wanted = prompts.expanded(ids, **marks)
    assert found == [-1 if token == words.place else token for token in wanted]
    supervised = sequence.text_labels[sequence.text_weights > 0].tolist()
    assert supervised == [*words.encode(" The square is red."), words.eos, words.eos]


def test_every_token_sees_those_before_it(spec):
    sequence = record_tokens.tokenize(record(LOOKED, USER, DRAWN), spec, RNG(0))
    order = sequence.order
    assert (dense(sequence.visibility) == (order[:, None] >= order[None, :])).all()
    assert (sequence.positions == order).all()


def test_a_dropped_prompt_is_as_long_and_blank(spec):
    dropping = dataclasses.replace(spec, dropout=(1.0, 0.0, 0.0))
    whole = record_tokens.tokenize(record(USER, DRAWN), spec, RNG(0))
    blank = record_tokens.tokenize(record(USER, DRAWN), dropping, RNG(0))
    count = whole.code_from[0] + 1
    wanted = prompts.unconditional(in_order(whole)[:count], spec.tokenizer.pad)
    assert in_order(blank)[:count] == wanted
    assert in_order(blank)[count:] == in_order(whole)[count:]
    answered = record_tokens.tokenize(record(USER, ANSWER), dropping, RNG(0))
    assert answered.text_weights.any()  # nothing is drawn: nothing is dropped


def test_drafts_are_drawn_then_looked_at(spec):
    draft = Segment("image", "draft", image=PICTURE, und=True, gen=True)
    sequence = record_tokens.tokenize(record(USER, draft, ANSWER), spec, RNG(0))
    assert sequence.lengths[1:] == (16, 16)
    assert not sequence.code_weights.any()
    kinds = np.sign([min(token, 0) + (token >= 1000) for token in in_order(sequence)])
    assert kinds[kinds != 0].tolist() == [1] * 16 + [-1] * 16


def test_rows_know_what_predicts_each_code(spec):
    sequences = [record_tokens.tokenize(record(USER, DRAWN), spec, RNG(i)) for i in range(2)]
    text = len(sequences[0].text_ids)
    room = Budgets(2 * text + 3, 4, 40)
    row = assemble(sequences, room, spec.patch_sizes, by_codes=True)
    shapes = row_spec(room, spec.patch_sizes, by_codes=True)
    assert {n: (x.shape, x.dtype) for n, x in row.items()} == shapes
    before, ids = row["code_from"], np.concatenate([row["text_ids"], np.zeros(4, int)])
    assert [ids[before[i]] for i in (0, 16)] == [spec.tokenizer.soi] * 2
    place = room.und + np.arange(40)
    assert (before[1:16] == place[:15]).all() and (before[17:32] == place[16:31]).all()
    assert row["code_weights"].sum() == 32
    rotary = row["positions"]
    assert (rotary[place[:32]] == rotary[before[:32]] + 1).all()


def test_lengths_are_what_is_rendered(spec):
    for segments in ((USER, DRAWN), (LOOKED, USER, ANSWER), (USER, ANSWER)):
        made = record(*segments)
        assert (
            record_tokens.lengths(made, spec) == record_tokens.tokenize(made, spec, RNG(0)).lengths
        )


def test_holes_and_long_records_are_refused(spec):
    hole = dataclasses.replace(DRAWN, image=None)
    with pytest.raises(RecordError, match="hole"):
        record_tokens.tokenize(record(USER, hole), spec, RNG(0))
    short = dataclasses.replace(spec, max_latent=8)
    with pytest.raises(RecordError, match="16 latent tokens"):
        record_tokens.lengths(record(USER, DRAWN), short)


def test_records_of_the_world_need_no_marks_of_speakers():
    words = world_tokenizer()
    spec = SampleSpec(words, CellCodes(), 1, 16, 8, 16, interpolate=True)
    example = {"id": "a", "prompt": "red circle", "image": PICTURE, "type": "t2i"}
    made = to_record({**example, "task": "t2i"})
    sequence = record_tokens.tokenize(made, spec, RNG(0))
    assert in_order(sequence)[:2] == [words.bos, words.encode("red")[0]]
    assert len(sequence.code_ids) == 16
    assert script.said(made, 1, words).opening == []


def test_the_worlds_codes_lose_nothing():
    codec = CellCodes()
    scene = Scene((Object("circle", "red", "large", "a1"), Object("cross", "blue", "small", "c2")))
    image = render(scene)
    codes = codec.encode(image)
    assert (codec.decode(codes) == image).all()
    assert (codes > 0).sum() == 2 and codes.max() < codec.codes
    noisy = np.clip(image.astype(int) + RNG(0).integers(-9, 10, image.shape), 0, 255)
    assert (codec.encode(noisy.astype(np.uint8)) == codes).all()
    with pytest.raises(ValueError, match="multiples of 8"):
        codec.encode(image[:30])
