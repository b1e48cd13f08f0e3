"""The joint loss: chunked cross entropy, global denominators, exact accumulation, freezing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.batches import packed_batch
from unireason_jax.compilation import hlo
from unireason_jax.models import functional
from unireason_jax.models.config import variant
from unireason_jax.pods import batches, sharding
from unireason_jax.rules import flow
from unireason_jax.training import objective, optim, state
from unireason_jax.training.objective import LossConfig

pytestmark = pytest.mark.usefixtures("quick_compile")
MODEL = variant("nano")


@pytest.fixture(scope="module")
def params():
    # Zero-initialised heads would hide mistakes: give every leaf random values.
    drawn = jax.jit(lambda key: functional.init(MODEL, key))(jax.random.key(0))
    keys = iter(jax.random.split(jax.random.key(1), len(jax.tree.leaves(drawn))))
    return jax.tree.map(lambda x: x + 0.02 * jax.random.normal(next(keys), x.shape), drawn)


@pytest.fixture(scope="module")
def batch():
    return packed_batch(MODEL)


@functools.partial(jax.jit, static_argnames="microbatches")
def gradients(params, batch, microbatches=1):
    return objective.loss_and_grads(
        params, {}, batch, model=MODEL, loss=LossConfig(), microbatches=microbatches
    )


def plain_cross_entropy(hidden, kernel, labels, weights):
    logits = (hidden @ kernel).astype(jnp.float32)
    ce = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(labels, 0))
    hits = jnp.argmax(logits, axis=-1) == labels
    return jnp.sum(weights * ce), jnp.sum(weights * hits)


@pytest.mark.parametrize("chunk", [1, 4, 7, 64])
def test_chunked_cross_entropy_is_plain_cross_entropy(chunk):
    rng = np.random.default_rng(0)
    hidden = jnp.asarray(rng.normal(size=(3, 13, 8)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(8, 50)), jnp.float32)
    labels = jnp.asarray(rng.integers(-1, 50, (3, 13)), jnp.int32)
    weights = jnp.where(labels >= 0, jnp.asarray(rng.uniform(0.1, 2, (3, 13)), jnp.float32), 0.0)

    def chunked(hidden, kernel):
        loss, hits = objective.cross_entropy_sums(hidden, kernel, labels, weights, chunk, "float32")
        return 1.7 * loss, hits

    def plain(hidden, kernel):
        loss, hits = plain_cross_entropy(hidden, kernel, labels, weights)
        return 1.7 * loss, hits

    assert np.allclose(chunked(hidden, kernel), plain(hidden, kernel), rtol=1e-6)
    got, wanted = (
        jax.jit(jax.value_and_grad(f, argnums=(0, 1), has_aux=True))(hidden, kernel)
        for f in (chunked, plain)
    )
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted)):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("sizes", [{"data": 2, "fsdp": 4}, {"fsdp": 2, "tensor": 2, "context": 2}])
def test_the_head_s_gradient_is_sent_once_however_many_chunks(sizes):
    rng = np.random.default_rng(0)
    mesh = sharding.make_mesh(sizes)
    row = batches.batch_sharding(mesh)
    spec = sharding.fitted_spec((32, 256), ("embed", "vocab"), mesh.shape)
    stored = jax.sharding.NamedSharding(mesh, spec)
    hidden = jnp.asarray(rng.normal(size=(8, 24, 32)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(32, 256)), jnp.float32)
    labels = jnp.asarray(rng.integers(0, 256, (8, 24)), jnp.int32)
    weights = jnp.asarray(rng.uniform(size=(8, 24)), jnp.float32)

    def grad(chunk):
        def loss(h, k, y, w):
            return objective.cross_entropy_sums(h, k, y, w, chunk, "float32")[0]

        return jax.grad(loss, argnums=(0, 1))

    with jax.set_mesh(mesh):
        run = jax.jit(grad(4), in_shardings=(row, stored, row, row), out_shardings=(row, stored))
        compiled = run.lower(hidden, kernel, labels, weights).compile()
        placed = zip((hidden, kernel, labels, weights), (row, stored, row, row))
        spread = compiled(*(jax.device_put(x, place) for x, place in placed))
    alone = jax.jit(grad(24))(hidden, kernel, labels, weights)
    for a, b in zip(spread, alone):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    reductions = [
        sent
        for sent in hlo.parse(compiled.as_text()).collectives()
        if "reduce" in sent.kind and sent.wire_bytes >= kernel.nbytes / 8
    ]
    assert reductions and all(sent.runs == 1 for sent in reductions)
    assert sum(sent.wire_bytes for sent in reductions) <= 2 * kernel.nbytes


def test_chunked_cross_entropy_never_holds_all_logits():
    hidden = jax.ShapeDtypeStruct((1, 4096, 16), jnp.float32)
    kernel = jax.ShapeDtypeStruct((16, 4096), jnp.float32)
    labels = jax.ShapeDtypeStruct((1, 4096), jnp.int32)
    weights = jax.ShapeDtypeStruct((1, 4096), jnp.float32)

    def temporaries(chunk):
        def loss(h, k, labels, weights):
            return objective.cross_entropy_sums(h, k, labels, weights, chunk, "float32")[0]

        grad = jax.jit(jax.grad(loss, argnums=(0, 1)))
        compiled = grad.lower(hidden, kernel, labels, weights).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    whole = 4096 * 4096 * 4
    assert temporaries(4096) >= whole
    assert temporaries(128) < whole / 4


def test_loss_is_the_two_weighted_means(params, batch):
    loss = LossConfig(ce_weight=2.0, flow_weight=0.5, timestep_shift=3.0, ce_chunk=4)
    total, parts = jax.jit(functools.partial(objective.loss_fn, model=MODEL, loss=loss))(
        params, batch
    )
    sums = jax.jit(functools.partial(objective.loss_sums, model=MODEL, loss=loss))(params, batch)
    ce = sums["ce"] / batch["text_weights"].sum()
    mse = sums["flow"] / batch["latent_weights"].sum()
    np.testing.assert_allclose(parts["loss/ce"], ce, rtol=1e-6)
    np.testing.assert_allclose(total, 2.0 * ce + 0.5 * mse, rtol=1e-6)
    assert 0.5 * np.log(MODEL.llm.vocab) < ce < 3 * np.log(MODEL.llm.vocab)


def test_zero_velocity_head_scores_the_power_of_the_target(params, batch):
    silent = jax.tree.map(lambda x: x, params)
    silent["latent_out"] = jax.tree.map(jnp.zeros_like, params["latent_out"])
    parts, _ = gradients(silent, batch)
    noise = flow.token_noise(
        batch["noise_seeds"], batch["latent_positions"], batch["latents"].shape[-1]
    )
    power = np.mean(np.square(noise - batch["latents"]), axis=-1)
    wanted = np.average(power, weights=batch["latent_weights"])
    np.testing.assert_allclose(parts["loss/flow"], wanted, rtol=1e-5)


def test_a_batch_without_text_or_latent_loss_has_finite_loss_and_gradient(params, batch):
    for name in ("text_weights", "latent_weights"):
        without = batch | {name: np.zeros_like(batch[name])}
        metrics, grads = gradients(params, without)
        assert metrics["loss/ce" if name == "text_weights" else "loss/flow"] == 0
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(grads))


def test_accumulated_gradient_is_that_of_the_big_batch(params, batch):
    metrics, grads = gradients(params, batch)
    part_metrics, part_grads = gradients(params, batch, microbatches=2)
    np.testing.assert_allclose(part_metrics["loss"], metrics["loss"], rtol=1e-6)
    for a, b in zip(jax.tree.leaves(part_grads), jax.tree.leaves(grads)):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="must divide the batch's 4 rows"):
        gradients(params, batch, microbatches=3)


def test_order_of_rows_does_not_matter(params, batch):
    metrics, grads = gradients(params, batch)
    turned, turned_grads = gradients(params, {k: v[::-1] for k, v in batch.items()})
    np.testing.assert_allclose(turned["loss"], metrics["loss"], rtol=1e-6)
    for a, b in zip(jax.tree.leaves(turned_grads), jax.tree.leaves(grads)):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def make_step(config, **options):
    """(optimizer, compiled-on-call step) of a recipe."""
    optimizer = optim.make_optimizer(config, functional.logical_axes(MODEL))
    loss = LossConfig(**options)
    return optimizer, functools.partial(
        objective.train_step, model=MODEL, loss=loss, optimizer=optimizer
    )


@pytest.fixture(scope="module")
def one_device_step(params):
    batch = packed_batch(MODEL, rows=8)
    optimizer, step = make_step(optim.OptimConfig(lr=1e-2, eps=1e-3, ema=0.9), ce_chunk=4)
    return batch, *jax.jit(step)(state.new_state(params, optimizer), batch)


@pytest.mark.parametrize(
    "sizes",
    [{"fsdp": 8}, {"data": 2, "fsdp": 2, "tensor": 2}, {"data": 2, "fsdp": 2, "context": 2}],
)
def test_the_step_is_the_same_on_any_mesh(params, one_device_step, sizes):
    batch, alone, metrics = one_device_step
    optimizer, step = make_step(optim.OptimConfig(lr=1e-2, eps=1e-3, ema=0.9), ce_chunk=4)
    mesh = sharding.make_mesh(sizes)
    abstract = state.abstract_state(functional.abstract(MODEL), optimizer)
    places = state.state_shardings(mesh, abstract, functional.logical_axes(MODEL))
    with jax.set_mesh(mesh):
        placed = state.initialize(lambda: jax.device_get(params), optimizer, places)
        run = jax.jit(step, donate_argnums=0, out_shardings=(places, None))
        spread, spread_metrics = run(placed, batches.global_batch(mesh, batch))
    assert spread.params["head"]["kernel"].sharding == places.params["head"]["kernel"]
    for name in ("loss", "grad_norm"):
        np.testing.assert_allclose(spread_metrics[name], metrics[name], rtol=1e-4)
    for a, b in zip(jax.tree.leaves(spread.params), jax.tree.leaves(alone.params)):
        np.testing.assert_allclose(a, b, atol=2e-4)


def test_freezing_the_understanding_expert(params, batch):
    freeze = (r"^embed$", r"und", r"^vit/", r"^connector")
    optimizer, step = make_step(optim.OptimConfig(lr=1e-2, freeze=freeze, ema=0.9), detach_und=True)
    before = state.new_state(params, optimizer)
    after, metrics = jax.jit(step)(before, batch)
    old, new = optim.flatten(before.params), optim.flatten(after.params)
    frozen = optim.frozen_paths(old, freeze)
    for path in old:
        assert np.array_equal(old[path], new[path]) == (path in frozen), path
    assert metrics["tokens/text_loss"] == (batch["text_weights"] > 0).sum()
    moments = {x.shape for x in jax.tree.leaves(after.opt_state.inner) if x.ndim}
    assert old["embed"].shape not in moments


def test_a_loss_is_switched_off_after_its_updates(params, batch):
    loss = LossConfig(ce_weight=2.0, ce_until=5)
    assert loss.weights(None) == (2.0, 1.0)

    @jax.jit
    def gradients_after(updates):
        return objective.loss_and_grads(params, {}, batch, model=MODEL, loss=loss, updates=updates)

    for updates, weight in ((0, 2.0), (4, 2.0), (5, 0.0), (9, 0.0)):
        metrics, grads = gradients_after(jnp.int32(updates))
        joint = weight * metrics["loss/ce"] + metrics["loss/flow"]
        np.testing.assert_allclose(metrics["loss"], joint, rtol=1e-6)
        assert np.any(grads["head"]["kernel"]) == (weight > 0)
        assert np.any(grads["latent_out"]["kernel"])


def test_loss_falls_on_one_batch(params, batch):
    optimizer, step = make_step(optim.OptimConfig(lr=3e-3, eps=1e-8, ema=0.0))
    run, current = jax.jit(step), state.new_state(params, optimizer)
    losses = []
    for _ in range(40):
        current, metrics = run(current, batch)
        losses.append((float(metrics["loss/ce"]), float(metrics["loss/flow"])))
    assert losses[-1][0] < 0.3 * losses[0][0]
    assert losses[-1][1] < 0.9 * losses[0][1]
    assert int(current.step) == 40 and current.ema == {}
