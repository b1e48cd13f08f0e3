"""Images: decode to RGB, resize by BAGEL's rules, cut into patches, number the patches.

Decisions where the reference is loose:

* EXIF orientation is ignored, as in the reference: both images of an edit pair must be read alike,
  and the released weights were trained so. `upright=True` turns a user's photograph first.
* Transparency is composited on white for every mode that has it. (The reference forgets the alpha
  of grey-with-alpha images.) 16-bit grey keeps its upper byte. (There it saturates to white.)
* A truncated or undecodable file is an error, never an image with grey rows.
* The pixel count is checked from the header, before anything is decoded.
"""

import dataclasses
import functools
import io
import math
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

MAX_PIXELS = 100_000_000  # of a file, before resizing
_DECODE_ERRORS = (OSError, SyntaxError, EOFError, ValueError)  # Pillow raises all of these

# uint8 -> [-1, 1], bit-equal to the reference's float32 arithmetic
PIXEL_VALUES = (np.arange(256, dtype=np.float32) / np.float32(255) - np.float32(0.5)) * np.float32(
    2
)


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


def load(source: Any, root: Path | None = None, *, upright: bool = False) -> np.ndarray:
    """Any image as uint8 RGB [H, W, 3].

    Args:
      source: uint8 [H, W, 3] (returned as it is), encoded bytes, or a path.
      root: folder of relative paths.
      upright: apply the EXIF orientation (see the module's decisions).

    Raises:
      FileNotFoundError: no file there.
      ValueError: not an image, truncated, larger than MAX_PIXELS, or an array of another shape.
    """
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.ndim != 3 or source.shape[-1] != 3:
            raise ValueError(f"image array is {source.dtype} {source.shape}, not uint8 [H, W, 3]")
        return source
    with _opened(source, root) as image:
        try:
            if upright:
                image = ImageOps.exif_transpose(image)
            return np.asarray(_rgb(image))
        except _DECODE_ERRORS as error:
            raise ValueError(
                f"image {_name(source)} cannot be decoded ({error}); replace the file or remove it"
            ) from None


def size(source: Any, root: Path | None = None) -> tuple[int, int]:
    """(width, height) of an image, from the header alone where it is a file; errors as `load`."""
    if isinstance(source, np.ndarray):
        return source.shape[1], source.shape[0]
    with _opened(source, root) as image:
        return image.size


def patchify(image: np.ndarray, patch: int) -> np.ndarray:
    """[H, W, C] -> [(H/p)(W/p), p*p*C]: patches in reading order, features (py, px, c).

    Raises:
      ValueError: an edge is not a multiple of `patch`.
    """
    height, width, channels = image.shape
    if height % patch or width % patch:
        raise ValueError(f"{height} x {width} is not a multiple of the patch size {patch}")
    grid = image.reshape(height // patch, patch, width // patch, patch, channels)
    return grid.transpose(0, 2, 1, 3, 4).reshape(-1, patch * patch * channels)


def unpatchify(tokens: np.ndarray, *, rows: int, columns: int, patch: int) -> np.ndarray:
    """Inverse of `patchify`: [rows * columns, p*p*C] -> [rows * p, columns * p, C]."""
    grid = tokens.reshape(rows, columns, patch, patch, -1)
    return grid.transpose(0, 2, 1, 3, 4).reshape(rows * patch, columns * patch, -1)


@functools.lru_cache(maxsize=256)
def positions(rows: int, columns: int, side: int, interpolate: bool = False) -> np.ndarray:
    """Position ids row * side + column of a grid, int32 [rows * columns] (read-only).

    With `interpolate` the grid is stretched over the whole table (BAGEL's `interpolate_pos`, off
    in the released models).

    Raises:
      ValueError: the grid is larger than `side`; the reference lets positions collide silently.
    """
    if max(rows, columns) > side:
        raise ValueError(
            f"{rows} x {columns} patches do not fit a table of {side} x {side} positions; resize "
            "the image to less or raise the side (it must match the checkpoint)"
        )
    if interpolate:
        row, column = _stretched(rows, side), _stretched(columns, side)
    else:
        row, column = np.arange(rows, dtype=np.int32), np.arange(columns, dtype=np.int32)
    ids = (row[:, None] * side + column).reshape(-1).astype(np.int32)
    ids.setflags(write=False)
    return ids


def _stretched(count: int, side: int) -> np.ndarray:
    """floor(i * side / count) up to rounding, rounded as the reference's float32 range is.

    That range is filled eight numbers at a time from a float32 start, so a few ids (for side 70:
    25, 49, 50 and 55 patches) are one lower.
    """
    edges = np.arange(1 / side, 1.0, 1 / side).astype(np.float32)
    step = 1 / count
    index = np.arange(len(np.arange(0, 1 - 1e-6, step)))
    start = (index // 8 * 8 * step).astype(np.float32).astype(np.float64)
    whole = index < len(index) // 8 * 8
    places = np.where(whole, start + index % 8 * step, index * step).astype(np.float32)
    return np.searchsorted(edges, places, side="right").astype(np.int32)


def _opened(source: Any, root: Path | None) -> Image.Image:
    if not isinstance(source, bytes | str | os.PathLike):
        raise ValueError(f"an image is an array, bytes or a path, not {type(source).__name__}")
    file = io.BytesIO(source) if isinstance(source, bytes) else Path(root or "") / source
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(file)
    except FileNotFoundError:
        raise FileNotFoundError(f"image {file} does not exist; check the image folder") from None
    except Image.DecompressionBombError as error:
        raise ValueError(f"image {_name(source)} is too large: {error}") from None
    except _DECODE_ERRORS as error:
        raise ValueError(
            f"image {_name(source)} is not readable ({error}); replace the file or remove it"
        ) from None
    pixels = image.width * image.height
    if pixels > MAX_PIXELS:
        image.close()
        raise ValueError(
            f"image {_name(source)} has {pixels:,} pixels, more than {MAX_PIXELS:,}; shrink it"
        )
    return image


def _rgb(image: Image.Image) -> Image.Image:
    image.load()
    if image.mode.startswith("I;16"):
        grey = (np.asarray(image) >> 8).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGB", image.size, (255, 255, 255))
        white.paste(image, mask=image.getchannel("A"))
        return white
    return image.convert("RGB")


def _name(source: Any) -> str:
    return f"of {len(source)} bytes" if isinstance(source, bytes) else f"'{source}'"
