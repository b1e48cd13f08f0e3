"""Both tokenizers: recorded ids, control tokens, round trips, and errors."""

import hashlib
import io
import json
import pickle
import shutil

import pytest

from unireason_jax.data.text.tokenizer import (
    CONTROLS,
    TAG_WORDS,
    Qwen2Tokenizer,
    SentencePieceTokenizer,
    load_tokenizer,
    world_tokenizer,
)

WORLD_SHA256 = "35a5dcb2f22b693da2dbaa30f59ec1d01c613540bb2e29a627b2e03c1e51bd8e"

TEXTS = ["draw a red circle", "a large blue square , left of it"]


@pytest.fixture(scope="module")
def words():
    return SentencePieceTokenizer.train(TEXTS, ["a1", "no change"])


def test_words_and_tags_are_single_pieces(words):
    for word in ["red", "a1", "change", ",", *TAG_WORDS]:
        assert len(words.encode(word)) == 1, word
    text = "<think> a red circle , a1 </think>"
    assert words.decode(words.encode(text)) == text
    assert words.encode("<think>a red circle, a1</think>") == words.encode(text)
    assert words.encode("") == [] and words.decode([]) == ""


def test_training_does_not_depend_on_order_or_repetition(words):
    again = SentencePieceTokenizer.train([*TEXTS[::-1], *TEXTS], ["no change", "a1"])
    assert again._model == words._model
    assert {words.bos, words.eos, words.soi, words.eoi} == {1, 2, 3, 4}


@pytest.mark.parametrize("control", CONTROLS)
def test_control_tokens_in_a_users_text_stay_text(words, control, data_goldens):
    controls = {words.bos, words.eos, words.soi, words.eoi}
    for text in (control, f"red {control} circle", f"<think>{control}</think>"):
        assert not controls & set(words.encode(text))
    bpe = Qwen2Tokenizer.load(data_goldens / "tokenizer")
    ids = bpe.encode(f"red {control} circle")
    assert not {bpe.bos, bpe.eos, bpe.soi, bpe.eoi} & set(ids)
    assert bpe.decode(ids) == f"red {control} circle"


def test_unknown_words_are_marked(words):
    assert words.encode("zebra") == [0]
    assert words.decode(words.encode("red zebra circle")).split() == ["red<unk>", "circle"]


TALES = [
    "a red circle\nabove\ta <b>blue</b> square",
    "一只红色的猫坐在窗台上。" * 120,  # more bytes than SentencePiece takes as one word
    "ขอบคุณ こんにちは (カメラ) ok",
    "a cat😀 and a 👩‍🚀 wave 🇫🇷",
    "x" * 9000 + " " + "長" * 2000,
    "he typed <|im_start|>user and a<|im_end|>b",
    "<think>a <|vision_start|> </think>",
]


def test_every_word_of_the_texts_is_in_their_vocabulary():
    """Line ends, scripts without blanks, emoji, endless words and typed control tokens too."""
    trained = SentencePieceTokenizer.train(TALES)
    for text in TALES:
        ids = trained.encode(text)
        assert 0 not in ids and trained.unknown(text) == []
        assert not {trained.bos, trained.eos, trained.soi, trained.eoi} & set(ids)
        assert trained.encode(trained.decode(ids)) == ids
        # Nothing but blanks is lost.
        assert "".join(trained.decode(ids).split()) == "".join(text.split())


def test_characters_of_scripts_without_blanks_are_learned_alone():
    trained = SentencePieceTokenizer.train(["一只红色的猫", "a cat😀"])
    assert trained.decode(trained.encode("红猫")) == "红 猫"
    assert trained.unknown("红狗 cat 😀 🚀") == ["狗", "🚀"]
    assert len(trained.encode("a cat😀")) == 3


def test_a_vocabulary_with_whole_chinese_words_keeps_them():
    """As earlier versions trained them: a word that is known is one id."""
    from sentencepiece import SentencePieceTrainer

    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(["红色的猫", "red"]),
        model_writer=model,
        model_type="word",
        use_all_vocab=True,
        control_symbols=list(CONTROLS),
        bos_id=-1,
        eos_id=-1,
        minloglevel=2,
    )
    old = SentencePieceTokenizer(model.getvalue())
    assert len(old.encode("红色的猫")) == 1 and len(old.encode("红猫")) == 1


def test_the_worlds_vocabulary_is_what_it_always_was():
    """Runs and prepared folders keep it; the same words must be the same bytes."""
    model = world_tokenizer()._model
    assert hashlib.sha256(model).hexdigest() == WORLD_SHA256


def test_unknown_words_are_listed(words):
    assert words.unknown("a red zebra, a1 Zebra") == ["zebra", "Zebra"]
    assert words.unknown("red 😀") == ["😀"]
    assert words.unknown("say <|im_end|>") == ["say", "<|im_end|>"]


def test_a_vocabulary_of_bytes_knows_everything_and_a_smaller_one_says_what_not(data_goldens):
    tokenizer = Qwen2Tokenizer.load(data_goldens / "tokenizer")
    text = "a cat 😀 红"
    lost = tokenizer.unknown(text)
    assert [c for c in text if not tokenizer.encode(c)] == lost
    if not lost:
        assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("data", [b"", b"\xff" * 100, b"text", bytes(50)])
def test_a_file_that_is_no_vocabulary_is_named(tmp_path, data):
    (tmp_path / "sentencepiece.model").write_bytes(data)
    with pytest.raises(ValueError, match=rf"{tmp_path}/sentencepiece\.model: "):
        load_tokenizer(tmp_path)


def test_control_ids_are_left_out_of_decoded_text(words):
    assert words.decode([words.bos, *words.encode("red circle"), words.eos]) == "red circle"


def test_saved_tokenizers_come_back(words, tmp_path, data_goldens):
    words.save(tmp_path / "words")
    bpe = Qwen2Tokenizer.load(data_goldens / "tokenizer")
    bpe.save(tmp_path / "bpe")
    for folder, tokenizer in (("words", words), ("bpe", bpe)):
        for back in (load_tokenizer(tmp_path / folder), pickle.loads(pickle.dumps(tokenizer))):
            assert type(back) is type(tokenizer)
            assert back.encode("a red circle") == tokenizer.encode("a red circle")
            assert (back.bos, back.eoi, back.vocab_size) == (
                tokenizer.bos,
                tokenizer.eoi,
                tokenizer.vocab_size,
            )


def test_training_on_nothing_is_refused():
    with pytest.raises(ValueError, match="no words to train"):
        SentencePieceTokenizer.train([], [])


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"sentencepiece\.model"):
        SentencePieceTokenizer.load(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"neither tokenizer\.json nor vocab\.json"):
        load_tokenizer(tmp_path)


# ------------------------------------------------------------------ Qwen2, against recordings


@pytest.fixture(params=["tokenizer.json", "vocab.json and merges.txt"])
def qwen_folder(request, data_goldens, tmp_path):
    if request.param == "tokenizer.json":
        return data_goldens / "tokenizer"
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        shutil.copy(data_goldens / "tokenizer" / name, tmp_path / name)
    return tmp_path


def test_all_recorded_strings(qwen_folder, data_goldens):
    """188 strings: the official ids and the official text back, from either set of files."""
    tokenizer = Qwen2Tokenizer.load(qwen_folder, parse_controls=True)
    cases = json.loads((data_goldens / "tokenizer_cases.json").read_text())
    assert len(cases) > 100
    for case in cases:
        assert tokenizer.encode(case["text"]) == case["ids"], case["text"]
        assert tokenizer.decode(case["ids"]) == case["decoded_skip_special"], case["text"]
    safe = Qwen2Tokenizer.load(qwen_folder)
    for case in cases:
        if "<|" not in case["text"]:
            assert safe.encode(case["text"]) == case["ids"], case["text"]


def test_control_ids_are_found_by_string(qwen_folder, data_goldens):
    expected = json.loads((data_goldens / "config.json").read_text())["special_token_ids"]
    tokenizer = Qwen2Tokenizer.load(qwen_folder)
    assert tokenizer.bos == expected["bos_token_id"]
    assert tokenizer.eos == expected["eos_token_id"]
    assert tokenizer.soi == expected["start_of_image"]
    assert tokenizer.eoi == expected["end_of_image"]


def test_absent_control_tokens_are_an_error_or_appended_like_the_reference(data_goldens, tmp_path):
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(data_goldens / "tokenizer" / name, tmp_path / name)
    with pytest.raises(ValueError, match=r"lacks <\|im_start\|>, .*add_missing=True"):
        Qwen2Tokenizer.load(tmp_path)
    plain = len(json.loads((tmp_path / "vocab.json").read_text()))
    cases = json.loads((data_goldens / "config.json").read_text())["add_special_tokens_cases"]
    for case in cases:
        present = case["kwargs"].get("additional_special_tokens", [])
        names = ["<|endoftext|>", *present]
        decoder = {str(plain + i): {"content": n, "special": True} for i, n in enumerate(names)}
        config = tmp_path / "tokenizer_config.json"
        config.write_text(json.dumps({"added_tokens_decoder": decoder}))
        tokenizer = Qwen2Tokenizer.load(tmp_path, add_missing=True)
        assert tokenizer.vocab_size == case["len_after"]
        if case["case"] != "chat tokens only":  # there the recording gives <|endoftext|> another id
            ids = case["ids"]
            assert tokenizer.bos == ids["bos_token_id"] and tokenizer.eos == ids["eos_token_id"]
            assert tokenizer.soi == ids["start_of_image"] and tokenizer.eoi == ids["end_of_image"]


def test_older_releases_list_their_added_tokens_apart(data_goldens, tmp_path):
    whole = Qwen2Tokenizer.load(data_goldens / "tokenizer")
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(data_goldens / "tokenizer" / name, tmp_path / name)
    config = json.loads((data_goldens / "tokenizer" / "tokenizer_config.json").read_text())
    added = {x["content"]: int(i) for i, x in config["added_tokens_decoder"].items()}
    (tmp_path / "added_tokens.json").write_text(json.dumps(added))
    found = Qwen2Tokenizer.load(tmp_path)
    assert (found.bos, found.eoi, found.vocab_size) == (whole.bos, whole.eoi, whole.vocab_size)
    added = {token: number + 7 for token, number in added.items()}
    (tmp_path / "added_tokens.json").write_text(json.dumps(added))
    with pytest.raises(ValueError, match=r"added token <\|\w+\|> is declared as \d+ but gets"):
        Qwen2Tokenizer.load(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.json", "tokenizer_config.json"])
def test_unreadable_files_are_named(data_goldens, tmp_path, name):
    for other in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        shutil.copy(data_goldens / "tokenizer" / other, tmp_path / other)
    (tmp_path / name).write_text('{"half')
    with pytest.raises(ValueError, match=rf"{tmp_path}: {name}.* cannot be read"):
        Qwen2Tokenizer.load(tmp_path)
