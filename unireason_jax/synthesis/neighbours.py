"""Near-duplicates: pictures by a perceptual hash, texts by their words; overlap with benchmarks."""

import hashlib
import io
import re
import unicodedata
from collections.abc import Iterable

import numpy as np
from PIL import Image

_SIDE = 16
BITS = 3 * _SIDE * _SIDE
_BANDS = 16
_ALIKE = 0.9  # share of common triples of words from which on two texts are one
_MIXERS = np.random.default_rng(0).integers(0, 2**63, 12, dtype=np.uint64) * 2 + 1


def picture_hash(data: bytes) -> int:
    """768 bits of an encoded picture: is it brighter to the right, by channel, on 16 x 16 places.

    The difference hash of D. Looks, over colours, because in the grey of a picture a red and a blue
    object may be one.
    """
    with Image.open(io.BytesIO(data)) as found:
        small = found.convert("RGB").resize((_SIDE + 1, _SIDE), Image.Resampling.BOX)
    pixels = np.asarray(small, np.int16)
    bits = pixels[:, 1:] > pixels[:, :-1]
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


class Pictures:
    """Pictures seen so far.

    Args:
      nearness: share of bits up to which two pictures are one; at most 15 bits are found for sure.
    """

    def __init__(self, nearness: float = 0.01):
        self._most = int(nearness * BITS)
        self._bands: dict[tuple[int, int], list[int]] = {}

    def seen(self, found: int) -> bool:
        """Whether a near-duplicate of this hash was seen before; remembers it where not."""
        size = BITS // _BANDS
        bands = [(n, found >> n * size & (1 << size) - 1) for n in range(_BANDS)]
        for band in bands:
            for other in self._bands.get(band, ()):
                if (found ^ other).bit_count() <= self._most:
                    return True
        for band in bands:
            self._bands.setdefault(band, []).append(found)
        return False


class Texts:
    """Texts seen so far, by their words without case, accents' form and punctuation."""

    def __init__(self, texts: Iterable[str] = ()):
        self._exact: set[bytes] = set()
        self._buckets: dict[tuple[int, int], list[frozenset[str]]] = {}
        for text in texts:
            self.seen(text)

    def seen(self, text: str, *, remember: bool = True) -> bool:
        """Whether a near-duplicate of this text was seen before; remembers it where not."""
        words = normal(text).split()
        exact = hashlib.blake2b(" ".join(words).encode(), digest_size=12).digest()
        if exact in self._exact:
            return True
        triples = frozenset(" ".join(words[i : i + 3]) for i in range(max(len(words) - 2, 1)))
        keys = list(enumerate(_least(triples))) if len(words) > 8 else []
        near = {other for key in keys for other in self._buckets.get(key, ())}
        if any(len(triples & other) >= _ALIKE * len(triples | other) for other in near):
            return True
        if remember:
            self._exact.add(exact)
            for key in keys:
                self._buckets.setdefault(key, []).append(triples)
        return False


def normal(text: str) -> str:
    """A text's words: one form of accents, no case, no punctuation, single blanks."""
    text = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(re.sub(r"[^\w]+", " ", text).split())


def _least(triples: frozenset[str]) -> list[int]:
    """The least hash of a set under every mixer: equal for two sets as often as they overlap."""
    digests = b"".join(hashlib.blake2b(t.encode(), digest_size=8).digest() for t in triples)
    mixed = np.frombuffer(digests, np.uint64)[:, None] * _MIXERS  # modulo 2**64
    return (mixed ^ (mixed >> np.uint64(29))).min(axis=0).tolist()
