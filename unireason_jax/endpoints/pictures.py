"""Pictures on the wire: encoded files in and out, checked before anything trusts them."""

import base64
import binascii
import io
from typing import Any

import numpy as np
import PIL
from PIL import Image

from unireason_jax.endpoints.failures import CallFailure

KINDS = ("PNG", "JPEG", "WEBP")
MOST_PIXELS = 1 << 26


def png(image: np.ndarray) -> bytes:
    """A picture uint8 [H, W, 3] as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


def kind_of(data: bytes) -> str:
    """The kind of an encoded picture by its first bytes: png, jpeg, webp, gif, bmp."""
    begins = {b"\xff\xd8": "jpeg", b"RIFF": "webp", b"GIF8": "gif", b"BM": "bmp"}
    return next((kind for start, kind in begins.items() if data.startswith(start)), "png")


def data_url(data: bytes) -> str:
    """An encoded picture as a data address."""
    return f"data:image/{kind_of(data)};base64,{base64.b64encode(data).decode()}"


def opened(data: bytes, size: tuple[int, int] | None = None) -> np.ndarray:
    """A picture that came over the wire as uint8 [H, W, 3].

    Args:
      data: the encoded file.
      size: (width, height) it must have; None takes any.

    Raises:
      CallFailure: it is no whole PNG, JPEG or WebP picture, has too many pixels, or another size.
    """
    try:
        with Image.open(io.BytesIO(data), formats=KINDS) as found:
            if found.width * found.height > MOST_PIXELS:
                raise CallFailure("server", f"a picture of {found.width} x {found.height} pixels")
            if size is not None and found.size != size:
                had, wanted = "{} x {}".format(*found.size), "{} x {}".format(*size)
                raise CallFailure("server", f"a picture of {had} pixels instead of {wanted}")
            return np.asarray(found.convert("RGB"))
    except (PIL.UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise CallFailure("server", f"no readable picture ({error})") from None
    except Image.DecompressionBombError:
        raise CallFailure("server", "a picture of far too many pixels") from None


def decoded(text: Any) -> bytes:
    """The bytes of a base64 text, with or without `data:`. Raises CallFailure."""
    if not isinstance(text, str) or not text:
        raise CallFailure("server", "an answer without 'b64_json'; ask the server for base64")
    try:
        return base64.b64decode(text.partition("base64,")[2] or text, validate=True)
    except (binascii.Error, ValueError):
        raise CallFailure("server", "a picture that is not base64") from None
