"""Pictures of traces: images side by side, what was said beneath them, verdict marks.

Plain Pillow. Small images are enlarged by whole factors without smoothing, so that a pixel stays a
pixel; large ones are shrunk to the panel.
"""

import bisect
import functools
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

PANEL = 192
GAP = 18
MARGIN = 20
PAPER, INK, FAINT = (255, 255, 255), (28, 30, 36), (120, 124, 134)
LINE, FRAME = (226, 228, 233), (200, 203, 210)
GOOD, BAD = (22, 146, 74), (206, 46, 46)
LABELS = {
    "plan": (124, 74, 168),
    "reflection": (178, 96, 10),
    "answer": (20, 120, 130),
}


class Note(NamedTuple):
    """A labelled text beneath an image."""

    label: str
    text: str


class Panel(NamedTuple):
    """One image of a strip: uint8 [H, W, 3], or None where an image is missing."""

    title: str
    image: np.ndarray | None
    notes: tuple[Note, ...] = ()
    verdict: bool | None = None


@functools.cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own typeface at a pixel size."""
    return ImageFont.load_default(size)


def wrap(text: str, size: int, width: int) -> list[str]:
    """Breaks text into lines of at most `width` pixels, between words, inside a longer word."""
    measure = font(size).getlength
    lines, line = [], ""
    for word in text.split():
        trial = f"{line} {word}" if line else word
        if measure(trial) <= width:
            line = trial
            continue
        if line:
            lines.append(line)
        while measure(word) > width and len(word) > 1:
            lengths = range(2, len(word) + 1)
            cut = 1 + bisect.bisect(lengths, width, key=lambda n: measure(word[:n]))
            lines.append(word[:cut])
            word = word[cut:]
        line = word
    return [*lines, line] if line else lines


def strip(title: str, panels: Sequence[Panel], *, subtitle: str = "") -> Image.Image:
    """Draws one trace.

    Args:
      title: the prompt, in large letters.
      panels: images from left to right.
      subtitle: small print beneath the title.

    Returns:
      An RGB image, as wide as its panels and at least as two.
    """
    columns = max(len(panels), 2)
    width = 2 * MARGIN + columns * PANEL + (columns - 1) * GAP
    heading = wrap(title, 19, width - 2 * MARGIN) or [""]
    small = wrap(subtitle, 13, width - 2 * MARGIN)
    top = MARGIN + 26 * len(heading) + 18 * len(small) + 12
    body = max((_notes_height(panel.notes) for panel in panels), default=0)
    height = top + 24 + PANEL + (10 + body if body else 0) + MARGIN
    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    y = MARGIN
    for line in heading:
        draw.text((MARGIN, y), line, INK, font(19), stroke_width=0.3)
        y += 26
    for line in small:
        draw.text((MARGIN, y), line, FAINT, font(13))
        y += 18
    for column, panel in enumerate(panels):
        _draw_panel(sheet, draw, panel, MARGIN + column * (PANEL + GAP), top)
    return sheet


def contact_sheet(
    strips: Sequence[Image.Image], *, title: str = "", columns: int = 1
) -> Image.Image:
    """Strips in rows of `columns`, with a title and lines between the rows."""
    rows = [strips[i : i + columns] for i in range(0, len(strips), columns)]
    widths = [
        max((row[c].width for row in rows if len(row) > c), default=0) for c in range(columns)
    ]
    heights = [max(image.height for image in row) for row in rows]
    top = 56 if title else 0
    sheet = Image.new("RGB", (max(sum(widths), 2 * PANEL), top + sum(heights)), PAPER)
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((MARGIN, 18), title, INK, font(24), stroke_width=0.4)
    y = top
    for row, height in zip(rows, heights):
        x = 0
        for image, width in zip(row, widths):
            sheet.paste(image, (x, y))
            x += width
        draw.line([(0, y), (sheet.width, y)], LINE, 2)
        y += height
    return sheet


def enlarge(image: np.ndarray, box: int) -> Image.Image:
    """uint8 [H, W, 3] fitted into a box: whole factors up without smoothing, shrunk otherwise."""
    picture = Image.fromarray(image)
    factor = box // max(picture.size)
    if factor >= 1:
        return picture.resize((picture.width * factor, picture.height * factor), Image.NEAREST)
    scale = box / max(picture.size)
    size = [max(round(side * scale), 1) for side in picture.size]
    return picture.resize(tuple(size), Image.LANCZOS)


def mark(draw: ImageDraw.ImageDraw, x: float, y: float, good: bool, radius: float = 9) -> None:
    """A green tick or a red cross on a disc centred at (x, y)."""
    box = [x - radius, y - radius, x + radius, y + radius]
    draw.ellipse(box, fill=GOOD if good else BAD)
    r = radius * 0.45
    if good:
        path = [(x - r, y + 0.1 * r), (x - 0.25 * r, y + 0.8 * r), (x + r, y - 0.8 * r)]
        draw.line(path, PAPER, 2, joint="curve")
    else:
        draw.line([(x - r, y - r), (x + r, y + r)], PAPER, 2)
        draw.line([(x - r, y + r), (x + r, y - r)], PAPER, 2)


def tidy(text: str) -> str:
    """Generated text for reading: no tags, no space before punctuation."""
    text = re.sub(r"</?\w+>", " ", text)
    return re.sub(r"\s+([,.?!;:])", r"\1", " ".join(text.split()))


def _draw_panel(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, panel: Panel, x: int, y: int
) -> None:
    """One column: title and verdict, image, notes."""
    draw.text((x, y), panel.title, INK, font(15), stroke_width=0.2)
    if panel.verdict is not None:
        mark(draw, x + PANEL - 10, y + 9, panel.verdict)
    y += 24
    frame = [x - 1, y - 1, x + PANEL, y + PANEL]
    if panel.image is None:
        draw.rectangle(frame, fill=(246, 247, 249), outline=FRAME)
        draw.text((x + PANEL / 2, y + PANEL / 2), "no image", FAINT, font(14), anchor="mm")
    else:
        picture = enlarge(panel.image, PANEL)
        draw.rectangle(frame, fill=(246, 247, 249), outline=FRAME)
        place = (x + (PANEL - picture.width) // 2, y + (PANEL - picture.height) // 2)
        sheet.paste(picture, place)
    y += PANEL + 10
    for note in panel.notes:
        color = LABELS.get(note.label.split()[0], FAINT)
        draw.text((x, y), note.label, color, font(13), stroke_width=0.2)
        y += 18
        for line in wrap(note.text, 14, PANEL) or ["(empty)"]:
            draw.text((x, y), line, INK, font(14))
            y += 19
        y += 7


def _notes_height(notes: Sequence[Note]) -> int:
    """Pixels that `_draw_panel` needs for the notes."""
    return sum(25 + 19 * max(len(wrap(note.text, 14, PANEL)), 1) for note in notes)
