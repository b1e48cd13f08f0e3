"""A small source of records with every kind of split, for the tests of packing and pipeline."""

import numpy as np

from unireason_jax.data.bagel.tokens import SampleSpec
from unireason_jax.data.records import Record, RecordError, Segment


class ToyTokenizer:
    """Every character is an id."""

    bos, eos, soi, eoi = 300, 301, 302, 303
    vocab_size = 304
    unknown_id, is_complete = None, True

    def encode(self, text):
        return [ord(letter) % 256 for letter in text]

    def decode(self, ids):
        return "".join(map(chr, ids))

    def unknown(self, text):
        return []


class ToyCodec:
    """Latents are the means of 4 x 4 pixels, with a posterior of unit variance."""

    stride, channels = 4, 3

    def encode(self, image):
        rows, columns = image.shape[0] // 4, image.shape[1] // 4
        mean = image.reshape(rows, 4, columns, 4, 3).mean((1, 3)).astype(np.float32)
        return mean, np.zeros_like(mean)


class ToySource:
    """`count` records keyed by (seed, index): prompt, plan, draft, reflection, refined picture.

    Every `broken`-th record cannot be read; `late` ones only show it when pixels are decoded.
    """

    def __init__(self, count, *, seed=0, broken=0, late=False, text=20):
        self.count, self.seed, self.broken, self.late, self.text = count, seed, broken, late, text

    def __repr__(self):
        return f"ToySource({self.count}, {self.seed}, {self.broken}, {self.late}, {self.text})"

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        rng = np.random.default_rng([self.seed, index])
        name = f"toy-{self.seed}-{index}"
        bad = self.broken and index % self.broken == self.broken - 1
        if bad and not self.late:
            raise RecordError(name, None, "is broken for the test")
        picture = rng.integers(0, 256, (8, 8, 3)).astype(np.uint8)
        if bad:
            picture = _unreadable_png()
        kind = rng.integers(3)

        def words():
            return "x" * int(rng.integers(3, self.text))

        segments = [Segment("text", "user", text=words(), drop=True)]
        if kind == 1:
            segments.append(
                Segment("image", "source", image=picture, und=True, gen=True, drop=True)
            )
        if kind == 2:
            segments += [
                Segment("text", "plan", text=words(), loss="text", next="image"),
                Segment("image", "draft", image=picture, loss="flow", und=True, gen=True),
                Segment("text", "reflection", text=words(), loss="text", tag="sugg"),
            ]
        segments.append(Segment("image", "refined", image=picture, loss="flow"))
        return Record(name, tuple(segments))


def _unreadable_png() -> bytes:
    """A picture whose header promises 8 x 8 pixels that do not follow."""
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(file, "PNG")
    whole = file.getvalue()
    return whole[: whole.index(b"IDAT") + 6]


def toy_spec(**changes) -> SampleSpec:
    """8 x 8 pictures are 4 ViT patches and 4 latent tokens of one latent each."""
    settings = {
        "tokenizer": ToyTokenizer(),
        "codec": ToyCodec(),
        "latent_patch": 1,
        "latent_side": 2,
        "vit_patch": 4,
        "vit_side": 2,
        "dropout": (0.2, 0.2, 0.2),
    }
    return SampleSpec(**(settings | changes))
