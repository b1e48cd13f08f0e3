"""Text <-> ids behind one small protocol: SentencePiece words, and Qwen2's BPE for BAGEL.

`encode` adds nothing, and control tokens written in a user's text stay text: only the template puts
control ids into a sequence.
"""

import io
import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from unireason_jax.storage import atomic
from unireason_jax.world import vocabulary

CONTROLS = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>")
TAGS = ("think", "sugg", "ins", "des", "refine")
TAG_WORDS = tuple(f"<{mark}{tag}>" for tag in TAGS for mark in ("", "/"))


class Tokenizer(Protocol):
    """What records, templates and samplers need of a tokenizer.

    `bos`, `eos`, `soi` and `eoi` are the ids of the four `CONTROLS`, in this order.
    """

    bos: int
    eos: int
    soi: int
    eoi: int
    vocab_size: int

    def encode(self, text: str) -> list[int]:
        """Ids of the text, nothing added."""

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the ids, control tokens left out."""

    def save(self, folder: Path) -> None:
        """Writes what `load_tokenizer` needs into `folder`."""


class SentencePieceTokenizer:
    """A word-level SentencePiece vocabulary for the embedded world.

    Words are separated by blanks; tags and the signs , . ; : ? ! are words of their own, so
    `<think>red` and `<think> red` are the same ids. Decoding joins words with single blanks.
    Words that were not seen in training become the unknown id, written as "<unk>".

    Args:
      model: the bytes of a SentencePiece model.
    """

    FILE = "sentencepiece.model"
    _WORDS = re.compile("|".join([*map(re.escape, TAG_WORDS), r"[,.;:?!]"]))

    def __init__(self, model: bytes):
        import sentencepiece

        self._model = model
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        pieces = {name: self._processor.piece_to_id(name) for name in CONTROLS}
        unknown = self._processor.unk_id()
        for name, piece in pieces.items():
            if piece == unknown or not self._processor.is_control(piece):
                raise ValueError(
                    f"the SentencePiece model has no control symbol {name}; train it with "
                    "SentencePieceTokenizer.train"
                )
        self.bos, self.eos, self.soi, self.eoi = pieces.values()
        self.vocab_size = self._processor.get_piece_size()

    @classmethod
    def train(cls, texts: Iterable[str], words: Iterable[str] = ()) -> "SentencePieceTokenizer":
        """A vocabulary of every word of `texts` and `words`, the same whatever their order.

        Raises:
          ValueError: there is no word at all.
        """
        import sentencepiece

        found = {word for text in texts for word in cls._separated(text).split()}
        found |= {word for text in words for word in cls._separated(text).split()} | {*TAG_WORDS}
        found -= {*CONTROLS}
        if not found - {*TAG_WORDS}:
            raise ValueError("no words to train a tokenizer on; give texts or words")
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sorted(found)),
            model_writer=model,
            model_type="word",
            use_all_vocab=True,
            control_symbols=list(CONTROLS),
            normalization_rule_name="identity",
            character_coverage=1.0,
            unk_surface="<unk>",
            bos_id=-1,
            eos_id=-1,
            num_threads=1,
            minloglevel=2,
        )
        return cls(model.getvalue())

    @classmethod
    def load(cls, folder: Path) -> "SentencePieceTokenizer":
        """Reads what `save` wrote.

        Raises:
          FileNotFoundError: the folder has no SentencePiece model.
        """
        return cls(_existing(Path(folder) / cls.FILE).read_bytes())

    def save(self, folder: Path) -> None:
        """Writes the model into `folder`."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        atomic.write_bytes(Path(folder) / self.FILE, self._model)

    def encode(self, text: str) -> list[int]:
        """Ids of the words of `text`."""
        return self._processor.encode(self._separated(text))

    def decode(self, ids: Sequence[int]) -> str:
        """Words joined by blanks, control tokens left out."""
        return self._processor.decode([int(i) for i in ids])

    def __reduce__(self):
        return type(self), (self._model,)

    @classmethod
    def _separated(cls, text: str) -> str:
        return cls._WORDS.sub(r" \g<0> ", text)


def world_tokenizer() -> SentencePieceTokenizer:
    """The words of the embedded world."""
    return SentencePieceTokenizer.train((), vocabulary.WORDS)


class Qwen2Tokenizer:
    """Qwen2's byte-level BPE (BAGEL, UniReason) through the `tokenizers` library.

    Args:
      tokenizer: a `tokenizers.Tokenizer` that holds the four control tokens.
      parse_controls: the reference turns "<|im_end|>" in a user's text into the real control id;
        True reproduces that, False (default) keeps it text.

    Raises:
      ValueError: a control token is missing.
    """

    FILE = "tokenizer.json"
    SLOW_FILES = ("vocab.json", "merges.txt")
    _SPLIT = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
        r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )

    def __init__(self, tokenizer, *, parse_controls: bool = False):
        self._tokenizer = tokenizer
        self._parse_controls = parse_controls
        self._tokenizer.encode_special_tokens = not parse_controls
        ids = {name: tokenizer.token_to_id(name) for name in CONTROLS}
        missing = [name for name, piece in ids.items() if piece is None]
        if missing:
            raise ValueError(
                f"the tokenizer lacks {', '.join(missing)}; add the release's "
                "tokenizer_config.json, or load it with add_missing=True, which appends them (the "
                "embedding table must have rows for them)"
            )
        self.bos, self.eos, self.soi, self.eoi = ids.values()
        self.vocab_size = tokenizer.get_vocab_size(with_added_tokens=True)

    @classmethod
    def load(
        cls, folder: Path, *, add_missing: bool = False, parse_controls: bool = False
    ) -> "Qwen2Tokenizer":
        """Reads `tokenizer.json`, or `vocab.json` and `merges.txt` as in the BAGEL release.

        Args:
          folder: where the files are.
          add_missing: append absent control tokens after the vocabulary, in the reference's order
            (bos, eos, soi, eoi).
          parse_controls: see the class.

        Raises:
          FileNotFoundError: neither set of files is there.
          ValueError: a file cannot be read, declares an id that its token does not get, or a
            control token is missing and `add_missing` is False; the message names the folder.
        """
        folder = Path(folder)
        whole = (folder / cls.FILE).is_file()
        if not whole and not all((folder / name).is_file() for name in cls.SLOW_FILES):
            raise FileNotFoundError(
                f"no tokenizer in {folder}: neither {cls.FILE} nor vocab.json with merges.txt; "
                "copy them from the model's release"
            )
        try:
            tokenizer = cls._from_file(folder) if whole else cls._from_slow_files(folder)
            if add_missing:
                absent = [name for name in CONTROLS if tokenizer.token_to_id(name) is None]
                tokenizer.add_special_tokens(absent)
            return cls(tokenizer, parse_controls=parse_controls)
        except ValueError as error:
            raise ValueError(f"{folder}: {error}") from None

    def save(self, folder: Path) -> None:
        """Writes `tokenizer.json` into `folder`."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        atomic.write_text(Path(folder) / self.FILE, self._tokenizer.to_str())

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, nothing added."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the ids, control tokens left out."""
        return self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=True)

    def __reduce__(self):
        return _restored, (self._tokenizer.to_str(), self._parse_controls)

    @classmethod
    def _from_file(cls, folder: Path):
        import tokenizers

        return _readable(lambda: tokenizers.Tokenizer.from_file(str(folder / cls.FILE)), cls.FILE)

    @classmethod
    def _from_slow_files(cls, folder: Path):
        import tokenizers
        from tokenizers import decoders, models, normalizers, pre_tokenizers

        paths = [str(folder / name) for name in cls.SLOW_FILES]
        model = _readable(lambda: models.BPE.from_file(*paths), " or ".join(cls.SLOW_FILES))
        tokenizer = tokenizers.Tokenizer(model)
        tokenizer.normalizer = normalizers.NFC()
        split = pre_tokenizers.Split(tokenizers.Regex(cls._SPLIT), "isolated")
        letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, letters])
        tokenizer.decoder = decoders.ByteLevel()
        for number, token in sorted(_added_tokens(folder).items()):
            special = token.get("special", True)
            entry = tokenizers.AddedToken(token["content"], special=special, normalized=False)
            (tokenizer.add_special_tokens if special else tokenizer.add_tokens)([entry])
            given = tokenizer.token_to_id(token["content"])
            if given != number:
                raise ValueError(
                    f"added token {token['content']} is declared as {number} but gets {given}; "
                    "vocab.json and the added tokens are not of one release"
                )
        return tokenizer


def _readable(read: Callable[[], Any], name: str) -> Any:
    """What `read` gives; the library's plain Exception as ValueError that names the file."""
    try:
        return read()
    except Exception as error:
        raise ValueError(f"{name} cannot be read ({error})") from None


def _added_tokens(folder: Path) -> dict[int, dict[str, Any]]:
    """Added tokens by id: of tokenizer_config.json, or of added_tokens.json in older releases."""
    found: dict[int, dict[str, Any]] = {}
    for name in ("tokenizer_config.json", "added_tokens.json"):
        if not found and (folder / name).is_file():
            values = _readable(lambda: json.loads((folder / name).read_text("utf-8")), name)  # noqa: B023
            if name.startswith("added"):
                found = {number: {"content": token} for token, number in values.items()}
            else:
                found = {int(i): x for i, x in values.get("added_tokens_decoder", {}).items()}
    return found


def load_tokenizer(folder: Path) -> SentencePieceTokenizer | Qwen2Tokenizer:
    """The tokenizer that `save` wrote into `folder`, whichever kind it is.

    Raises:
      FileNotFoundError: no tokenizer there.
    """
    if (Path(folder) / SentencePieceTokenizer.FILE).is_file():
        return SentencePieceTokenizer.load(folder)
    return Qwen2Tokenizer.load(folder)


def _restored(text: str, parse_controls: bool) -> Qwen2Tokenizer:
    import tokenizers

    return Qwen2Tokenizer(tokenizers.Tokenizer.from_str(text), parse_controls=parse_controls)


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(f"no tokenizer at {path}; name the folder a run saved it in")
    return path
