"""A folder of pictures with a text of the same name beside each: cat.jpg and cat.txt.

A picture becomes a row with `id` and `image` (its path in the folder) and `text`.
"""

import unicodedata
from collections.abc import Iterator
from pathlib import Path

from unireason_jax.data.files.base import LONGEST, Broken, Place, Row, said

_OTHERS = ".heic .heif .jxl .tga .svg .dng .cr2 .cr3 .nef .arw"  # refused by name, not overlooked
PICTURES = frozenset(
    f".jpg .jpeg .jpe .jfif .png .webp .gif .bmp .tif .tiff .avif .jp2 .ppm {_OTHERS}".split()
)
TEXTS = (".txt", ".caption")


def pictures(folder: Path) -> list[Path]:
    """The pictures in a folder and those below it, sorted."""
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in PICTURES)


def texts(folder: Path) -> list[Path]:
    """The texts that stand beside pictures."""
    return [text for _, beside in _entries(folder) for text in beside]


def places(path: Path, most: int) -> Iterator[tuple[Place, int]]:
    """Stretches of the pictures, and of texts without one, in order."""
    count = len(_entries(path))
    for first in range(0, count, most):
        yield Place(first, 0), min(most, count - first)


def rows(path: Path, first: Place, count: int, _) -> Iterator[Row | Broken]:
    """`count` pictures of a folder with their texts, from `first` on."""
    for file, beside in _entries(path)[first.row : first.row + count]:
        name = file.relative_to(path).as_posix()
        if file.suffix.lower() in TEXTS:
            yield Broken(f"text '{name[:100]}' has no picture of its name beside it")
        elif not beside:
            words = file.with_suffix(TEXTS[0]).name
            yield Broken(f"picture '{name[:100]}' has no caption; write its words into {words}")
        elif len(beside) > 1:
            names = " and ".join(text.name for text in beside)
            yield Broken(f"picture '{name[:100]}' has several texts, {names}; keep one")
        else:
            yield _row(name, beside[0])


def _row(name: str, text: Path) -> Row | Broken:
    """The row of a picture and the file of its words."""
    try:
        with text.open("rb") as opened:
            words = opened.read(LONGEST).decode("utf-8-sig", "surrogateescape").strip()
    except OSError as error:
        return Broken(f"the caption of '{name[:100]}' cannot be read: {said(error)}")
    if "\0" in words:
        return Broken(f"{text.name} has zero bytes, as UTF-16 has; save it as UTF-8")
    return {"id": name, "image": name, "text": words}


def _entries(folder: Path) -> list[tuple[Path, list[Path]]]:
    """Pictures with the texts beside each, and texts beside none, sorted."""
    listed = sorted(folder.rglob("*"))
    beside: dict[tuple[Path, str], list[Path]] = {}
    for text in (file for file in listed if file.suffix.lower() in TEXTS):
        beside.setdefault(_key(text), []).append(text)
    keys = {file: _key(file) for file in listed if file.suffix.lower() in PICTURES}
    found = [(picture, beside.get(key, [])) for picture, key in keys.items()]
    lone = beside.keys() - set(keys.values())
    return sorted([*found, *((text, []) for key in lone for text in beside[key])])


def _key(file: Path) -> tuple[Path, str]:
    """What a picture and its text share: a name looks the same however its accents are kept."""
    return file.parent, unicodedata.normalize("NFC", file.stem)
