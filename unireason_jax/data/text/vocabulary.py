"""Vocabularies of texts, and words that one does not hold: counted in every source, and named.

An unknown word is one token that says nothing; a model learns to write it, and cannot be asked
about it. A few (misspelt, foreign) do no harm; many mean that the vocabulary is of other records.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
from tqdm import tqdm

from unireason_jax.data.files.streams import FileRecords, IndexedRecords, Piece, in_shards
from unireason_jax.data.mixture import RecordSource
from unireason_jax.data.records import Record
from unireason_jax.data.sources import ArrayRecordSource
from unireason_jax.data.text.tokenizer import SentencePieceTokenizer, Tokenizer, load_tokenizer

LIMIT = 0.01
"""Part of the tokens that may be unknown words, where nothing else is said."""
_LOOKED_AT = 512  # records of a source, evenly spread
_NAMED, _LETTERS = 8, 30
_PIECE = 1024  # rows read at a time


@dataclasses.dataclass(frozen=True)
class Unknown:
    """What a look at the texts of a source has found.

    Attributes:
      records: looked at.
      tokens: of their texts, every unknown word counted as one.
      words: how often each unknown word is there.
    """

    records: int
    tokens: int
    words: Counter[str]

    @property
    def share(self) -> float:
        """Part of the tokens that are unknown words."""
        return self.words.total() / max(self.tokens, 1)

    def __str__(self) -> str:
        if not self.words:
            return f"no unknown word in {self.records:,} records"
        shown = [f"{_shown(word)} {count:,}" for word, count in self.words.most_common(_NAMED)]
        more = len(self.words) - len(shown)
        return (
            f"{self.share:.2%} of the tokens are unknown words ({self.words.total():,} of "
            f"{self.tokens:,} in {self.records:,} records): {', '.join(shown)}"
            + (f" and {more:,} others" if more > 0 else "")
        )


def _shown(word: str) -> str:
    """A word in a message: printable, and cut where it is long."""
    word = word if word.isprintable() else ascii(word)
    return word if len(word) <= _LETTERS else f"{word[:_LETTERS]}..."


def look(source: RecordSource, tokenizer: Tokenizer) -> Unknown:
    """Unknown words in the texts of a source: of all records where they are few, else of a sample.

    Records that cannot be read are passed over here; who uses them says why.
    """
    words: Counter[str] = Counter()
    records = tokens = 0
    if tokenizer.is_complete:
        return Unknown(0, 0, words)
    read = getattr(source, "outline", source.__getitem__)
    for index in np.unique(np.linspace(0, len(source) - 1, _LOOKED_AT).astype(int)).tolist():
        try:
            record = read(index)
        except (ValueError, OSError):
            continue
        records += 1
        for segment in record.segments:
            if segment.kind == "text" and not segment.is_hole:
                ids, lost = (f(segment.content) for f in (tokenizer.encode, tokenizer.unknown))
                tokens += len(ids) - ids.count(tokenizer.unknown_id) + len(lost)
                words.update(lost)
    return Unknown(records, tokens, words)


def check(
    sources: Mapping[str, RecordSource], tokenizer: Tokenizer, most: float, flag: str
) -> list[str]:
    """One line for every source that has unknown words.

    Args:
      sources: by the name that the lines say.
      tokenizer: of the run.
      most: part of the tokens of a source that may be unknown words.
      flag: how the user allows more.

    Raises:
      ValueError: a source has more.
    """
    found = {name: look(source, tokenizer) for name, source in sources.items()}
    lines = [f"{name}: {unknown}" for name, unknown in found.items() if unknown.words]
    if too_many := [name for name, unknown in found.items() if unknown.share > most]:
        name = too_many[0]
        raise ValueError(
            f"{name}: {found[name]}. More than {most:.2%} are refused: prepare the records with a "
            "vocabulary that holds their words (`unireason prepare --tokenizer_only` makes one of "
            f"several inputs, --tokenizer takes it), or allow them with {flag}."
        )
    return lines


def of_folder(folder: Path, most: float) -> str:
    """A line on the unknown words of a prepared folder.

    Raises:
      ValueError: more than the part `most` of its tokens are unknown words.
    """
    tokenizer = load_tokenizer(folder / "tokenizer")
    flag = "--max_unknown (--config.data.max_unknown when training)"
    told = check({str(folder): ArrayRecordSource(folder)}, tokenizer, most, flag)
    return told[0] if told else "no unknown word"


def write(
    records: FileRecords | IndexedRecords, folder: Path, base: Tokenizer | None, *, overwrite: bool
) -> str:
    """Writes a vocabulary of all words of `records`, and of `base`, into a folder of its own.

    Returns:
      What was made, in a line.

    Raises:
      FileExistsError: the folder is there, and `overwrite` is False.
      ValueError: there is no word, or `base` is no vocabulary of words.
    """
    if folder.exists() and not overwrite:
        raise FileExistsError(f"{folder} is there already; give --overwrite to replace it")
    made = grown(base, texts(records, list(in_shards(records, _PIECE))))
    made.save(folder)
    return f"{len(made.words):,} words in {folder}; give every input of a run --tokenizer={folder}"


def grown(base: Tokenizer | None, found: Iterable[str]) -> SentencePieceTokenizer:
    """A vocabulary of the words of texts, and of another vocabulary where one is given.

    Raises:
      ValueError: there is no word, or the other vocabulary is not one of words.
    """
    if base is not None and not isinstance(base, SentencePieceTokenizer):
        raise ValueError("only a vocabulary of words can grow; that of --tokenizer is of bytes")
    return SentencePieceTokenizer.train(found, base.words if base else ())


def texts(
    records: FileRecords | IndexedRecords, tasks: Iterable[tuple[tuple[Piece, ...], int]]
) -> Iterator[str]:
    """The texts of all records that can be read; the others are quarantined by who stores them."""
    pieces = [piece for pieces, _ in tasks for piece in pieces]
    for piece in tqdm(pieces, desc="reading words", unit=" pieces"):
        for _, _, record, _ in records.records(piece):
            if isinstance(record, Record):
                found = (s for s in record.segments if s.kind == "text" and not s.is_hole)
                yield from (s.content for s in found if s.content.strip())
