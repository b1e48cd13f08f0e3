"""Pictures decoded together: the same bits as one at a time, few sizes, within the memory."""

import dataclasses

import jax
import numpy as np
import pytest

from tests.inference import toy
from unireason_jax.inference import engine as engines
from unireason_jax.inference.engine import Engine
from unireason_jax.inference.reasoner import Reasoner
from unireason_jax.models import vae

TINY = vae.VAEConfig(channels=32, multipliers=(1, 1), blocks=1, latents=4)

pytestmark = pytest.mark.usefixtures("quick_compile")


class Noted(vae.Autoencoder):
    """Notes the shapes of what it decodes."""

    def __init__(self):
        super().__init__(TINY, vae.init(TINY, jax.random.key(0)))
        self.shapes = []

    def decode_batch(self, latents):
        self.shapes.append(latents.shape)
        return super().decode_batch(latents)


@pytest.fixture(scope="module")
def codec():
    return Noted()


def engine(codec):
    return Engine(None, None, dataclasses.replace(toy.spec(), codec=codec))


def drawn(*shapes):
    rng = np.random.default_rng(0)
    return [rng.normal(size=(*shape, TINY.latents)).astype(np.float32) for shape in shapes]


def test_pictures_of_one_size_are_decoded_together_with_the_same_bits(codec):
    latents = drawn((4, 6), (4, 4), (4, 6), (4, 6))
    alone = [codec.decode(one) for one in latents]
    codec.shapes.clear()
    together = engine(codec).pictures(latents)
    assert codec.shapes == [(4, 4, 6, 4), (1, 4, 4, 4)]  # three take the program of four
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)


def test_no_more_pixels_at_a_time_than_fit(codec, monkeypatch):
    monkeypatch.setattr(engines, "PIXELS", 2 * 8 * 8)
    latents = drawn(*[(4, 4)] * 5)
    codec.shapes.clear()
    found = engine(codec).pictures(latents)
    assert [shape[0] for shape in codec.shapes] == [2, 2, 1]
    for one, other in zip(latents, found, strict=True):
        np.testing.assert_array_equal(codec.decode(one), other)


def test_a_codec_that_knows_no_batches_decodes_one_at_a_time():
    class Single:
        stride = 8

        def decode(self, latents):
            return np.full((8, 8, 3), latents[0, 0, 0], np.uint8)

    found = engine(Single()).pictures([np.full((1, 1, 4), n, np.float32) for n in range(3)])
    assert [int(one[0, 0, 0]) for one in found] == [0, 1, 2]


def test_a_model_draws_on_the_device_that_its_weights_are_on():
    usual, elsewhere = toy.reasoner(), jax.local_devices()[1]
    moved = Reasoner(toy.config(), jax.device_put(toy.params(), elsewhere), toy.spec())
    moved.settings = usual.settings
    wanted, found = (model.generate("a red circle") for model in (usual, moved))
    assert moved.engine.empty(1, 8).k.devices() == {elsewhere}
    np.testing.assert_array_equal(found.image, wanted.image)
