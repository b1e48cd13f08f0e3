"""Tokenizer files, spoilt: loaded and used, or refused in one line that names the file."""

import json
from pathlib import Path

from tests.fuzz.tally import Tally, corrupted, generator
from unireason_jax.data.tokenizer import (
    CONTROLS,
    Qwen2Tokenizer,
    SentencePieceTokenizer,
    load_tokenizer,
)

FULL, SMALL = 2000, 60
TEXT = "<think>a red circle, 红 😀 <|im_end|>\nleft of zebra</think>"


def fuzz(seed: int, size: int, folder: Path, tally: Tally) -> None:
    """`size` corruptions of a SentencePiece model, and as many of a tokenizer.json."""
    SentencePieceTokenizer.train([TEXT]).save(folder / "words")
    bytewise(folder / "bytes")
    for kind, name in (
        ("words", SentencePieceTokenizer.FILE),
        ("bytes", Qwen2Tokenizer.FILE),
    ):
        path = folder / kind / name
        data = path.read_bytes()
        for trial in range(size):
            path.write_bytes(corrupted(data, generator(seed, kind, trial)))
            with tally.trial(f"{kind} {trial}"):
                use(path, f"{kind} {trial}", tally)


def use(path: Path, name: str, tally: Tally) -> None:
    """Loads a vocabulary and writes and reads a text with it."""
    try:
        found = load_tokenizer(path.parent)
        found.decode(found.encode(TEXT))
        found.unknown(TEXT)
        tally.count("used")
    except ValueError as error:
        told = str(error)
        tally.expect(str(path.parent) in told and "\n" not in told, name, f"told {told!r}")
        tally.count("refused")


def bytewise(folder: Path) -> None:
    """A small vocabulary of bytes in the form of Qwen2's."""
    from tokenizers import pre_tokenizers

    folder.mkdir()
    letters = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    (folder / "vocab.json").write_text(json.dumps(letters | {"re": 256, "red": 257}))
    (folder / "merges.txt").write_text("#version: 0.2\nr e\nre d\n")
    added = {str(258 + i): {"content": name, "special": True} for i, name in enumerate(CONTROLS)}
    (folder / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": added}))
    Qwen2Tokenizer.load(folder).save(folder)
