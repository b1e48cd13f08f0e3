"""Pictures as a caller has them, made into what a record holds."""

import io
import os
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from unireason_jax.data import images
from unireason_jax.inference.trace import Trace


def pictures(source: Any) -> Any:
    """What `picture` gives, or a list of that where several are given (a list or a tuple)."""
    if isinstance(source, list | tuple):
        if not source:
            raise ValueError("the list of images is empty.")
        return [picture(one) for one in source]
    return picture(source)


def picture(source: Any) -> Any:
    """A picture for `Segment.image`.

    Args:
      source: a path or encoded bytes, which are kept; a Pillow image, which is turned upright; an
        array uint8 [H, W, 3], or [H, W], [H, W, 1], [H, W, 4]; or a trace, whose last image counts.
        Transparent parts become white.

    Returns:
      A path, bytes, or uint8 [H, W, 3].

    Raises:
      ValueError: it is none of these.
    """
    if isinstance(source, Trace):
        if source.image is None:
            raise ValueError(f"the conversation '{source.id}' has no image to go on with.")
        return source.image
    if isinstance(source, Image.Image):
        return _of_pillow(source)
    if isinstance(source, bytes | bytearray | str | os.PathLike):
        return bytes(source) if isinstance(source, bytearray) else source
    if hasattr(source, "__array__"):
        return _of_array(np.asarray(source))
    raise ValueError(
        f"an image is a path, bytes, a Pillow image, a uint8 array or a trace, not "
        f"{type(source).__name__}."
    )


def _of_pillow(source: Image.Image) -> np.ndarray:
    upright = ImageOps.exif_transpose(source)
    if "transparency" in upright.info or upright.mode in ("P", "PA", "LA", "La", "RGBa"):
        upright = upright.convert("RGBA")
    if upright.mode in ("L", "RGB", "RGBA"):
        return _of_array(np.asarray(upright))
    if upright.mode in ("HSV", "RGBX"):
        return np.asarray(upright.convert("RGB"))
    file = io.BytesIO()
    upright.save(file, "TIFF")  # the rules for the other modes are those of files
    return images.load(file.getvalue())


def _of_array(array: np.ndarray) -> np.ndarray:
    if array.ndim == 2:
        array = array[..., None]
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[-1] not in (1, 3, 4):
        raise ValueError(
            f"an image array is uint8 [height, width, 3], [height, width] or [height, width, 4], "
            f"not {array.dtype} {list(array.shape)}."
        )
    if not array.size:
        raise ValueError(f"an image array of {list(array.shape)} has no pixels.")
    if array.shape[-1] == 4:
        share = array[..., 3:].astype(np.float32) / 255
        array = np.round(array[..., :3] * share + 255 * (1 - share)).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(array, (*array.shape[:2], 3)))
