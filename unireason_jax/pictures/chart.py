"""Bar charts with intervals and curves, drawn with Pillow."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw

from unireason_jax.pictures.fonts import font, wrap
from unireason_jax.pictures.strips import FAINT, INK, LINE, PAPER

COLORS = ((150, 160, 178), (88, 116, 196), (34, 150, 94), (214, 132, 40))
LINES = (*COLORS, (190, 60, 140), (20, 140, 160), (120, 90, 40), (90, 90, 90))
HEIGHT, LEFT, TOP, WIDTH = 260, 58, 92, 26


class Bar(NamedTuple):
    """A value in [0, 1] and the ends of its interval."""

    value: float
    low: float
    high: float


class Bars(NamedTuple):
    """One group of bars that stand together; None where there is no value."""

    name: str
    bars: tuple[Bar | None, ...]


def bar_chart(title: str, groups: Sequence[Bars], series: Sequence[str]) -> Image.Image:
    """Draws rates in [0, 1] as grouped bars with 95 % whiskers.

    Args:
      title: headline.
      groups: from left to right; each has one bar per series.
      series: names for the legend, at most four.
    """
    pitch = max(len(series) * WIDTH + 34, 96)
    width = max(LEFT + pitch * len(groups) + 24, 520)
    sheet = Image.new("RGB", (width, TOP + HEIGHT + 70), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((20, 14), title, INK, font(20), stroke_width=0.3)
    x = 20
    for name, color in zip(series, COLORS):
        draw.rectangle([x, 48, x + 13, 61], fill=color)
        draw.text((x + 20, 46), name, INK, font(14))
        x += 44 + font(14).getlength(name)
    for tick in range(0, 11, 2):
        y = _height(tick / 10)
        draw.line([(LEFT, y), (width - 16, y)], LINE if tick else FAINT, 1)
        draw.text((LEFT - 10, y), f"{tick / 10:.1f}", FAINT, font(13), anchor="rm")
    for number, group in enumerate(groups):
        left = LEFT + number * pitch + (pitch - len(group.bars) * WIDTH) / 2
        for place, (bar, color) in enumerate(zip(group.bars, COLORS)):
            _bar(draw, left + place * WIDTH, bar, color)
        middle = left + len(group.bars) * WIDTH / 2
        for line, text in enumerate(wrap(group.name.replace("_", " "), 13, pitch - 8)):
            y = TOP + HEIGHT + 10 + 16 * line
            draw.text((middle, y), text, INK, font(13), anchor="ma")
    return sheet


def curves(
    title: str, lines: Mapping[str, Sequence[tuple[float, float]]], *, across: str = "step"
) -> Image.Image:
    """Draws curves of a loss.

    Args:
      title: headline.
      lines: (x, y) points of every curve by name.
      across: what x is.
    """
    points = [point for line in lines.values() for point in line]
    right = max((x for x, _ in points), default=1.0) or 1.0
    top = max((y for _, y in points), default=1.0) or 1.0
    width = 640
    sheet = Image.new("RGB", (width, TOP + HEIGHT + 50 + 20 * len(lines)), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((20, 14), title, INK, font(20), stroke_width=0.3)
    for tick in range(6):
        y = _height(tick / 5)
        draw.line([(LEFT, y), (width - 16, y)], LINE if tick else FAINT, 1)
        draw.text((LEFT - 10, y), f"{top * tick / 5:.3g}", FAINT, font(13), anchor="rm")
    label = f"{across}, 0 to {right:g}"
    draw.text((width - 16, TOP + HEIGHT + 8), label, FAINT, font(13), anchor="ra")
    for number, (name, line) in enumerate(lines.items()):
        color = LINES[number % len(LINES)]
        path = [(LEFT + (width - LEFT - 16) * x / right, _height(y / top)) for x, y in line]
        draw.line(path, color, 2, joint="curve")
        y = TOP + HEIGHT + 30 + 20 * number
        draw.line([(20, y + 8), (44, y + 8)], color, 3)
        last = f", ends at {line[-1][1]:.3f}" if line else ""
        draw.text((52, y), f"{name}{last}", INK, font(14))
    return sheet


def _bar(draw: ImageDraw.ImageDraw, x: float, bar: Bar | None, color: tuple[int, int, int]) -> None:
    """A bar, its whisker and its value."""
    middle = x + WIDTH / 2
    if bar is None:
        draw.text((middle, _height(0) - 4), "-", FAINT, font(13), anchor="ms")
        return
    draw.rectangle([x + 2, _height(bar.value), x + WIDTH - 2, _height(0)], fill=color)
    low, high = _height(bar.low), _height(bar.high)
    draw.line([(middle, low), (middle, high)], INK, 1)
    for y in (low, high):
        draw.line([(middle - 4, y), (middle + 4, y)], INK, 1)
    draw.text((middle, high - 4), f"{bar.value:.2f}", INK, font(11), anchor="ms")


def _height(value: float) -> float:
    """Pixel row of a share."""
    return TOP + HEIGHT * (1 - value)
