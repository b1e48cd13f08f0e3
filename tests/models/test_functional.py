"""Building, sharding and binding models; policies that must not change the formula."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.slow import shapes
from unireason_jax.models import functional, huggingface, official_names, released
from unireason_jax.models.config import VARIANTS, from_dict, to_dict, variant
from unireason_jax.pods import sharding
from unireason_jax.rules.visibility import Visibility, build

NANO = variant("nano")


def names_of(tree):
    """Paths of a tree's leaves."""
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: isinstance(x, tuple))
    return {jax.tree_util.keystr(p, simple=True, separator="/"): leaf for p, leaf in leaves}


def make_batch(rng, config, *, splits, modes, text, latent):
    """A split-packed row of two equal rows, und tokens first, with random content."""
    seen = build(splits, modes)
    order = np.concatenate([text, latent])
    seen = Visibility(*(jnp.asarray(x[order])[None].repeat(2, 0) for x in seen))
    features = config.latent.features
    return {
        "ids": jnp.asarray(rng.integers(0, config.llm.vocab, (2, len(text))), jnp.int32),
        "x": jnp.asarray(rng.normal(size=(2, len(latent), features)), jnp.float32),
        "t": jnp.full((2, len(latent)), 0.3),
        "places": jnp.arange(len(latent), dtype=jnp.int32)[None].repeat(2, 0),
        "positions": jnp.asarray(order, jnp.int32)[None].repeat(2, 0),
        "seen": seen,
    }


def row(config, seed=0):
    """[causal 6][noise: SOI, 4 latents, EOI][causal 3]."""
    text = np.array([0, 1, 2, 3, 4, 5, 6, 11, 12, 13, 14])
    return make_batch(
        np.random.default_rng(seed),
        config,
        splits=[6, 6, 3],
        modes=["causal", "noise", "causal"],
        text=text,
        latent=np.arange(7, 11),
    )


def run(config, params, batch, **flags):
    """(logits, velocity) of a batch."""
    model = functional.bind(config, params)
    und = model.embed_text(batch["ids"])
    gen = model.embed_latents(batch["x"], batch["t"], batch["places"])
    und, gen, _ = model.decode(und, gen, batch["positions"], batch["seen"], **flags)
    return model.logits(und), model.velocity(gen)


def loss(params, batch, config, flags=()):
    """Some scalar of everything; `latent_out` starts at zero, so its input is used as well."""
    logits, velocity = run(config, params, batch, **dict(flags))
    return jnp.mean(jnp.sin(logits)) + jnp.mean(jnp.square(velocity - batch["x"]))


run_jit = jax.jit(run, static_argnums=0)
loss_of = jax.jit(loss, static_argnums=(2, 3))
grads_of = jax.jit(jax.grad(loss), static_argnums=(2, 3))


@pytest.fixture(scope="module")
def params():
    """Nano weights, with a velocity head that is not zero."""
    params = jax.jit(functional.init, static_argnums=0)(NANO, jax.random.key(0))
    kernel = params["latent_out"]["kernel"]
    params["latent_out"]["kernel"] = 0.1 * jax.random.normal(jax.random.key(1), kernel.shape)
    return params


def test_the_released_model_has_the_recorded_number_of_parameters():
    config = VARIANTS["bagel_7b_mot"]
    tables = (config.latent.side**2 + config.vit.side**2) * config.llm.width
    assert functional.count(functional.abstract(config)) == 14_607_260_128 - tables
    llm = functional.abstract(config)["stack"], functional.abstract(config)["embed"]
    head = functional.abstract(config)["head"]
    assert sum(functional.count(x) for x in (llm, head)) == 14_141_252_608


def test_the_released_model_has_the_recorded_tensors():
    """All 1,223 names and shapes, from a list that is written down independently."""
    config = VARIANTS["bagel_7b_mot"]
    files = released.json_configs(config)
    llm, vit, main = (files[f"{name}config.json"] for name in ("llm_", "vit_", ""))
    found = {n: t.shape for t in official_names.layout(config).values() for n in t.names}
    sides = huggingface.tables(config).items()
    found |= {name: (side**2, config.llm.width) for name, side in sides}
    assert found == shapes(llm, vit, main, 64)
    assert len(found) == 1223
    assert sum(math.prod(shape) for shape in found.values()) == 14_607_260_128
    gen = "language_model.model.layers.27.mlp_moe_gen.gate_proj.weight"
    assert found[gen] == (18944, 3584)
    assert found["latent_pos_embed.pos_embed"] == (4096, 3584)
    assert found["vit_pos_embed.pos_embed"] == (4900, 3584)
    assert found["vit_model.vision_model.encoder.layers.25.mlp.fc1.weight"] == (4304, 1152)


@pytest.mark.parametrize("name", list(VARIANTS))
def test_every_parameter_has_a_rule_per_dimension(name):
    config = VARIANTS[name]
    sizes, axes = names_of(functional.abstract(config)), names_of(functional.logical_axes(config))
    assert sizes.keys() == axes.keys()
    for path, names in axes.items():
        assert len(names) == len(sizes[path].shape), path
        sharding.spec(*names)
        assert ("/blocks/" in path) == (names[0] == "layers"), path


def test_shapes_are_of_no_mesh():
    """They are kept between calls: a sampler on one device is traced after a run on eight."""
    functional._template.cache_clear()
    with jax.set_mesh(sharding.make_mesh()):
        leaves = jax.tree.leaves(functional.abstract(variant("nano")))
    assert {leaf.sharding for leaf in leaves} == {None}


def test_init_is_sharded_from_the_start():
    mesh = sharding.make_mesh({"fsdp": 4, "tensor": 2})
    sizes, axes = functional.abstract(NANO), functional.logical_axes(NANO)
    target = sharding.shardings(mesh, sizes, axes)
    init = jax.jit(functional.init, static_argnums=0, out_shardings=target)
    compiled = init.lower(NANO, jax.random.key(0)).compile()
    params = init(NANO, jax.random.key(0))
    jax.tree.map(
        lambda x, s: x.sharding.is_equivalent_to(s, x.ndim) or pytest.fail(s), params, target
    )
    per_device = sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(params))
    assert compiled.memory_analysis().output_size_in_bytes <= per_device * 1.05
    assert per_device < 0.3 * 4 * functional.count(sizes)
    single = jax.jit(functional.init, static_argnums=0)(NANO, jax.random.key(0))
    # The same draws; newer XLA rounds the last bit by how a shard is vectorised.
    close = functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-7)
    jax.tree.map(close, params, single)


def test_the_forward_pass_is_the_same_on_a_mesh(params):
    batch = row(NANO)
    wanted = run_jit(NANO, params, batch)
    mesh = sharding.make_mesh({"data": 2, "fsdp": 2, "tensor": 2})
    target = sharding.shardings(mesh, functional.abstract(NANO), functional.logical_axes(NANO))
    with jax.set_mesh(mesh):
        placed = jax.device_put(params, target)
        found = run_jit(NANO, placed, batch)
    for a, b in zip(found, wanted):
        np.testing.assert_allclose(a, b, atol=2e-5)


@pytest.mark.parametrize(
    "change",
    [
        {"remat": "full"},
        {"remat": "save_attention"},
        {"remat": "save_matmuls"},
        {"attention": "chunked", "chunk": 4},
        {"attention": "chunked", "chunk": 4, "remat": "save_attention"},
    ],
)
def test_policies_do_not_change_gradients(params, change):
    batch = row(NANO)
    wanted = grads_of(params, batch, NANO)
    found = grads_of(params, batch, variant("nano", **change))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), found, wanted)


def test_save_attention_recomputes_no_attention(params):
    batch, many = row(NANO), {"attention": "chunked", "chunk": 4}

    def loops(remat):
        config = variant("nano", remat=remat, **many)
        return grads_of.lower(params, batch, config).compile().as_text().count(" while(")

    assert loops("save_attention") < loops("full")


def test_detached_und_tokens_get_no_gradient_and_change_nothing_else(params):
    batch = row(NANO)
    flags = (("detach_und", True),)
    np.testing.assert_allclose(loss_of(params, batch, NANO, flags), loss_of(params, batch, NANO))
    free, held = grads_of(params, batch, NANO), grads_of(params, batch, NANO, flags)
    for path, grad in names_of(held).items():
        frozen = "/und" in path or path.startswith(("embed", "vit", "connector"))
        assert bool(np.any(grad)) != frozen or path.startswith("vit"), path
    np.testing.assert_allclose(held["head"]["kernel"], free["head"]["kernel"], atol=1e-7)


def test_a_row_of_one_kind_of_token_needs_no_other(params):
    batch = row(NANO)
    model = functional.bind(NANO, params)
    und = model.embed_text(batch["ids"])
    seen = Visibility(*(jnp.asarray(x)[None].repeat(2, 0) for x in build([11], ["causal"])))
    none = jnp.zeros((2, 0, NANO.llm.width))
    positions = batch["positions"][:, :11]
    states, empty, (k, _) = jax.jit(model.decode)(und, none, positions, seen)
    assert empty.shape == (2, 0, 32) and k.shape == (2, 2, 11, 2, 8)
    assert np.isfinite(states).all()


def test_vit_attends_within_each_image_only(params):
    rng = np.random.default_rng(3)
    patches = jnp.asarray(rng.normal(size=(1, 12, 48)), jnp.float32)
    places = jnp.asarray([[0, 1, 8, 9, 0, 1, 2, 8, 9, 10, 0, 0]], jnp.int32)
    images = jnp.asarray([[0] * 4 + [1] * 6 + [-1] * 2], jnp.int32)

    @jax.jit
    def embed(patches, places, images):
        return functional.bind(NANO, params).embed_vit(patches, places, images)

    both = embed(patches, places, images)
    alone = embed(patches[:, 4:10], places[:, 4:10], images[:, 4:10] * 0)
    np.testing.assert_allclose(both[:, 4:10], alone, atol=1e-5)
    other = embed(patches.at[:, 0].add(1.0), places, images)
    assert np.abs(other - both)[:, :4].min(axis=-1).max() > 0
    np.testing.assert_array_equal(other[:, 4:10], both[:, 4:10])


def test_bfloat16_keeps_residuals_and_outputs_float32(params):
    batch = row(NANO)
    config = variant("nano", dtype="bfloat16")
    wanted = run_jit(NANO, params, batch)
    found = run_jit(config, params, batch)
    for a, b in zip(found, wanted):
        assert a.dtype == jnp.float32
        assert 1e-5 < np.linalg.norm(a - b) / np.linalg.norm(b) < 2e-2


def test_bind_names_a_missing_and_an_extra_leaf(params):
    import copy

    wrong = copy.copy(params)
    del wrong["embed"]
    with pytest.raises(ValueError, match="'embed' is missing"):
        functional.bind(NANO, wrong)
    with pytest.raises(ValueError, match="'lora' is not in this model"):
        functional.bind(NANO, {**params, "lora": params["embed"]})


def test_config_errors_name_the_nearest_field():
    with pytest.raises(ValueError, match="'nano'"):
        variant("nanno")
    with pytest.raises(ValueError, match=r"model\.llm.*'layers'"):
        variant("nano", llm={"layerz": 3})
    with pytest.raises(ValueError, match="'half' is not one of"):
        variant("nano", dtype="half")
    with pytest.raises(ValueError, match="multiple of 3 kv_heads"):
        variant("nano", llm={"kv_heads": 3})
    with pytest.raises(ValueError, match=r"model\.latent.*missing.*'side'"):
        from_dict({"llm": to_dict(NANO)["llm"], "latent": {"channels": 4, "patch": 2}})


def test_config_survives_a_round_trip():
    for config in VARIANTS.values():
        assert from_dict(to_dict(config)) == config
    assert variant("nano", vit=None).vit is None
    assert "vit" not in functional.abstract(variant("nano", vit=None))
