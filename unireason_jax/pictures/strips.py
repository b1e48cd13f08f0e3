"""Pictures of traces: images side by side, what was said beneath them, verdict marks.

Small images are enlarged by whole factors without smoothing, so that a pixel stays a pixel; large
ones get larger panels, and are shrunk to them.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from unireason_jax.pictures import fonts
from unireason_jax.pictures.fonts import font, wrap, write

PANEL, LARGEST, WIDEST = 192, 512, 2200  # edge of a panel at least, at most; all panels of a strip
LONG_TITLE = 240
CUT = "cut off by the limit of length"
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
    """A labelled text beneath an image; `cut` where the limit of length ended it."""

    label: str
    text: str
    cut: bool = False


class Panel(NamedTuple):
    """One image of a strip: uint8 [H, W, 3], or None where an image is missing."""

    title: str
    image: np.ndarray | None
    notes: tuple[Note, ...] = ()
    verdict: bool | None = None


def strip(title: str, panels: Sequence[Panel], *, subtitle: str = "") -> Image.Image:
    """Draws one trace.

    Args:
      title: the prompt, in large letters.
      panels: images from left to right.
      subtitle: small print beneath the title.

    Returns:
      An RGB image, as wide as its panels and at least as two.
    """
    columns, side = max(len(panels), 2), _side(panels)
    width = 2 * MARGIN + columns * side + (columns - 1) * GAP
    large = 19 if len(title) <= LONG_TITLE else 14
    heading = wrap(title, large, width - 2 * MARGIN) or [""]
    texts = [title, subtitle, *(note.text for panel in panels for note in panel.notes)]
    small = wrap(subtitle, 13, width - 2 * MARGIN)
    small += wrap(fonts.complaint("".join(texts)), 13, width - 2 * MARGIN)
    top = MARGIN + (large + 7) * len(heading) + 18 * len(small) + 12
    body = max((_notes_height(panel.notes, side) for panel in panels), default=0)
    pictures = [None if p.image is None else enlarge(p.image, side) for p in panels]
    high = max((picture.height for picture in pictures if picture), default=side // 2)
    height = top + 24 + high + (10 + body if body else 0) + MARGIN
    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    y = MARGIN
    for line in heading:
        write(draw, (MARGIN, y), line, INK, large, stroke_width=0.3)
        y += large + 7
    for line in small:
        write(draw, (MARGIN, y), line, FAINT, 13)
        y += 18
    for column, (panel, picture) in enumerate(zip(panels, pictures)):
        place = MARGIN + column * (side + GAP), top
        _draw_panel(sheet, panel, picture, place, (side, high))
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
        write(draw, (MARGIN, 18), title, INK, 24, stroke_width=0.4)
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


def _side(panels: Sequence[Panel]) -> int:
    """Pixels of a panel's edge: room for large pictures, as long as the strip is no banner."""
    longest = max((max(p.image.shape[:2]) for p in panels if p.image is not None), default=PANEL)
    return max(PANEL, min(longest, LARGEST, WIDEST // max(len(panels), 2)))


def _draw_panel(
    sheet: Image.Image,
    panel: Panel,
    picture: Image.Image | None,
    place: tuple[int, int],
    size: tuple[int, int],
) -> None:
    """One column at (x, y): title and verdict, image in a frame of a (width, height), notes."""
    draw, (x, y), (side, high) = ImageDraw.Draw(sheet), place, size
    write(draw, (x, y), panel.title, INK, 15, stroke_width=0.2)
    if panel.verdict is not None:
        mark(draw, x + side - 10, y + 9, panel.verdict)
    y += 24
    frame = [x - 1, y - 1, x + side, y + high]
    draw.rectangle(frame, fill=(246, 247, 249), outline=FRAME)
    if picture is None:
        draw.text((x + side / 2, y + high / 2), "no image", FAINT, font(14), anchor="mm")
    else:
        middle = (x + (side - picture.width) // 2, y + (high - picture.height) // 2)
        sheet.paste(picture, middle)
    y += high + 10
    for note in panel.notes:
        color = LABELS.get(note.label.split()[0], FAINT)
        write(draw, (x, y), note.label, color, 13, stroke_width=0.2)
        y += 18
        for line in wrap(note.text, 14, side) or ["(empty)"]:
            write(draw, (x, y), line, INK, 14)
            y += 19
        if note.cut:
            write(draw, (x, y), CUT, BAD, 13)
            y += 19
        y += 7


def _notes_height(notes: Sequence[Note], side: int) -> int:
    """Pixels that `_draw_panel` needs for the notes."""
    return sum(25 + 19 * (max(len(wrap(n.text, 14, side)), 1) + n.cut) for n in notes)
