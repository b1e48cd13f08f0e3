"""Scenes and pictures: names, templates that cannot be confused, colours that are far apart."""

from itertools import combinations

import numpy as np
import pytest

from unireason_jax.world.renderer import blank, render, shape_mask, tiles
from unireason_jax.world.scenes import (
    BACKGROUND,
    COLORS,
    HELD_OUT_PAIRS,
    NANO_SIDE,
    PAIRS,
    PALETTE,
    SHAPES,
    SIDE,
    SIZES,
    TRAIN_PAIRS,
    Object,
    Scene,
    cell_names,
    centre,
    is_held_out_prompt,
    make_scene,
    nearest_cell,
    scene_from_dict,
)

LOOKS = [(shape, size) for shape in SHAPES for size in SIZES]


def test_cells_are_named_in_reading_order():
    assert cell_names(2) == ("a1", "a2", "b1", "b2")
    for side in (NANO_SIDE, SIDE):
        names = cell_names(side)
        assert names == tuple(sorted(names)) and len(names) == side * side
        assert all(nearest_cell(*centre(cell), side) == cell for cell in names)
    assert nearest_cell(-3.0, 99.0, 4) == "a4"


def test_scenes_are_ordered_and_refuse_bad_cells():
    one, two = Object("circle", "red", "large", "b2"), Object("square", "blue", "small", "a3")
    assert make_scene([one, two]).objects == (two, one)
    assert scene_from_dict(make_scene([one, two]).to_dict()) == make_scene([one, two])
    with pytest.raises(ValueError, match="share a cell"):
        make_scene([one, two._replace(cell="b2")])
    with pytest.raises(ValueError, match="outside the 3 x 3"):
        make_scene([one._replace(cell="a4")], 3)


def test_held_out_pairs_cover_every_shape_and_prompts_a_tenth():
    assert {shape for shape, _ in HELD_OUT_PAIRS} == set(SHAPES)
    assert set(TRAIN_PAIRS) | HELD_OUT_PAIRS == set(PAIRS)
    assert not set(TRAIN_PAIRS) & HELD_OUT_PAIRS
    share = np.mean([is_held_out_prompt(f"prompt {i}") for i in range(10_000)])
    assert 0.08 < share < 0.12


def test_pictures_hold_the_palette_and_nothing_else():
    objects = (Object("triangle", "cyan", "large", "a1"), Object("cross", "red", "small", "d4"))
    image = render(Scene(objects))
    assert image.shape == (32, 32, 3) and image.dtype == np.uint8
    assert image.flags.writeable and not blank(SIDE).flags.writeable
    colors = {tuple(int(v) for v in pixel) for pixel in image.reshape(-1, 3)}
    assert colors == {BACKGROUND, PALETTE["cyan"], PALETTE["red"]}
    drawn = (image != BACKGROUND).any(-1).sum()
    assert drawn == shape_mask("triangle", "large").sum() + shape_mask("cross", "small").sum()
    assert render(Scene((), NANO_SIDE)).shape == (24, 24, 3)


@pytest.mark.parametrize(("one", "two"), list(combinations(LOOKS, 2)))
def test_templates_are_separate_under_small_shifts(one, two):
    a = np.pad(shape_mask(*one), 4)
    for dy in range(-2, 3):
        for dx in range(-2, 3):
            b = np.roll(np.pad(shape_mask(*two), 4), (dy, dx), (0, 1))
            assert (a & b).sum() / (a | b).sum() < 0.9
            assert (a ^ b).sum() >= 4


def test_sizes_share_the_centre_and_leave_a_gap():
    for shape in SHAPES:
        for size in SIZES:
            tile = tiles()[shape, "red", size]
            assert (tile[7] == BACKGROUND).all() and (tile[:, 7] == BACKGROUND).all()
            assert tuple(tile[3, 3]) == PALETTE["red"]


def test_colours_are_far_apart():
    values = np.array([BACKGROUND, *PALETTE.values()], float)
    gaps = [np.linalg.norm(values[i] - values[j]) for i, j in combinations(range(len(values)), 2)]
    assert min(gaps) > 100
    assert len(COLORS) == 8
