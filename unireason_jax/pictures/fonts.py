"""Letters for pictures: Pillow's own typeface, and Noto Sans CJK for what it lacks.

Chinese, Japanese and Korean come from the package `noto-cjk-sans-otc`, else from a typeface of the
system. What no typeface here has is drawn as an empty box, and `complaint` names it.
"""

import functools
import importlib.util
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

from PIL import ImageDraw, ImageFont

NOTO = "noto_cjk_sans_otc"
_SYSTEM = (
    "NotoSansCJK-Regular.ttc",
    "NotoSansCJKsc-Regular.otf",
    "wqy-microhei.ttc",
    "DroidSansFallbackFull.ttf",
    "PingFang.ttc",
    "msyh.ttc",
)
_SIMPLIFIED = 2  # number in Noto's collection of the letters as simplified Chinese draws them
_HAN = "\u2e80-\u312f\u3190-\ua4cf\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff"
_CLOSING = "、。，．！？；：）」』】》〉”’…"  # noqa: RUF001
_PARTS = re.compile(rf"[{_HAN}][{_CLOSING}]*|[^{_HAN}]+")


@functools.cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """Pillow's own typeface at a pixel size."""
    return ImageFont.load_default(size)


@functools.cache
def asian(size: int) -> ImageFont.FreeTypeFont | None:
    """A typeface with Chinese, Japanese and Korean at a pixel size; None where there is none."""
    found = importlib.util.find_spec(NOTO)
    files = sorted(Path(found.origin).parent.glob("*.ttc")) if found and found.origin else []
    for file in [*map(str, files), *_SYSTEM]:
        for number in (_SIMPLIFIED, 0):
            try:
                return ImageFont.truetype(file, size, index=number)
            except OSError:
                continue
    return None


def complaint(text: str) -> str:
    """What is to be said of a text with characters that no typeface here has; empty for none."""
    lost = [c for c in dict.fromkeys(text) if not c.isspace() and not _typeface(c)]
    if not lost:
        return ""
    named = ", ".join(f"U+{ord(c):04X}" for c in lost[:4]) + (" ..." if len(lost) > 4 else "")
    remedy = "" if asian(20) else f"; pip install {NOTO.replace('_', '-')}"
    return f"no typeface here has {named}{remedy}"


def length(text: str, size: int) -> float:
    """Pixels that a line of text takes."""
    return sum(face.getlength(run) for face, run in _runs(text, size))


def write(
    draw: ImageDraw.ImageDraw,
    place: tuple[float, float],
    text: str,
    color: tuple[int, int, int],
    size: int,
    *,
    stroke_width: float = 0,
    centred: bool = False,
) -> None:
    """Draws a line of text; `place` is the left end of the line's top, or the line's middle."""
    x, y = place
    ascent, descent = font(size).getmetrics()
    if centred:
        x, y = x - length(text, size) / 2, y - (ascent + descent) / 2
    base = y + ascent
    for face, run in _runs(text, size):
        draw.text((x, base), run, color, face, stroke_width=stroke_width, anchor="ls")
        x += face.getlength(run)


def wrap(text: str, size: int, width: int) -> list[str]:
    """Breaks text into lines of at most `width` pixels.

    Between words, and between Chinese or Japanese characters, but not before a closing mark; inside
    a word that is longer than a line.
    """
    lines, line = [], ""
    for word in text.split():
        blank = " " if line else ""
        for part in _PARTS.findall(word):
            if length(line + blank + part, size) <= width:
                line, blank = line + blank + part, ""
                continue
            if line:
                lines.append(line)
            while length(part, size) > width and len(part) > 1:
                cut = _fitting(part, size, width)
                lines.append(part[:cut])
                part = part[cut:]
            line, blank = part, ""
    return [*lines, line] if line else lines


def _fitting(word: str, size: int, width: int) -> int:
    """How many characters of a word that is too long fit into a line; at least one."""
    used, count = 0.0, 0
    for character in word:
        used += length(character, size)
        if used > width and count:
            break
        count += 1
    while count > 1 and length(word[:count], size) > width:
        count -= 1
    return count


def _runs(text: str, size: int) -> Iterator[tuple[ImageFont.FreeTypeFont, str]]:
    """Parts of a line with the typeface that has them; blanks belong to what is before them."""
    kinds, kind = [], "font"
    for character in text:
        kind = kind if character.isspace() else _typeface(character) or "font"
        kinds.append(kind)
    for kind, part in itertools.groupby(zip(kinds, text), key=lambda pair: pair[0]):
        face = asian(size) if kind == "asian" else font(size)
        yield face, "".join(character for _, character in part)


@functools.cache
def _typeface(character: str) -> str:
    """Which typeface has a character: "font", "asian", or "" for none."""
    for name, face in (("font", font(20)), ("asian", asian(20))):
        if face is not None and _shape(face, character) != _shape(face, "\U000efffe"):
            return name
    return ""


def _shape(face: ImageFont.FreeTypeFont, character: str) -> tuple[tuple[int, int], bytes]:
    mask = face.getmask(character)
    return mask.size, bytes(mask)
