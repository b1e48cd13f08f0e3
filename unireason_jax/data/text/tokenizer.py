"""Text <-> ids behind one small protocol: SentencePiece words, and Qwen2's BPE for BAGEL.

`encode` adds nothing, and control tokens written in a user's text stay text: only the template puts
control ids into a sequence.
"""

import functools
import io
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from unireason_jax.data.janus.prompts import BEGIN
from unireason_jax.data.janus.tokenizer import JanusTokenizer
from unireason_jax.data.text import pieces
from unireason_jax.data.text.added_tokens import added_tokens, readable
from unireason_jax.storage import atomic, paths
from unireason_jax.world import vocabulary
from unireason_jax.world.hard import vocabulary as hard_vocabulary

CONTROLS = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>")
TAGS = ("think", "sugg", "ins", "des", "refine")
TAG_WORDS = tuple(f"<{mark}{tag}>" for tag in TAGS for mark in ("", "/"))
_WITHOUT_BLANKS = (
    "\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Tibetan, Burmese, Khmer
    "\u3001-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"  # kana, Han, and their punctuation
    "\uf900-\ufaff\uff01-\uffef\U00020000-\U0003ffff"
    "\u200d\u2600-\u27bf\u2b00-\u2bff\ufe0f\U0001f000-\U0001faff"  # signs and emoji
)
"""Characters of scripts that write no blanks between words, as a range of a regular expression."""
_LONGEST = 1000  # characters; words above 4191 bytes SentencePiece leaves out without saying so


class Tokenizer(Protocol):
    """What records, templates and samplers need of a tokenizer.

    `bos`, `eos`, `soi` and `eoi` are the ids of the four `CONTROLS`, in this order; `unknown_id` is
    that of unknown words in a row, None where there is none. A complete one knows every word.
    """

    bos: int
    eos: int
    soi: int
    eoi: int
    unknown_id: int | None
    vocab_size: int
    is_complete: bool

    def encode(self, text: str) -> list[int]:
        """Ids of the text, nothing added."""

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the ids, control tokens left out."""

    def unknown(self, text: str) -> list[str]:
        """Words (or characters) of the text that its ids do not hold, in order."""

    def save(self, folder: Path) -> None:
        """Writes what `load_tokenizer` needs into `folder`."""


class SentencePieceTokenizer:
    """A word-level SentencePiece vocabulary.

    Words are separated by blanks, line ends and tabs; tags and the signs , . ; : ? ! are words of
    their own, so `<think>red` and `<think> red` are the same ids. In scripts that write no blanks
    every character is a word, so are emoji; what runs on for thousands of letters is several words.
    A control token in the text is three words, its marks and its name. Decoding joins words with
    single blanks. Words that were not seen in training become the unknown id, written as "<unk>".

    Args:
      model: the bytes of a SentencePiece model.

    Raises:
      ValueError: the bytes are no such model, or it lacks the control tokens.
    """

    FILE = "sentencepiece.model"
    is_complete = False
    _WORDS = re.compile("|".join([*map(re.escape, TAG_WORDS), r"[,.;:?!]"]))
    _CONTROL = re.compile("|".join(map(re.escape, CONTROLS)))
    _APART = re.compile("|".join(f"<[|] ({name[2:-2]}) [|]>" for name in CONTROLS))
    _PARTS = re.compile(f"[{_WITHOUT_BLANKS}]|[^{_WITHOUT_BLANKS}\\s]{{1,{_LONGEST}}}")

    def __init__(self, model: bytes):
        import sentencepiece

        self._model = model
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        except (RuntimeError, OSError):
            raise ValueError("not a SentencePiece model") from None
        if not model or not self._processor.get_piece_size():
            raise ValueError("not a SentencePiece model: it is empty")
        pieces = {name: self._processor.piece_to_id(name) for name in CONTROLS}
        self.unknown_id = self._processor.unk_id()
        for name, piece in pieces.items():
            if piece == self.unknown_id or not self._processor.is_control(piece):
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

        found = {part for text in texts for word in cls._split(text) for part in cls._parts(word)}
        found |= {part for text in words for word in cls._split(text) for part in cls._parts(word)}
        if not found - {*TAG_WORDS}:
            raise ValueError("no words to train a tokenizer on; give texts or words")
        found |= {*TAG_WORDS}
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

    def grown(self, words: Iterable[str]) -> "SentencePieceTokenizer":
        """This vocabulary with the words that it lacks behind, in their order; ids stay."""
        parts = (part for word in words for part in self._parts(word))
        new = [part for part in dict.fromkeys(parts) if not self._knows(part)]
        return type(self)(self._model + b"".join(map(pieces.piece, new)))

    @classmethod
    def load(cls, folder: Path) -> "SentencePieceTokenizer":
        """Reads what `save` wrote.

        Raises:
          FileNotFoundError: the folder has no SentencePiece model.
          ValueError: its file is damaged; the message names it.
        """
        path = _existing(paths.of(folder) / cls.FILE)
        try:
            return cls(path.read_bytes())
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    def save(self, folder: Path) -> None:
        """Writes the model into `folder`."""
        atomic.write_bytes(paths.of(folder) / self.FILE, self._model)

    def encode(self, text: str) -> list[int]:
        """Ids of the words of `text`."""
        words = self._split(text)
        ids = self._processor.encode(" ".join(words))
        if self.unknown_id not in ids:
            return ids
        return self._processor.encode(" ".join(self._known_parts(words)))

    def decode(self, ids: Sequence[int]) -> str:
        """Words joined by blanks, control tokens left out."""
        text = self._processor.decode([int(i) for i in ids])
        return self._APART.sub(lambda found: found.group().replace(" ", ""), text)

    def unknown(self, text: str) -> list[str]:
        """Words of the text that become the unknown id, in order."""
        return [word for word in self._known_parts(self._split(text)) if not self._knows(word)]

    @property
    def words(self) -> list[str]:
        """The vocabulary without control tokens and the unknown word, by id."""
        pieces = map(self._processor.id_to_piece, range(self.vocab_size))
        return [piece[1:] for piece in pieces if piece.startswith("▁")]

    def __reduce__(self):
        return type(self), (self._model,)

    @classmethod
    def _split(cls, text: str) -> list[str]:
        """Words between blanks; tags and signs are words of their own."""
        return cls._WORDS.sub(r" \g<0> ", text).split()

    @classmethod
    def _parts(cls, word: str) -> list[str]:
        """A word cut: characters of scripts without blanks, marks of control tokens, by length."""
        apart = cls._CONTROL.sub(lambda control: f" <| {control.group()[2:-2]} |> ", word)
        return cls._PARTS.findall(apart)

    def _known_parts(self, words: Iterable[str]) -> Iterator[str]:
        """The words; of one that is unknown its parts, if any of them is known."""
        for word in words:
            parts = [word] if self._knows(word) else self._parts(word)
            yield from parts if any(map(self._knows, parts)) else [word]

    def _knows(self, word: str) -> bool:
        return self._processor.piece_to_id(f"▁{word}") != self.unknown_id


def world_tokenizer(*, hard: int = 0) -> SentencePieceTokenizer:
    """The words of the embedded world; behind them those of the harder one of `hard` cells a side.

    The words of both keep their ids, so that the harder world can be learned from weights of the
    first.
    """
    plain = SentencePieceTokenizer.train((), vocabulary.WORDS)
    return plain.grown(hard_vocabulary.words_of(hard)) if hard else plain


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
    unknown_id = None
    SLOW_FILES = ("vocab.json", "merges.txt")
    RELEASED = (
        FILE,
        *SLOW_FILES,
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "chat_template.jinja",
        "chat_template.json",
    )
    """Files of a release, which stay with the tokenizer wherever it is saved."""
    _SPLIT = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
        r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )

    def __init__(self, tokenizer, *, parse_controls: bool = False):
        self._tokenizer = tokenizer
        self._parse_controls = parse_controls
        self._files: dict[str, bytes] = {}
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
        folder = paths.of(folder)
        whole = (folder / cls.FILE).is_file()
        if not whole and not all((folder / name).is_file() for name in cls.SLOW_FILES):
            raise FileNotFoundError(
                f"no tokenizer in {folder}: neither {cls.FILE} nor vocab.json with merges.txt; "
                "copy them from the model's release"
            )
        try:
            tokenizer = cls._from_file(folder) if whole else cls._from_slow_files(folder)
            absent = [name for name in CONTROLS if tokenizer.token_to_id(name) is None]
            if add_missing:
                tokenizer.add_special_tokens(absent)
            made = cls(tokenizer, parse_controls=parse_controls)
            if not absent:
                present = [name for name in cls.RELEASED if (folder / name).is_file()]
                made._files = {name: (folder / name).read_bytes() for name in present}
            return made
        except ValueError as error:
            raise ValueError(f"{folder}: {error}") from None

    def save(self, folder: Path) -> None:
        """Writes into `folder` the files it was loaded from, byte for byte, or `tokenizer.json`."""
        files = self._files or {self.FILE: self._tokenizer.to_str().encode()}
        for name, content in files.items():
            atomic.write_bytes(paths.of(folder) / name, content)

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, nothing added."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the ids, control tokens left out."""
        return self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=True)

    def unknown(self, text: str) -> list[str]:
        """Characters that have no ids, in order; a vocabulary with all bytes has none."""
        return [] if self.is_complete else [c for c in text if not self.encode(c)]

    @property
    def rules(self) -> list[str]:
        """All that decides the ids of a text: pieces by id, merges, added tokens."""
        whole = json.loads(self._tokenizer.to_str())
        pieces = self._tokenizer.get_vocab(with_added_tokens=True)
        merges = [" ".join(m) if isinstance(m, list) else m for m in whole["model"]["merges"]]
        return [*sorted(pieces, key=pieces.get), *merges]

    @functools.cached_property
    def is_complete(self) -> bool:
        """Whether every byte is in the vocabulary."""
        from tokenizers import pre_tokenizers

        vocabulary = self._tokenizer.get_vocab(with_added_tokens=False)
        return all(letter in vocabulary for letter in pre_tokenizers.ByteLevel.alphabet())

    def __reduce__(self):
        return _restored, (self._tokenizer.to_str(), self._parse_controls)

    @classmethod
    def _from_file(cls, folder: Path):
        import tokenizers

        data = (folder / cls.FILE).read_bytes()
        return readable(lambda: tokenizers.Tokenizer.from_buffer(data), cls.FILE)

    @classmethod
    def _from_slow_files(cls, folder: Path):
        import tokenizers
        from tokenizers import decoders, models, normalizers, pre_tokenizers

        with paths.here(folder / name for name in cls.SLOW_FILES) as files:
            read = functools.partial(models.BPE.from_file, *map(str, files))
            model = readable(read, " or ".join(cls.SLOW_FILES))
        tokenizer = tokenizers.Tokenizer(model)
        tokenizer.normalizer = normalizers.NFC()
        split = pre_tokenizers.Split(tokenizers.Regex(cls._SPLIT), "isolated")
        letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, letters])
        tokenizer.decoder = decoders.ByteLevel()
        for number, token in sorted(added_tokens(folder).items()):
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


def load_tokenizer(folder: Path) -> SentencePieceTokenizer | Qwen2Tokenizer:
    """The tokenizer that `save` wrote into `folder`, whichever kind it is.

    Raises:
      FileNotFoundError: no tokenizer there.
    """
    if (paths.of(folder) / SentencePieceTokenizer.FILE).is_file():
        return SentencePieceTokenizer.load(folder)
    path = paths.of(folder) / JanusTokenizer.FILE
    if path.is_file() and BEGIN in path.read_text("utf-8", errors="replace"):
        return JanusTokenizer.load(folder)
    return Qwen2Tokenizer.load(folder)


def _restored(text: str, parse_controls: bool) -> Qwen2Tokenizer:
    import tokenizers

    return Qwen2Tokenizer(tokenizers.Tokenizer.from_str(text), parse_controls=parse_controls)


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(f"no tokenizer at {path}; name the folder a run saved it in")
    return path
