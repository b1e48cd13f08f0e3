"""The vision tower against the official one, on two packed images of different size."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.models.golden import read, relative
from unireason_jax.models import functional, huggingface


def test_vit_connector_and_positions(goldens):
    config = huggingface.read_config(goldens)
    params = huggingface.load(goldens, config)
    t, _ = read(goldens / "vit.safetensors")
    images = np.repeat(np.arange(2), t["in.vit_token_seqlens"])[None]
    places = jnp.asarray(t["in.packed_vit_position_ids"], jnp.int32)[None]
    patches = jnp.asarray(t["in.packed_vit_tokens"])[None]

    @jax.jit
    def run(params):
        model = functional.bind(config, params)
        ids = jnp.asarray(images, jnp.int32)
        return model.vit(patches, places, ids)[0], model.embed_vit(patches, places, ids)[0]

    states, embedded = run(params)
    assert relative(states, t["out.vit_last_hidden"]) < 1e-5
    assert relative(embedded, t["out.connector_plus_pos"]) < 1e-5
    assert relative(embedded - t["out.pos_embed"], t["out.connector"]) < 1e-5


def test_patches_of_the_recorded_images(goldens):
    from tests.models.golden import patchify

    t, _ = read(goldens / "vit.safetensors")
    found = np.concatenate([patchify(t[f"in.image_{i}"], 14) for i in range(2)])
    np.testing.assert_array_equal(found, t["in.packed_vit_tokens"])
    first = patchify(np.arange(48.0).reshape(3, 4, 4), 2)[0]
    np.testing.assert_array_equal(first, [0, 16, 32, 1, 17, 33, 4, 20, 36, 5, 21, 37])
