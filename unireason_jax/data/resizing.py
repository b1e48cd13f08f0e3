"""To which size an image is brought: BAGEL's rule, or one of a few fixed sizes."""

import dataclasses
import math

import numpy as np
from PIL import Image


@dataclasses.dataclass(frozen=True)
class Resize:
    """BAGEL's resize rule ("BAGEL image transforms"), all lengths in pixels.

    Attributes:
      max_size: the long edge is not longer, unless the short edge had to grow.
      min_size: the short edge is not shorter, as far as `max_size` allows.
      stride: both edges are multiples of it.
      max_pixels: pixels per record; an image of k together gets max_pixels / k. The reference
        scales both edges by the ratio of areas, not by its root, and so does this (12 images of
        1024 x 1024 shrink to 168 x 168), because released weights have seen it.
    """

    max_size: int
    min_size: int
    stride: int
    max_pixels: int = 14 * 14 * 9 * 1024

    def __call__(self, width: int, height: int, images: int = 1) -> tuple[int, int]:
        """(width, height) after resizing one of `images` images of a record."""
        scale = min(self.max_size / max(width, height), 1.0)
        scale = max(scale, self.min_size / min(width, height))
        width, height = self._scaled(width, height, scale)
        if width * height > self.max_pixels / images:
            scale = self.max_pixels / images / (width * height)
            width, height = self._scaled(width, height, scale)
        if max(width, height) > self.max_size:
            width, height = self._scaled(width, height, self.max_size / max(width, height))
        return width, height

    def apply(self, image: np.ndarray, images: int = 1) -> np.ndarray:
        """`image` uint8 [H, W, 3] resized (bicubic, antialiased) -> uint8 [H', W', 3]."""
        height, width = image.shape[:2]
        size = self(width, height, images)
        if size == (width, height):
            return image
        return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))

    def _scaled(self, width: int, height: int, scale: float) -> tuple[int, int]:
        return self._multiple(round(width * scale)), self._multiple(round(height * scale))

    def _multiple(self, length: int) -> int:
        return max(self.stride, round(length / self.stride) * self.stride)


@dataclasses.dataclass(frozen=True)
class Buckets:
    """A few fixed sizes instead of `Resize`'s hundreds, so that an encoder compiles a few times.

    The long edge is always `long`; the short one is `short`, `short` + `step`, ... up to `long`,
    lying or standing: (1024, 512, 128) gives nine sizes. An image goes to the nearest aspect ratio
    and is cut to it evenly on both sides, never stretched. Of two images of one size, as in an edit
    pair, the same part is kept.

    Attributes:
      long, short, step: in pixels; `step` divides long - short.
    """

    long: int
    short: int
    step: int

    def __post_init__(self):
        if not 0 < self.short <= self.long or (self.long - self.short) % self.step:
            raise ValueError(
                f"{self}: short must be <= long, and step must divide their difference"
            )

    def __call__(self, width: int, height: int, images: int = 1) -> tuple[int, int]:
        """(width, height) of the bucket; the number of `images` plays no part."""
        ratio = max(width, height) / min(width, height)
        shorts = range(self.short, self.long + 1, self.step)
        short = min(shorts, key=lambda edge: abs(math.log(self.long / edge / ratio)))
        return (self.long, short) if width >= height else (short, self.long)

    def apply(self, image: np.ndarray, images: int = 1) -> np.ndarray:
        """`image` uint8 [H, W, 3] cut and resized (bicubic, antialiased) -> uint8 [H', W', 3]."""
        height, width = image.shape[:2]
        to_width, to_height = self(width, height)
        if (to_width, to_height) == (width, height):
            return image
        scale = min(width / to_width, height / to_height)
        left, top = (width - to_width * scale) / 2, (height - to_height * scale) / 2
        box = (left, top, left + to_width * scale, top + to_height * scale)
        picture = Image.fromarray(image)
        return np.asarray(picture.resize((to_width, to_height), Image.Resampling.BICUBIC, box))
