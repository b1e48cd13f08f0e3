"""The patch basis: lossless on clean pictures, orthonormal, conditioned for N(0, 1) noise."""

import numpy as np
import pytest

from unireason_jax.world import tasks
from unireason_jax.world.basis import CHANNELS, LOG_VARIANCE, PatchBasis
from unireason_jax.world.renderer import tiles


@pytest.fixture(scope="module")
def codec():
    return PatchBasis.create()


@pytest.mark.parametrize("side", [3, 4])
def test_clean_pictures_survive_exactly(codec, side):
    images = np.stack([tasks.example(5, i, "t2i", side=side)["image"] for i in range(200)])
    latents = codec.encode_batch(images)
    assert latents.shape == (200, side, side, CHANNELS) and latents.dtype == np.float32
    np.testing.assert_array_equal(codec.decode_batch(latents), images)
    mean, log_variance = codec.encode(images[7])
    np.testing.assert_allclose(mean, latents[7], atol=1e-5)
    assert (log_variance == LOG_VARIANCE).all() and log_variance.shape == mean.shape
    np.testing.assert_array_equal(codec.decode(mean), images[7])


def test_every_tile_survives_latent_rounding_to_bfloat16_steps(codec):
    images = np.stack(list(tiles().values()))
    latents = codec.encode_batch(images)
    coarse = np.round(latents * 64) / 64
    error = np.abs(codec.decode_batch(coarse).astype(int) - images.astype(int))
    assert error.max() <= 8


def test_the_basis_is_orthonormal_and_signed(codec):
    gram = codec.basis.T.astype(np.float64) @ codec.basis
    np.testing.assert_allclose(gram, np.eye(CHANNELS), atol=1e-6)
    assert (np.diff(codec.scale) <= 0).all() and codec.scale[-1] > 5
    peaks = np.abs(codec.basis).argmax(0)
    assert (codec.basis[peaks, np.arange(CHANNELS)] > 0).all()


def test_latents_have_about_unit_variance(codec):
    names = ("t2i", "edit", "refine_t2i")
    keys = {"t2i": "image", "edit": "output_image", "refine_t2i": "draft"}
    images = np.stack([tasks.example(1, i, n)[keys[n]] for n in names for i in range(500)])
    latents = codec.encode_batch(images)
    deviation = latents.std((0, 1, 2))
    assert (deviation > 0.8).all() and (deviation < 1.25).all()
    assert np.abs(latents.mean((0, 1, 2))).max() < 0.2


def test_it_is_the_same_every_time_and_through_arrays(codec):
    again = PatchBasis.from_arrays(PatchBasis.create().to_arrays())
    image = tasks.example(2, 3, "t2i")["image"]
    np.testing.assert_array_equal(codec.encode(image)[0], again.encode(image)[0])
    with pytest.raises(ValueError, match="192, 24"):
        PatchBasis(codec.basis.T, codec.mean, codec.scale)


def test_wrong_shapes_are_named(codec):
    with pytest.raises(ValueError, match="multiples of 8"):
        codec.encode(np.zeros((30, 32, 3), np.uint8))
    with pytest.raises(ValueError, match="latents"):
        codec.decode(np.zeros((4, 4, 16), np.float32))
