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
_TILES = 8
_COLOURS = 3 * _TILES * _TILES
_TINT = 1600  # levels of 255 that a colour may differ by, at a nearness of 1
_ALIKE = 0.9  # share of common triples of words from which on two texts are one
_MIXERS = np.random.default_rng(0).integers(0, 2**63, 12, dtype=np.uint64) * 2 + 1


def picture_hash(data: bytes) -> int:
    """Edges and colours of an encoded picture, as one number.

    The lowest 768 bits are the difference hash of D. Looks by channel: is it brighter to the right,
    on 16 x 16 places. That says where something is, but on a dark ground a red object is brighter
    than the ground in every channel, as a white one is: above them stand the mean colours of 8 x 8
    tiles, 1 to 255, a byte each.
    """
    with Image.open(io.BytesIO(data)) as found:
        whole = found.convert("RGB")
    small = whole.resize((_SIDE + 1, _SIDE), Image.Resampling.BOX)
    tiles = whole.resize((_TILES, _TILES), Image.Resampling.BOX)
    pixels = np.asarray(small, np.int16)
    bits = pixels[:, 1:] > pixels[:, :-1]
    colours = np.maximum(np.asarray(tiles), 1).tobytes()
    return int.from_bytes(colours + np.packbits(bits).tobytes(), "big")


class Pictures:
    """Pictures seen so far.

    Args:
      nearness: share of the bits of edges that may differ between two pictures which are one; at
        most 15 bits are found for sure. The colour of a tile may differ by 16 levels for every
        hundredth.
    """

    def __init__(self, nearness: float = 0.01):
        self._edges, self._tint = int(nearness * BITS), nearness * _TINT
        self._bands: dict[tuple[int, int], list[int]] = {}

    def seen(self, found: int) -> bool:
        """Whether a near-duplicate of this hash was seen before; remembers it where not."""
        size = BITS // _BANDS
        bands = [(n, found >> n * size & (1 << size) - 1) for n in range(_BANDS)]
        compared: set[int] = set()
        for band in bands:
            for other in self._bands.get(band, ()):
                if other not in compared and self._alike(found, other):
                    return True
                compared.add(other)
        for band in bands:
            self._bands.setdefault(band, []).append(found)
        return False

    def _alike(self, one: int, two: int) -> bool:
        """Whether two hashes are near in both parts; journals of before have no colours."""
        if ((one ^ two) & (1 << BITS) - 1).bit_count() > self._edges:
            return False
        one, two = one >> BITS, two >> BITS
        if not (one and two):
            return True
        tints = [np.frombuffer(each.to_bytes(_COLOURS, "big"), np.uint8) for each in (one, two)]
        return bool(np.ptp(np.int16(tints), axis=0).max() <= self._tint)


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
