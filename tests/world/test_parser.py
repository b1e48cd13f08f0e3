"""The parser: exact on clean pictures, and the degradation table as a regression test."""

import numpy as np
import pytest

from unireason_jax.evals.rates import wilson
from unireason_jax.world import parser, renderer
from unireason_jax.world.dice import Dice
from unireason_jax.world.parser import parse, to_objects
from unireason_jax.world.prompts import sample_prompt
from unireason_jax.world.renderer import render, shape_mask
from unireason_jax.world.requirements import sample_scene
from unireason_jax.world.scenes import Object, Scene
from unireason_jax.world.tasks import example
from unireason_jax.world.verifier import check

SCENES = 150
TOLERANCE = 0.02


def blur(image, sigma):
    """Gaussian blur with the edge pixels repeated, kernel radius 4 sigma."""
    radius = int(4 * sigma + 0.5)
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    taps /= taps.sum()
    for axis in (0, 1):
        width = [(radius, radius) if a == axis else (0, 0) for a in range(3)]
        padded = np.pad(image, width, mode="edge")
        windows = np.lib.stride_tricks.sliding_window_view(padded, len(taps), axis)
        image = windows @ taps
    return image


def noise(image, sigma, rng):
    return image + rng.normal(0, sigma, image.shape)


def dropout(image, rng):
    return np.where(rng.random((*image.shape[:2], 1)) < 0.05, 128.0, image)


# Share of exact inventories of `SCENES` scenes. Rows that the design's table (v2, 32 pixels) puts
# elsewhere are in `DESIGN`.
DEGRADATIONS = {
    "none": (lambda x, r: x, 1.0),
    "noise 20": (lambda x, r: noise(x, 20, r), 1.0),
    "noise 40": (lambda x, r: noise(x, 40, r), 1.0),
    "noise 60": (lambda x, r: noise(x, 60, r), 1.0),
    "blur 0.4": (lambda x, r: blur(x, 0.4), 1.0),
    "blur 0.6": (lambda x, r: blur(x, 0.6), 1.0),
    "blur 0.8": (lambda x, r: blur(x, 0.8), 0.79),
    "blur 1.0": (lambda x, r: blur(x, 1.0), 0.27),
    "blur 1.3": (lambda x, r: blur(x, 1.3), 0.07),
    "gain 0.8": (lambda x, r: x * 0.8, 1.0),
    "gain 0.65": (lambda x, r: x * 0.65, 0.0),
    "offset 25": (lambda x, r: x + 25, 1.0),
    "noise 20 + blur 0.5": (lambda x, r: noise(blur(x, 0.5), 20, r), 1.0),
    "5 % grey": (dropout, 1.0),
}
# The design's prototype drew upright crosses, the small ones a pixel thin, so it lost them earlier.
DESIGN = {
    "blur 0.6": 0.77,
    "blur 0.8": 0.77,
    "blur 1.0": 0.36,
    "blur 1.3": 0.07,
    "noise 20 + blur 0.5": 0.98,
}


def prompted_scenes(count, seed):
    for i in range(count):
        dice = Dice(seed, i, "degradation")
        yield sample_scene(sample_prompt(dice).requirement, dice)


def exact_share(name, scenes=SCENES):
    """Share of degraded scenes whose shapes, colours and sizes are all read."""
    degrade, _ = DEGRADATIONS[name]
    rng = np.random.default_rng(11)
    exact = 0
    for scene in prompted_scenes(scenes, seed=101):
        image = np.clip(degrade(render(scene).astype(np.float64), rng), 0, 255)
        looks = sorted(seen.look for seen in parse(image).objects)
        exact += looks == sorted(obj.look for obj in scene.objects)
    return exact / scenes


def interval(share, scenes=SCENES):
    rate = wilson([True] * round(share * scenes) + [False] * round((1 - share) * scenes))
    return rate.low, rate.high


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_degradation_table(name):
    _, expected = DEGRADATIONS[name]
    share = exact_share(name)
    assert abs(share - expected) <= TOLERANCE, f"{name}: {share:.3f}"
    design = DESIGN.get(name, expected)
    # not worse than the design's figure, as far as 150 scenes on either side can tell
    assert share >= design - TOLERANCE or interval(share)[1] >= interval(design)[0]


def test_the_threshold_is_the_one_that_gives_the_designs_table(monkeypatch):
    """With the 0.45 of the design's prototype our masks would read far less of a blurred scene."""
    monkeypatch.setattr(parser, "ACCEPT", 0.45)
    assert interval(exact_share("blur 0.8"))[1] < interval(DESIGN["blur 0.8"])[0]


@pytest.fixture
def upright_crosses(monkeypatch):
    """The prototype's masks and its threshold."""

    def drawn(shape, size):
        if shape != "cross":
            return shape_mask(shape, size)
        arm = np.abs(np.arange(7) - 3)
        thickness, length = {"small": (0, 2), "large": (1, 3)}[size]
        bar = (arm[:, None] <= thickness) & (arm <= length)
        return bar | bar.T

    monkeypatch.setattr(renderer, "shape_mask", drawn)
    monkeypatch.setattr(parser, "shape_mask", drawn)
    monkeypatch.setattr(parser, "ACCEPT", 0.45)
    renderer.tiles.cache_clear()
    parser._templates.cache_clear()
    yield
    renderer.tiles.cache_clear()
    parser._templates.cache_clear()


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_the_masks_of_the_prototype_give_the_designs_table(upright_crosses, name):
    """Within 0.02, but for blur 1.0, where 150 scenes told the design no more than 0.29 to 0.44."""
    design = DESIGN.get(name, DEGRADATIONS[name][1])
    share = exact_share(name, scenes=450)
    if name == "blur 1.0":
        assert interval(share, 450)[1] >= interval(design)[0]
    else:
        assert abs(share - design) <= TOLERANCE, f"{share:.3f}"


@pytest.mark.parametrize("side", [3, 4])
def test_clean_pictures_are_read_exactly(side):
    for i in range(400):
        scene = example(9, i, "edit", side=side, render=False)["source"]
        seen = parse(render(scene))
        assert to_objects(seen.objects, side) == scene.objects
        assert seen.residual == 0
        assert all(abs(obj.fit - 1) < 1e-3 for obj in seen.objects)


def test_no_injected_fault_is_accepted_under_noise_and_blur():
    rng = np.random.default_rng(3)
    rejected = 0
    for i in range(500):
        raw = example(17, i, "refine_t2i")
        if not raw["faults"]:
            continue
        image = np.clip(noise(blur(raw["draft"].astype(np.float64), 0.5), 12, rng), 0, 255)
        seen = parse(image)
        assert not check(raw["requirement"], seen.objects, seen.residual).passed, raw["id"]
        rejected += 1
    assert rejected > 200


def test_objects_off_the_grid_and_at_the_edge_are_found():
    scene = Scene((Object("square", "red", "large", "b2"), Object("cross", "blue", "small", "a1")))
    moved = np.roll(render(scene), (3, -1), (0, 1))
    seen = parse(moved).objects
    assert [(s.shape, s.y, s.x) for s in seen] == [("cross", 6.0, 2.0), ("square", 14.0, 10.0)]


def test_mush_is_residual_and_not_objects():
    rng = np.random.default_rng(0)
    image = np.full((32, 32, 3), 100, np.uint8)
    seen = parse(image)
    assert seen.residual > 0.5
    assert parse(rng.integers(0, 40, (32, 32, 3), np.uint8)) == ((), 0.0)
    with pytest.raises(ValueError, match="picture"):
        parse(np.zeros((32, 32)))
