"""The tokenizer of Janus-Pro's releases (DeepSeek's byte-level BPE)."""

import json
from collections.abc import Sequence
from pathlib import Path

from unireason_jax.data.janus import prompts
from unireason_jax.storage import atomic, paths


class JanusTokenizer:
    """Text <-> ids; every special id is looked up by its string, since releases differ.

    `bos` and `eos` are begin and end of a sentence, `soi` and `eoi` begin and end of an image.
    `encode` adds nothing and keeps special strings in a user's text text; `encode_prompt` reads
    them as the ids they are and puts bos in front.

    Args:
      tokenizer: a `tokenizers.Tokenizer`.
      add_bos: whether a prompt starts with bos.

    Raises:
      ValueError: one of the special tokens is missing: without the pad row, for example, guidance
        would be broken.
    """

    FILE = "tokenizer.json"
    CONFIG = "tokenizer_config.json"

    def __init__(self, tokenizer, *, add_bos: bool = True):
        self._prompts, self._words = tokenizer, type(tokenizer).from_str(tokenizer.to_str())
        self._words.encode_special_tokens = True
        self._add_bos = add_bos
        ids = {name: tokenizer.token_to_id(name) for name in prompts.SPECIAL}
        if missing := [name for name, number in ids.items() if number is None]:
            raise ValueError(
                f"the tokenizer lacks {', '.join(missing)}; take the tokenizer of a Janus-Pro "
                "release"
            )
        self.special = ids
        self.bos, self.eos, self.pad, self.soi, self.eoi, self.place, *_ = ids.values()
        self.vocab_size = tokenizer.get_vocab_size(with_added_tokens=True)

    @classmethod
    def load(cls, folder: Path) -> "JanusTokenizer":
        """Reads `tokenizer.json` and, if it is there, `tokenizer_config.json`.

        Raises:
          FileNotFoundError: no tokenizer there.
          ValueError: a file cannot be read, or a special token is missing; it names the folder.
        """
        import tokenizers

        path = paths.of(folder) / cls.FILE
        if not path.is_file():
            raise FileNotFoundError(f"no tokenizer at {path}; copy it from the model's release")
        config = paths.of(folder) / cls.CONFIG
        try:
            values = json.loads(config.read_text("utf-8")) if config.is_file() else {}
            made = tokenizers.Tokenizer.from_buffer(path.read_bytes())
            return cls(made, add_bos=values.get("add_bos_token", True))
        except Exception as error:  # the library raises plain Exception
            raise ValueError(f"{folder}: {error}") from None

    def save(self, folder: Path) -> None:
        """Writes `tokenizer.json` and `tokenizer_config.json` into `folder`."""
        place = paths.of(folder)
        atomic.write_text(place / self.FILE, self._prompts.to_str())
        atomic.write_text(place / self.CONFIG, json.dumps({"add_bos_token": self._add_bos}))

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, nothing added and nothing special in it."""
        return self._words.encode(text, add_special_tokens=False).ids

    def encode_prompt(self, text: str) -> list[int]:
        """Ids of a prompt of `prompts.conversation`, bos in front."""
        ids = self._prompts.encode(text, add_special_tokens=False).ids
        return [self.bos, *ids] if self._add_bos else ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the ids, special tokens left out."""
        return self._prompts.decode([int(i) for i in ids], skip_special_tokens=True)

    def __reduce__(self):
        return _restored, (self._prompts.to_str(), self._add_bos)


def _restored(text: str, add_bos: bool) -> JanusTokenizer:
    import tokenizers

    return JanusTokenizer(tokenizers.Tokenizer.from_str(text), add_bos=add_bos)
