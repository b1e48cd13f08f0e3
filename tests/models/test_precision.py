"""What a bfloat16 model computes in float32, read off its programs before they are compiled."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unireason_jax.models import functional
from unireason_jax.models.config import variant
from unireason_jax.rules.visibility import Visibility, build

CONFIG = variant("nano", dtype="bfloat16", attention="dense")
# Norms take rsqrt, attention exp, rotary and timestep features cos and sin.
SENSITIVE = {"rsqrt", "exp", "cos", "sin", "log", "reduce_max", "reduce_sum"}


def equations(jaxpr):
    """All equations of a program, those of scans, branches and calls included."""
    for eqn in jaxpr.eqns:
        yield eqn
        for value in eqn.params.values():
            for part in value if isinstance(value, list | tuple) else [value]:
                inner = getattr(part, "jaxpr", part)
                if hasattr(inner, "eqns"):
                    yield from equations(inner)


def floats(variables):
    """Dtypes of the floating variables among some."""
    dtypes = [v.aval.dtype for v in variables if hasattr(v.aval, "dtype")]
    return [d.name for d in dtypes if jnp.issubdtype(d, jnp.floating)]


@pytest.fixture(scope="module")
def program():
    """The forward pass over text, ViT patches and latents: embeddings, stack, both heads."""
    seen = build([4, 6, 6], ["causal", "full", "noise"])
    order = np.array([0, 1, 2, 3, 4, 9, 10, 15, 5, 6, 7, 8, 11, 12, 13, 14])
    seen = Visibility(*(jnp.asarray(x[order])[None] for x in seen))

    def forward(params, ids, patches, x_t, t):
        model = functional.bind(CONFIG, params)
        places = jnp.arange(4, dtype=jnp.int32)[None]
        vit = model.embed_vit(patches, places, jnp.zeros_like(places))
        und = jnp.concatenate([model.embed_text(ids), vit], axis=1)
        gen = model.embed_latents(x_t, t, places)
        und, gen, _ = model.decode(und, gen, jnp.asarray(order)[None], seen)
        return und, gen, model.logits(und), model.velocity(gen)

    shapes = (functional.abstract(CONFIG), jax.ShapeDtypeStruct((1, 8), jnp.int32))
    inputs = [(1, 4, 48), (1, 4, 16), (1, 4)]
    shapes += tuple(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in inputs)
    return jax.make_jaxpr(forward)(*shapes)


def test_outputs_are_float32(program):
    assert floats(program.jaxpr.outvars) == ["float32"] * 4


def test_norms_softmax_rotations_and_time_are_float32(program):
    met = set()
    for eqn in equations(program.jaxpr):
        if eqn.primitive.name in SENSITIVE:
            met.add(eqn.primitive.name)
            assert set(floats(eqn.invars)) <= {"float32"}, eqn
    assert {"rsqrt", "exp", "cos", "sin"} <= met


def test_the_residual_stream_is_float32(program):
    """The carry of the scan over the layers, of the language model and of the tower."""
    scans = [e for e in equations(program.jaxpr) if e.primitive.name == "scan"]
    sizes = []
    for scan in scans:
        ends = zip(scan.outvars, scan.params["jaxpr"].jaxpr.outvars)
        carry = [out for out, inner in ends if out.aval.shape == inner.aval.shape]
        assert floats(carry) == ["float32"] * len(carry)
        sizes.append(len(carry))
    assert sorted(sizes) == [1, 2]


def test_matmuls_take_bfloat16_and_sum_in_float32(program):
    products = [e for e in equations(program.jaxpr) if e.primitive.name == "dot_general"]
    assert len(products) > 20
    for eqn in products:
        assert set(floats(eqn.invars)) == {"bfloat16"}, eqn
    wide = [e for e in products if floats(e.outvars) == ["float32"]]
    # Scores and mixed values of both attentions, both heads, and what is added to a residual.
    assert len(wide) >= 8


def test_flow_and_autoencoder_are_float32():
    from unireason_jax.models import vae
    from unireason_jax.models.config import VAEConfig
    from unireason_jax.rules import flow

    config = VAEConfig(channels=32, multipliers=(1, 1), blocks=1, latents=4)
    params = jax.eval_shape(lambda key: vae.init(config, key), jax.random.key(0))
    image = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.bfloat16)
    mean, logvar = jax.eval_shape(lambda p, x: vae.moments(p, config, x), params, image)
    decoded = jax.eval_shape(lambda p, z: vae.decode(p, config, z), params, mean)
    half = jax.ShapeDtypeStruct((2, 3), jnp.float32)
    times = jax.eval_shape(lambda z: flow.timesteps(z, 4.0), half)
    assert {x.dtype.name for x in (mean, logvar, decoded, times)} == {"float32"}
