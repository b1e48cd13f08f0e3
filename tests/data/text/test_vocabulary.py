"""Unknown words: counted in every source, named, refused above a limit; vocabularies that grow."""

import json

import numpy as np
import pytest
from PIL import Image

from unireason_jax import prepare
from unireason_jax.data.records import Record, Segment
from unireason_jax.data.text import vocabulary
from unireason_jax.data.text.tokenizer import SentencePieceTokenizer, load_tokenizer


class Source:
    """Records of one text each; None is a record that cannot be read."""

    def __init__(self, texts):
        self.texts = texts

    def __len__(self):
        return len(self.texts)

    def __getitem__(self, index):
        if self.texts[index] is None:
            raise OSError("gone")
        return Record(str(index), (Segment("text", "user", self.texts[index], loss="text"),))


@pytest.fixture(scope="module")
def known():
    return SentencePieceTokenizer.train(["a red circle and a blue square"])


def test_unknown_words_are_counted_one_by_one(known):
    """Also where they stand in a row, which the vocabulary makes one token of."""
    found = vocabulary.look(
        Source(["a red zebra", "zebra crossing zebra", None, "a blue square"]), known
    )
    assert found.records == 3 and found.tokens == 9
    assert found.words == {"zebra": 3, "crossing": 1} and found.share == 4 / 9
    assert str(found) == (
        "44.44% of the tokens are unknown words (4 of 9 in 3 records): zebra 3, crossing 1"
    )


def test_of_many_records_a_sample_is_looked_at(known):
    found = vocabulary.look(Source(["a red circle"] * 5000), known)
    assert 0 < found.records <= 512 and found.share == 0


def test_a_line_is_one_line_whatever_the_words(known):
    hostile = ["\x1b[31m", "x" * 5000, "\u202e", *(f"w{i}" for i in range(50))]
    line = str(vocabulary.look(Source([" ".join(hostile)]), known))
    assert line.isprintable() and len(line) < 500 and "others" in line


def test_too_many_unknown_words_are_refused_by_source(known):
    sources = {
        "good": Source(["a red circle"] * 99),
        "bad": Source(["a red circle"] * 9 + ["zebra"]),
    }
    assert vocabulary.check(sources, known, 0.1, "--flag") == [
        "bad: 3.57% of the tokens are unknown words (1 of 28 in 10 records): zebra 1"
    ]
    with pytest.raises(ValueError, match=r"^bad: 3\.57%.*zebra 1.*--tokenizer_only.*--flag"):
        vocabulary.check(sources, known, 0.01, "--flag")


def test_a_vocabulary_of_bytes_knows_every_word(data_goldens):
    complete = load_tokenizer(data_goldens / "tokenizer")
    if complete.is_complete:
        assert vocabulary.check({"x": Source(["😀 zebra"])}, complete, 0.0, "") == []
    with pytest.raises(ValueError, match="only a vocabulary of words can grow"):
        vocabulary.grown(complete, ["a"])


# ----------------------------------------------------------------------- the command


@pytest.fixture
def rows(tmp_path):
    Image.fromarray(np.full((32, 32, 3), 99, np.uint8)).save(tmp_path / "p.png")

    def write(name, *prompts):
        lines = [json.dumps({"task": "t2i", "prompt": p, "image": "p.png"}) for p in prompts]
        (tmp_path / name).write_text("\n".join(lines) + "\n")
        return str(tmp_path / name)

    return write


def run(*arguments):
    prepare.main(["prepare", *map(str, arguments)])


def test_one_vocabulary_for_several_inputs(rows, tmp_path, capsys):
    one, two = rows("one.jsonl", "a red cat"), rows("two.jsonl", "一只猫 <|im_end|>")
    run(f"--input={one},{two}", "--tokenizer_only", f"--output={tmp_path}/words")
    assert f"--tokenizer={tmp_path}/words" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "words").iterdir()] == ["sentencepiece.model"]
    for name in ("one", "two"):
        command = [f"--input={tmp_path}/{name}.jsonl", f"--tokenizer={tmp_path}/words"]
        run(*command, f"--output={tmp_path}/{name}")
        assert "no unknown word" in capsys.readouterr().out
    tokenizers = [
        (tmp_path / n / "tokenizer/sentencepiece.model").read_bytes() for n in ("one", "two")
    ]
    assert tokenizers[0] == tokenizers[1]
    with pytest.raises(SystemExit, match="is there already; give --overwrite"):
        run(f"--input={one}", "--tokenizer_only", f"--output={tmp_path}/words")


def test_a_vocabulary_grows(rows, tmp_path):
    one, two = rows("one.jsonl", "a red cat"), rows("two.jsonl", "a blue dog")
    run(f"--input={one}", "--tokenizer_only", f"--output={tmp_path}/1")
    given = f"--tokenizer={tmp_path}/1"
    run(f"--input={two}", given, "--tokenizer_only", f"--output={tmp_path}/2")
    assert load_tokenizer(tmp_path / "2").unknown("a red blue cat dog bird") == ["bird"]


def test_records_in_words_of_others_are_refused_after_the_report(rows, tmp_path, capsys):
    one, two = rows("one.jsonl", "a red cat"), rows("two.jsonl", *["a red cat"] * 9, "a green cat")
    run(f"--input={one}", "--tokenizer_only", f"--output={tmp_path}/words")
    command = [f"--input={two}", f"--tokenizer={tmp_path}/words"]
    with pytest.raises(SystemExit, match=r"unknown words \(1 of .*: green 1\. More than 1\.00%"):
        run(*command, f"--output={tmp_path}/out")
    assert "10 records" in capsys.readouterr().out
    run(*command, f"--output={tmp_path}/more", "--max_unknown=0.1")
    assert "green 1" in capsys.readouterr().out
