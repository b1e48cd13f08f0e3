"""Tokenizer files, spoilt: loaded and used, or refused in one line that names the file."""

import json
from pathlib import Path

from tests.fuzz.tally import Tally, corrupted, generator
from unireason_jax.data.text.tokenizer import (
    CONTROLS,
    Qwen2Tokenizer,
    SentencePieceTokenizer,
    load_tokenizer,
)

FULL, SMALL = 2000, 60
TEXT = "<think>a red circle, 红 😀 <|im_end|>\nleft of zebra</think>"


def fuzz(seed: int, size: int, folder: Path, tally: Tally) -> None:
    """`size` corruptions of the files of each kind of vocabulary, in turns."""
    SentencePieceTokenizer.train([TEXT]).save(folder / "words")
    bytewise(folder)
    for kind in ("words", "slow", "whole"):
        files = sorted((folder / kind).iterdir())
        for trial in range(size):
            path = files[trial % len(files)]
            data = path.read_bytes()
            path.write_bytes(corrupted(data, generator(seed, kind, trial)))
            with tally.trial(f"{kind} {trial} ({path.name})"):
                use(path, f"{kind} {trial}", tally)
            path.write_bytes(data)


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
    """A small vocabulary of bytes in both forms of Qwen2's."""
    from tokenizers import pre_tokenizers

    slow, whole = folder / "slow", folder / "whole"
    slow.mkdir()
    whole.mkdir()
    letters = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    (slow / "vocab.json").write_text(json.dumps(letters | {"re": 256, "red": 257}))
    (slow / "merges.txt").write_text("#version: 0.2\nr e\nre d\n")
    added = {str(258 + i): {"content": name, "special": True} for i, name in enumerate(CONTROLS)}
    (slow / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": added}))
    made = Qwen2Tokenizer.load(slow)
    (whole / Qwen2Tokenizer.FILE).write_text(made._tokenizer.to_str())
