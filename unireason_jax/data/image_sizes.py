"""Image sizes by name, for measuring records without a model."""

import numpy as np

from unireason_jax.data import images, resizing


class SizeCodec:
    """Stands in for an autoencoder where only sizes and colours matter (index and pictures).

    Its latents hold the mean colour of their pixels in the first three channels, in [-1, 1].
    """

    def __init__(self, stride: int, channels: int):
        self.stride, self.channels = stride, channels

    def encode(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and log variance (of a certain value), float32 [H / stride, W / stride, C]."""
        rows, columns = (edge // self.stride for edge in image.shape[:2])
        pixels = images.PIXEL_VALUES[image].reshape(rows, self.stride, columns, self.stride, 3)
        mean = np.zeros((rows, columns, self.channels), np.float32)
        mean[..., :3] = pixels.mean((1, 3))
        return mean, np.full_like(mean, -np.inf)

    def decode(self, latents: np.ndarray) -> np.ndarray:
        """The mean colours as uint8 [h * stride, w * stride, 3]."""
        colors = np.clip((latents[..., :3] + 1) * 127.5, 0, 255).astype(np.uint8)
        return colors.repeat(self.stride, 0).repeat(self.stride, 1)


class SizeCodes:
    """Stands in for a VQ tokenizer where only sizes matter: every code is 0."""

    def __init__(self, stride: int, codes: int):
        self.stride, self.codes = stride, codes

    def encode(self, image: np.ndarray) -> np.ndarray:
        """Codes int32 [H / stride, W / stride]."""
        return np.zeros([edge // self.stride for edge in image.shape[:2]], np.int32)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Black, uint8 [h * stride, w * stride, 3]."""
        return np.zeros((*(edge * self.stride for edge in codes.shape), 3), np.uint8)


_LARGE = {
    "codec": SizeCodec(8, 16),
    "latent_patch": 2,
    "latent_side": 64,
    "vit_patch": 14,
    "vit_side": 70,
    "latent_resize": resizing.Resize(1024, 512, 16),
}
_BUCKETS = {"latent_resize": resizing.Buckets(1024, 512, 128)}
_BAGEL = _LARGE | {"vit_resize": resizing.Resize(518, 224, 14)}
_UNIREASON = _LARGE | {"vit_resize": resizing.Resize(532, 224, 14)}
_IRG = _LARGE | {"vit_resize": resizing.Resize(980, 378, 14)}
SMALLER = {
    "bagel_256": _BAGEL | {"latent_resize": resizing.Resize(256, 128, 16)},
    "bagel_256_buckets": _BAGEL | {"latent_resize": resizing.Buckets(256, 128, 32)},
    "bagel_512": _BAGEL | {"latent_resize": resizing.Resize(512, 256, 16)},
    "bagel_512_buckets": _BAGEL | {"latent_resize": resizing.Buckets(512, 256, 64)},
}
"""Those for tuning on one's own pictures at less cost: the long edge has 256 or 512 pixels at most.
A model so trained samples at them, too, where the released ones follow BAGEL's rule of 1024."""
SIZES = {
    "world": {"codec": SizeCodec(8, 24), "latent_patch": 1, "vit_patch": 8},
    "bagel": _BAGEL,
    "bagel_buckets": _BAGEL | _BUCKETS,
    **SMALLER,
    "unireason": _UNIREASON,
    "unireason_buckets": _UNIREASON | _BUCKETS,
    "irg": _IRG,
    "irg_buckets": _IRG | _BUCKETS,
}
"""Image sizes and patches by name: the embedded world, the training of BAGEL (and Uni-Edit),
UniReason and IRG, theirs with the nine latent shapes of `resizing.Buckets`, and `SMALLER`."""


def row_tokens(sizes: str) -> int:
    """Usual tokens of a packed row: ours in the world, the released settings elsewhere."""
    rows = {"world": 480, "bagel": 36_864, "unireason": 50_000, "irg": 40_000}
    rows |= {"bagel_256": 8_192, "bagel_512": 16_384}
    return rows[sizes.removesuffix("_buckets")]
