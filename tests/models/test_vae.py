"""The autoencoder against the official one, and on its own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.golden import read, relative
from unireason_jax.models import vae
from unireason_jax.models.archive import Archive, write_archive
from unireason_jax.models.config import VAEConfig

TINY = VAEConfig(channels=32, multipliers=(1, 2, 1), blocks=1, latents=4)


@pytest.fixture(scope="module")
def official(goldens):
    """(config, parameters, recorded tensors)."""
    return *vae.load(goldens / "ae.safetensors"), read(goldens / "vae.safetensors")[0]


@pytest.fixture(scope="module")
def tiny():
    return jax.jit(vae.init, static_argnums=0)(TINY, jax.random.key(0))


def rows(x):
    """[B, C, H, W] -> [B, H, W, C]."""
    return jnp.asarray(x.transpose(0, 2, 3, 1))


def columns(x):
    """[B, H, W, C] -> [B, C, H, W]."""
    return np.asarray(x).transpose(0, 3, 1, 2)


def test_moments_and_samples_are_the_official_ones(official):
    config, params, t = official
    mean, logvar = jax.jit(vae.moments, static_argnums=1)(params, config, rows(t["in.image"]))
    scaled = config.scale * (t["out.mean"] - config.shift)
    assert relative(columns(mean), scaled) < 1e-5
    assert relative(columns(logvar) - 2 * np.log(config.scale), t["out.logvar"]) < 1e-5
    latent = vae.sample(mean, logvar, rows(t["in.noise"]))
    assert relative(columns(latent), t["out.latent_scaled"]) < 1e-5


def test_decoded_images_are_the_official_ones(official):
    config, params, t = official
    decode = jax.jit(vae.decode, static_argnums=1)
    for source, target in (
        ("out.latent_scaled", "out.decoded"),
        ("in.latent_for_decode", "out.decoded_from_in_latent"),
    ):
        found = decode(params, config, rows(t[source]))
        assert relative(columns(found), t[target]) < 1.2e-5, target


def test_the_released_autoencoder_has_the_recorded_size():
    shapes = vae.shapes(VAEConfig())
    assert len(shapes) == 244
    assert sum(np.prod(s) for s in shapes.values()) == 83_819_683
    encoder = [np.prod(s) for n, s in shapes.items() if n.startswith("encoder")]
    assert sum(encoder) == 34_274_208
    assert shapes["decoder.up.1.block.0.nin_shortcut.weight"] == (1, 1, 512, 256)
    assert shapes["encoder.conv_out.weight"] == (3, 3, 512, 32)


def test_posterior_samples_have_its_mean_and_variance(tiny):
    image = jax.random.uniform(jax.random.key(1), (1, 8, 8, 3), minval=-1)
    mean, logvar = vae.moments(tiny, TINY, image)

    def draw(key):
        return vae.sample(mean, logvar, jax.random.normal(key, mean.shape))

    draws = jax.vmap(draw)(jax.random.split(jax.random.key(2), 4000))
    np.testing.assert_allclose(draws.mean(0), mean, atol=0.1 * float(jnp.exp(logvar / 2).max()))
    np.testing.assert_allclose(draws.var(0), jnp.exp(logvar), rtol=0.15)
    np.testing.assert_array_equal(vae.encode(tiny, TINY, image), mean)
    assert not np.array_equal(vae.encode(tiny, TINY, image, jax.random.key(3)), mean)


def test_an_image_does_not_depend_on_its_batch(tiny):
    images = jax.random.uniform(jax.random.key(4), (3, 8, 12, 3), minval=-1)
    encode = jax.jit(vae.encode, static_argnums=1)
    together = encode(tiny, TINY, images)
    np.testing.assert_allclose(encode(tiny, TINY, images[1:2]), together[1:2], atol=2e-5)


def test_the_codec_takes_and_gives_uint8(tiny):
    codec = vae.Autoencoder(TINY, tiny)
    assert (codec.stride, codec.channels) == (4, 4)
    image = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    mean, logvar = codec.encode(image)
    assert mean.shape == logvar.shape == (2, 3, 4) and mean.dtype == np.float32
    decoded = codec.decode(mean)
    assert decoded.shape == image.shape and decoded.dtype == np.uint8
    with pytest.raises(ValueError, match="multiples of 4"):
        codec.encode(image[:7])
    np.testing.assert_array_equal(
        vae.to_uint8([-3.0, -1.0, 0.0, 0.999, 1.0, 9.0]), [0, 0, 127, 254, 255, 255]
    )


def test_another_autoencoder_is_named(tmp_path, tiny):
    def save(change):
        value = {n: np.asarray(x) for n, x in tiny.items()}
        value = {n: x.transpose(3, 2, 0, 1) if x.ndim == 4 else x for n, x in value.items()}
        change(value)
        shapes = {n: (x.shape, "F32") for n, x in value.items()}
        write_archive(tmp_path, "ae", shapes, lambda n: [value[n]], shard_bytes=1 << 30)
        return Archive(tmp_path / "ae.safetensors")

    assert vae.read_config(save(lambda value: None)) == TINY
    with pytest.raises(ValueError, match=r"'encoder\.mid\.attn_1\.q\.weight'.*is missing"):
        vae.read_config(save(lambda value: value.pop("encoder.mid.attn_1.q.weight")))
    with pytest.raises(ValueError, match=r"'quant_conv\.weight' is not part"):
        vae.read_config(save(lambda value: value.update({"quant_conv.weight": np.zeros(1, "f4")})))
    with pytest.raises(ValueError, match=r"'encoder\.conv_in\.weight' is missing"):
        vae.read_config(save(lambda value: value.pop("encoder.conv_in.weight")))
    wrong = {"decoder.norm_out.bias": np.zeros(5, "f4")}
    with pytest.raises(ValueError, match=r"'decoder\.norm_out\.bias' has shape \[5\]"):
        vae.read_config(save(lambda value: value.update(wrong)))
