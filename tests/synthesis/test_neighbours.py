"""Pictures that are near-duplicates, and pictures that only look alike to a hash."""

import io
import itertools

import numpy as np
import pytest
from PIL import Image

from unireason_jax.synthesis.neighbours import BITS, Pictures, picture_hash
from unireason_jax.world.renderer import render
from unireason_jax.world.scenes import COLORS, SHAPES, SIZES, Object, make_scene


def encoded(picture, form="PNG", **options):
    file = io.BytesIO()
    Image.fromarray(picture).save(file, form, **options)
    return file.getvalue()


def scene_hash(*objects):
    return picture_hash(encoded(render(make_scene(objects))))


def are_one(one, two):
    pictures = Pictures()
    pictures.seen(one)
    return pictures.seen(two)


@pytest.mark.parametrize("shape, size", list(itertools.product(SHAPES, SIZES)))
def test_an_object_of_another_colour_is_another_picture(shape, size):
    kept = Object("cross", "red", "large", "c1")
    hashes = [scene_hash(Object(shape, color, size, "b3"), kept) for color in COLORS]
    assert not any(are_one(*pair) for pair in itertools.combinations(hashes, 2))


def test_flat_pictures_of_two_colours_are_two():
    pictures = Pictures()
    greys = [np.full((40, 30, 3), level, np.uint8) for level in (10, 120, 250)]
    assert [pictures.seen(picture_hash(encoded(grey))) for grey in greys] == [False] * 3
    assert pictures.seen(picture_hash(encoded(greys[1] + 3)))


def test_a_picture_stored_otherwise_is_the_same():
    rough = np.random.default_rng(0).integers(20, 230, (6, 6, 3), dtype=np.uint8)
    photo = np.asarray(Image.fromarray(rough).resize((340, 340), Image.Resampling.BICUBIC))
    original = picture_hash(encoded(photo))
    smaller = np.asarray(Image.fromarray(photo).resize((170, 170), Image.Resampling.BOX))
    assert are_one(original, picture_hash(encoded(np.minimum(smaller, 250) + 5)))
    assert are_one(original, picture_hash(encoded(photo, "JPEG", quality=90)))
    assert not are_one(original, picture_hash(encoded(photo[:, ::-1])))


def test_hashes_of_older_journals_have_edges_alone():
    new = scene_hash(Object("circle", "red", "large", "b2"))
    old = new & (1 << BITS) - 1
    assert are_one(old, new) and are_one(new, old) and are_one(old, old)
