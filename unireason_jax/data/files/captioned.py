"""A folder of pictures with a text of the same name beside each: cat.jpg and cat.txt.

A picture becomes a row with `id` and `image` (its path in the folder) and `text`.
"""

from collections.abc import Iterator
from pathlib import Path

from unireason_jax.data.files.base import LONGEST, Broken, Place, Row, said

PICTURES = frozenset(".jpg .jpeg .png .webp .gif .bmp .tif .tiff .avif .jp2 .ppm".split())
TEXTS = (".txt", ".caption")


def pictures(folder: Path) -> list[Path]:
    """The pictures in a folder and those below it, sorted."""
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in PICTURES)


def texts(folder: Path) -> list[Path]:
    """The texts that stand beside pictures."""
    return [text for picture in pictures(folder) if (text := _text_of(picture))]


def places(path: Path, most: int) -> Iterator[tuple[Place, int]]:
    """Stretches of the pictures, in order."""
    count = len(pictures(path))
    for first in range(0, count, most):
        yield Place(first, 0), min(most, count - first)


def rows(path: Path, first: Place, count: int, _) -> Iterator[Row | Broken]:
    """`count` pictures of a folder with their texts, from `first` on."""
    for picture in pictures(path)[first.row : first.row + count]:
        name = picture.relative_to(path).as_posix()
        file = _text_of(picture)
        if file is None:
            words = picture.with_suffix(TEXTS[0]).name
            yield Broken(f"picture '{name[:100]}' has no caption; write its words into {words}")
            continue
        try:
            with file.open("rb") as opened:
                text = opened.read(LONGEST).decode("utf-8-sig", "surrogateescape").strip()
        except OSError as error:
            yield Broken(f"the caption of '{name[:100]}' cannot be read: {said(error)}")
            continue
        yield {"id": name, "image": name, "text": text}


def _text_of(picture: Path) -> Path | None:
    """The file of a picture's words, if there is one."""
    found = (picture.with_suffix(suffix) for suffix in TEXTS)
    return next((file for file in found if file.is_file()), None)
