"""Charts are drawn from plain numbers."""

import numpy as np

from unireason_jax.pictures.chart import COLORS, HEIGHT, TOP, Bar, Bars, bar_chart


def test_bars_are_as_high_as_their_values():
    groups = [Bars("half", (Bar(0.5, 0.4, 0.6), None)), Bars("all", (Bar(1.0, 0.9, 1.0), None))]
    image = np.asarray(bar_chart("title", groups, ("one", "two")).convert("RGB"))
    blue = (image[TOP:] == COLORS[0]).all(-1).sum(0)  # by column, below the legend
    tall = sorted(set(blue[blue > 20].tolist()))
    assert abs(tall[-1] - HEIGHT) <= 3
    assert min(abs(length - HEIGHT / 2) for length in tall) <= 3
    assert not (image[100:] == COLORS[1]).all(-1).any()  # what does not exist is not drawn as 0
