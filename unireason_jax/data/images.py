"""Images: decode to RGB, cut into patches, number the patches.

Decisions where the reference is loose:

* Only the formats of FORMATS are opened, told by a file's content whatever its name: photographs
  and drawings that a library decodes in this process. PostScript and the like start programs.
* EXIF orientation is ignored, as in the reference: both images of an edit pair must be read alike,
  and the released weights were trained so. `upright=True` turns a user's photograph first.
* Transparency is composited on white for every mode that has it. (The reference forgets the alpha
  of grey-with-alpha images.) 16-bit grey keeps its upper byte. (There it saturates to white.)
* 32-bit pictures are scaled by their range: floats in [0, 1] and integers in [0, 255] are what they
  seem, all others reach from black to white. (There most become black or white.)
* A truncated or undecodable file is an error, never an image with grey rows. Of an animation, the
  first picture counts.
* Bytes and pixels are counted before anything is decoded, so that no file takes all memory.
"""

import base64
import binascii
import contextlib
import functools
import io
import math
import os
import stat
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageOps

from unireason_jax.storage import paths

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM", "ICO", "PCX")
FORMATS += ("PSD", "SGI")
MAX_BYTES = 256 << 20  # of a file
MAX_PIXELS = 100_000_000  # of a file, before resizing
_MEMORY = {"WEBP": 16, "AVIF": 12, "JPEG2000": 25}  # bytes that decoding takes for a pixel [8]
_STRIP = 1 << 22  # pixels made RGB at a time
_DATA_URI = "data:"
_BEGINNINGS = ("iVBORw0KGgo", "/9j/", "R0lGOD", "UklGR")  # of PNG, JPEG, GIF, WebP in base64
_SHOWN = 200  # characters of a path in a message
_LONGEST_NAME = 255  # bytes of a file's name; longer texts without a dot are data

# Pillow warns of what it reads all the same; of a million files that drowns every message
warnings.filterwarnings("ignore", module=r"PIL\.")

# uint8 -> [-1, 1], bit-equal to the reference's float32 arithmetic
PIXEL_VALUES = (np.arange(256, dtype=np.float32) / np.float32(255) - np.float32(0.5)) * np.float32(
    2
)


def load(source: Any, root: Path | None = None, *, upright: bool = False) -> np.ndarray:
    """Any image as uint8 RGB [H, W, 3].

    Args:
      source: uint8 [H, W, 3] (returned as it is), encoded bytes, or a path.
      root: folder of relative paths.
      upright: apply the EXIF orientation (see the module's decisions).

    Raises:
      FileNotFoundError: no file there.
      ValueError: not an image of FORMATS, damaged, larger than MAX_BYTES or MAX_PIXELS, not a
        regular file, or an array of another shape.
    """
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.ndim != 3 or source.shape[-1] != 3:
            raise ValueError(f"image array is {source.dtype} {source.shape}, not uint8 [H, W, 3]")
        return source
    with _opened(source, root) as image:
        try:
            declared = image.size
            image.load()
            if image.size != declared:
                raise ValueError(f"it has {image.size} pixels instead of {declared}")
            return _rgb(_turned(image) if upright else image)
        except Exception as error:  # decoders raise whatever they like
            raise ValueError(
                f"image {_name(source)} cannot be decoded ({_said(error)}); replace the file or "
                "remove it"
            ) from None


def size(source: Any, root: Path | None = None, *, upright: bool = False) -> tuple[int, int]:
    """(width, height) of what `load` returns, from the header of a file; errors as `load`."""
    if isinstance(source, np.ndarray):
        return source.shape[1], source.shape[0]
    with _opened(source, root) as image:
        width, height = image.size
        return (height, width) if upright and _orientation(image) >= 5 else (width, height)


def read(source: Any, root: Path | None = None) -> bytes:
    """The bytes of an image file as they are, or those given; errors as `load`, nothing decoded."""
    with _file(source, root) as file:
        return file.read()


def is_turned(source: Any, root: Path | None = None) -> bool:
    """Whether `upright` makes a difference for an image; errors as `load`."""
    if isinstance(source, np.ndarray):
        return False
    with _opened(source, root) as image:
        return _orientation(image) > 1


def encoded(pixels: np.ndarray) -> bytes:
    """uint8 [H, W, 3] as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def embedded(text: str) -> bytes | None:
    """The bytes of an image written as text, as a data URI or in base64; None for a path.

    Raises:
      ValueError: a data URI that is not base64.
    """
    is_uri = text[: len(_DATA_URI)].lower() == _DATA_URI
    may_be = len(text) > _LONGEST_NAME or (len(text) > 60 and text.startswith(_BEGINNINGS))
    if not is_uri and ("." in text or not may_be):
        return None
    about, _, data = text.partition(",") if is_uri else ("base64", "", text)
    try:
        if not about.rstrip().endswith("base64"):
            raise binascii.Error
        return base64.b64decode("".join(data.split()), validate=True)
    except (binascii.Error, ValueError):
        if is_uri:
            raise ValueError(
                f"an image is a data URI of {len(text):,} characters that is not base64; write "
                "data:image/png;base64,..."
            ) from None
        return None


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


@contextlib.contextmanager
def _opened(source: Any, root: Path | None) -> Iterator[Image.Image]:
    """An image whose header is read and is sound."""
    with _file(source, root) as file:
        try:
            image = Image.open(file, formats=FORMATS)
            pixels = image.width * image.height
        except Image.UnidentifiedImageError:
            raise ValueError(
                f"image {_name(source)} is not readable: it is none of {', '.join(FORMATS)}, or "
                "its header is damaged; convert the file or remove it"
            ) from None
        except Exception as error:  # decoders raise whatever they like
            raise ValueError(
                f"image {_name(source)} is not readable ({_said(error)}); replace the file or "
                "remove it"
            ) from None
        most = MAX_PIXELS * 8 // _MEMORY.get(image.format, 8)
        if not 0 < pixels <= most:
            raise ValueError(
                f"image {_name(source)} has {pixels:,} pixels, more than {most:,}; shrink it"
                if pixels
                else f"image {_name(source)} has no pixels; remove it"
            )
        yield image


@contextlib.contextmanager
def _file(source: Any, root: Path | None) -> Iterator[BinaryIO]:
    """The bytes of an image: of a regular file that is not too large, or given."""
    if isinstance(source, bytes):
        _check_bytes(source, len(source))
        yield io.BytesIO(source)
        return
    if not isinstance(source, str | os.PathLike):
        raise ValueError(f"an image is an array, bytes or a path, not {type(source).__name__}")
    is_whole = not root or not paths.is_local(source)
    path = paths.of(source) if is_whole else paths.of(root) / source
    if isinstance(path, paths.Bucket):
        data = _downloaded(path)
        _check_bytes(path, len(data))
        yield io.BytesIO(data)
        return
    try:
        about = path.stat()
        file = path.open("rb") if stat.S_ISREG(about.st_mode) else None
    except FileNotFoundError:
        raise _absent(path) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"image {_name(path)} is not readable ({reason}); check it") from None
    if not file:
        raise ValueError(
            f"image {_name(path)} is not readable: it is a folder, a pipe or a device, not a file"
        )
    with file:
        _check_bytes(path, about.st_size)
        yield file


def _absent(path: Path | paths.Bucket) -> FileNotFoundError:
    name = _name(path).strip("'")
    return FileNotFoundError(f"image {name} does not exist; check the image folder")


@functools.lru_cache(maxsize=2)  # most are looked at twice: decoded, and kept as they are
def _downloaded(path: paths.Bucket) -> bytes:
    """An image in a bucket, in one request."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise _absent(path) from None


def _check_bytes(source: Any, count: int) -> None:
    if not count:
        raise ValueError(f"image {_name(source)} is empty; replace the file or remove it")
    if count > MAX_BYTES:
        raise ValueError(
            f"image {_name(source)} has {count:,} bytes, more than {MAX_BYTES:,}; shrink it"
        )


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1 to 8; 1 where there is none, or one that cannot be read."""
    if image.format == "TIFF":
        return 1  # Pillow turns these itself, as does the reference
    try:
        value = image.getexif().get(0x0112, 1)
    except Exception:  # a damaged comment is no reason to lose the picture
        return 1
    return value if value in range(1, 9) else 1


def _turned(image: Image.Image) -> Image.Image:
    return ImageOps.exif_transpose(image) if _orientation(image) > 1 else image


def _rgb(image: Image.Image) -> np.ndarray:
    """Decoded pixels as uint8 [H, W, 3], strip by strip, so that no second whole copy is made."""
    width, height = image.size
    rows = max(1, _STRIP // width)
    boxes = [(0, top, width, min(top + rows, height)) for top in range(0, height, rows)]
    if image.mode in ("F", "I"):
        scale = _scale(image, boxes)
    pixels = np.empty((height, width, 3), np.uint8)
    for box in boxes:
        strip = image.crop(box) if len(boxes) > 1 else image
        if image.mode in ("F", "I"):
            strip = scale(np.asarray(strip))[..., None]
        elif image.mode.startswith("I;16"):
            strip = (np.asarray(strip) >> 8)[..., None]
        elif strip.has_transparency_data:
            strip = strip.convert("RGBA")
            white = Image.new("RGB", strip.size, (255, 255, 255))
            white.paste(strip, mask=strip.getchannel("A"))
            strip = white
        elif strip.mode != "RGB":
            strip = strip.convert("RGB")
        pixels[box[1] : box[3]] = strip
    return pixels


def _scale(image: Image.Image, boxes: list[tuple[int, int, int, int]]):
    """What makes 32-bit values bytes (see the module's decisions).

    Raises:
      ValueError: not all are finite, or all are one that has no range.
    """
    strips = (np.asarray(image.crop(box)) for box in boxes)
    ends = np.array([(strip.min(), strip.max()) for strip in strips])
    low, high = float(ends[:, 0].min()), float(ends[:, 1].max())
    if not math.isfinite(high - low):
        raise ValueError("some of its numbers are not finite")
    if image.mode == "I" and image.format == "PPM":
        low, high = 0.0, 65_535.0  # so Pillow reads 16 bits there
    elif 0 <= low and high <= (1 if image.mode == "F" else 255):
        low, high = 0.0, 1.0 if image.mode == "F" else 255.0
    elif low == high:
        raise ValueError(f"all its numbers are {low:g}, which is neither black nor white")
    return lambda strip: np.rint((strip.astype(np.float64) - low) * (255 / (high - low)))


def _said(error: Exception) -> str:
    """What an error says in one line, or its kind where it says nothing."""
    return " ".join(str(error).split())[:_SHOWN] or type(error).__name__


def _name(source: Any) -> str:
    """An image in a message: never its bytes."""
    if isinstance(source, bytes):
        return f"of {len(source):,} bytes"
    name = str(source)
    return f"'{name if len(name) <= _SHOWN else name[:_SHOWN] + '...'}'"
