"""Pictures in 24 formats, sound and spoilt: pixels or a reason in one line, no program started."""

import io
import struct
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from tests.fuzz.tally import Tally, corrupted, generator
from unireason_jax.data import images

FULL, SMALL = 250, 12
_SIDE = 24


def fuzz(seed: int, size: int, folder: Path, tally: Tally) -> None:
    """`size` spoilt files of every format, as bytes and now and then as a file."""
    started = []
    sys.addaudithook(
        lambda event, args: started.append(args) if event in _PROGRAMS else None,
    )
    for name, (data, is_read) in pictures().items():
        with tally.trial(f"{name}, sound"):
            tally.expect((_outcome(data) == "read") == is_read, name, f"read is not {is_read}")
        for number in range(size):
            rng = generator(seed, name, number)
            spoilt = corrupted(data, rng)
            with tally.trial(f"{name}, {number}"):
                if number % 10:
                    tally.count(_outcome(spoilt))
                else:
                    (folder / "x.png").write_bytes(spoilt)
                    tally.count(_outcome(folder / "x.png"))
    tally.expect(not started, "programs", f"started {started[:3]}")


_PROGRAMS = (
    "subprocess.Popen",
    "os.system",
    "os.posix_spawn",
    "os.exec",
    "os.fork",
    "os.startfile",
)


def _outcome(source) -> str:
    """ "read" or "refused"; what is said is one line without addresses and bytes."""
    try:
        pixels = images.load(source)
    except ValueError as error:
        text = str(error)
        if "\n" in text or " at 0x" in text or len(text) > 500:
            raise AssertionError(f"not a message: {text}") from error
        return "refused"
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise AssertionError(f"pixels are {pixels.dtype} {pixels.shape}")
    if images.size(source) != pixels.shape[1::-1]:
        raise AssertionError(f"size is {images.size(source)}, pixels are {pixels.shape}")
    if images.size(source, upright=True) != images.load(source, upright=True).shape[1::-1]:
        raise AssertionError("the size of the upright picture is another one")
    return "read"


def pictures() -> dict[str, tuple[bytes, bool]]:
    """A small file of every format by name, and whether it is read at all."""
    grid = np.indices((_SIDE, _SIDE)).sum(0) * 5
    grey = Image.fromarray(grid.astype(np.uint8))
    color = Image.merge("RGB", (grey, grey.rotate(90), grey.rotate(180)))
    alpha = color.copy()
    alpha.putalpha(grey)
    frames = {"save_all": True, "append_images": [color.rotate(90), color.rotate(180)]}
    exif = Image.Exif()
    exif[0x0112] = 6
    floats = Image.fromarray((grid / 255).astype(np.float32))
    deep = Image.fromarray((grid * 200).astype(np.uint16))
    read = {
        "png": _saved(alpha, "PNG"),
        "png 16": _saved(deep, "PNG"),
        "jpeg": _saved(color, "JPEG", exif=exif),
        "jpeg cmyk": _saved(color.convert("CMYK"), "JPEG"),
        "jpeg multi": _saved(color, "MPO", **frames),
        "webp": _saved(alpha, "WEBP"),
        "webp moving": _saved(color, "WEBP", **frames),
        "gif": _saved(color.convert("P"), "GIF", **frames),
        "bmp": _saved(color, "BMP"),
        "tiff": _saved(color, "TIFF", exif=exif),
        "tiff lzw": _saved(color, "TIFF", compression="tiff_lzw"),
        "tiff jpeg": _saved(color, "TIFF", compression="jpeg"),
        "tiff float": _saved(floats, "TIFF"),
        "avif": _saved(alpha, "AVIF"),
        "jpeg 2000": _saved(color, "JPEG2000"),
        "ppm": _saved(color, "PPM"),
        "ico": _saved(alpha, "ICO", sizes=[(16, 16), (24, 24)]),
        "pcx": _saved(color, "PCX"),
        "psd": _psd(color),
        "sgi": _saved(color, "SGI"),
    }
    others = {
        "dds": _saved(alpha, "DDS"),
        "eps": _saved(color, "EPS"),
        "blp": _saved(color.convert("P"), "BLP"),
        "fits": b"SIMPLE  =                    T".ljust(80) * 36 + bytes(2880),
    }
    return {n: (d, True) for n, d in read.items()} | {n: (d, False) for n, d in others.items()}


def _saved(image: Image.Image, form: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def _psd(image: Image.Image) -> bytes:
    """A Photoshop file of one flat picture, which Pillow reads and does not write."""
    head = struct.pack(">4sH6xHIIHH", b"8BPS", 1, 3, image.height, image.width, 8, 3)
    planes = b"".join(channel.tobytes() for channel in image.split())
    return head + bytes(12) + struct.pack(">H", 0) + planes
