"""Schedules, AdamW against a float64 reference, freezing, averaging, and the guard."""

import dataclasses
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unireason_jax.models import functional
from unireason_jax.models.config import variant
from unireason_jax.training import optim
from unireason_jax.training.optim import OptimConfig

LOGICAL = {
    "und": {"kernel": ("layers", "embed", "mlp"), "scale": ("layers", "embed")},
    "gen": {"kernel": ("layers", "embed", "mlp"), "bias": ("mlp",)},
}


def make_params(seed=0):
    rng = np.random.default_rng(seed)
    shapes = {
        "und": {"kernel": (2, 4, 6), "scale": (2, 4)},
        "gen": {"kernel": (2, 4, 6), "bias": (6,)},
    }
    return jax.tree.map(
        lambda s: jnp.asarray(rng.normal(size=s), jnp.float32),
        shapes,
        is_leaf=lambda s: isinstance(s, tuple),
    )


def run(optimizer, params, gradients, losses=None):
    """Applies the gradients one after another; returns parameters, state, average, metrics."""
    trainable, frozen = optimizer.split(params)
    opt_state, ema, metrics = optimizer.init(params), optimizer.init_ema(params), []
    for n, grads in enumerate(gradients):
        trainable, opt_state, ema, m = optimizer.update(
            trainable=trainable,
            opt_state=opt_state,
            ema=ema,
            grads=optimizer.split(grads)[0],
            loss=jnp.float32(losses[n] if losses else 1.0),
        )
        metrics.append(m)
    return optim.merge(trainable, frozen), opt_state, ema, metrics


def test_flatten_split_merge_round_trip():
    params = make_params()
    assert set(optim.flatten(params)) == {"und/kernel", "und/scale", "gen/kernel", "gen/bias"}
    trainable, frozen = optim.split(params, ("^und/",))
    assert set(optim.flatten(trainable)) == {"gen/kernel", "gen/bias"}
    assert set(optim.flatten(frozen)) == {"und/kernel", "und/scale"}
    assert jax.tree.all(jax.tree.map(lambda a, b: a is b, optim.merge(trainable, frozen), params))


def test_freeze_patterns_that_cannot_be_meant_are_refused():
    with pytest.raises(ValueError, match="matches no parameter; paths look like gen/bias"):
        optim.make_optimizer(OptimConfig(freeze=("^vit/",)), LOGICAL)
    with pytest.raises(ValueError, match="nothing is left to train"):
        optim.make_optimizer(OptimConfig(freeze=("und", "gen")), LOGICAL)


def test_leaves_stand_still_from_an_update_on():
    gradients = [make_params(seed) for seed in (1, 2, 3, 4)]
    config = OptimConfig(lr=0.1, weight_decay=0.1, ema=0.0, clip_norm=0.0)
    switched = dataclasses.replace(config, freeze_from=(("^und/", 2),))
    start = make_params()
    (two, *_), (free, *_), (four, _, _, metrics) = (
        run(optim.make_optimizer(c, LOGICAL), start, given)
        for c, given in ((config, gradients[:2]), (config, gradients), (switched, gradients))
    )
    for name in ("kernel", "scale"):
        np.testing.assert_array_equal(four["und"][name], two["und"][name])
    for name in ("kernel", "bias"):  # without clipping the rest never notices
        np.testing.assert_array_equal(four["gen"][name], free["gen"][name])
    whole, gen = (
        math.sqrt(sum(float((x**2).sum()) for x in jax.tree.leaves(tree)))
        for tree in (gradients[1], gradients[2]["gen"])
    )
    np.testing.assert_allclose([m["grad_norm"] for m in metrics[1:3]], [whole, gen], rtol=1e-5)
    with pytest.raises(ValueError, match=r"'vit' matches no parameter"):
        optim.make_optimizer(dataclasses.replace(config, freeze_from=(("vit", 2),)), LOGICAL)


def test_schedules():
    constant = optim.learning_rate(OptimConfig(lr=1e-4, warmup_steps=4))
    np.testing.assert_allclose([constant(n) for n in (0, 1, 4, 99)], [0, 2.5e-5, 1e-4, 1e-4])
    config = OptimConfig(lr=2e-5, schedule="cosine", warmup_steps=10, total_steps=110, min_lr=1e-6)
    cosine = optim.learning_rate(config)
    m = config.min_lr / config.lr
    for n in (10, 35, 60, 109):
        factor = (1 - m) * 0.5 * (1 + math.cos(math.pi * (n - 10) / 100)) + m
        np.testing.assert_allclose(cosine(n), 2e-5 * factor, rtol=1e-5)
    np.testing.assert_allclose([cosine(110), cosine(200), cosine(10_000)], 1e-6, rtol=1e-4)
    assert cosine(0) == 0


def reference_adamw(params, gradients, *, lr, b1, b2, eps, decay, clip, ema):
    """Torch's AdamW with clipping and an average of the weights, in float64."""
    p = {k: np.float64(v) for k, v in params.items()}
    m, v = ({k: np.zeros_like(x) for k, x in p.items()} for _ in range(2))
    average = dict(p)
    for t, grads in enumerate(gradients, 1):
        norm = math.sqrt(sum(float((np.float64(g) ** 2).sum()) for g in grads.values()))
        scale = min(1.0, clip / norm)
        for k in p:
            g = np.float64(grads[k]) * scale
            m[k] = b1 * m[k] + (1 - b1) * g
            v[k] = b2 * v[k] + (1 - b2) * g**2
            step = (m[k] / (1 - b1**t)) / (np.sqrt(v[k] / (1 - b2**t)) + eps)
            p[k] = p[k] - lr * (step + decay * p[k] * k.endswith("kernel"))
            average[k] = ema * average[k] + (1 - ema) * p[k]
    return p, average


def test_adamw_clip_decay_and_average_follow_the_formula():
    params = make_params()
    gradients = [make_params(seed) for seed in (1, 2, 3)]
    config = OptimConfig(lr=1e-2, weight_decay=0.1, ema=0.9, clip_norm=2.0)
    got, _, ema, metrics = run(optim.make_optimizer(config, LOGICAL), params, gradients)
    flat = [{k: np.asarray(v) for k, v in optim.flatten(g).items()} for g in gradients]
    start = {k: np.asarray(v) for k, v in optim.flatten(params).items()}
    wanted, average = reference_adamw(
        start, flat, lr=1e-2, b1=0.9, b2=0.95, eps=1e-15, decay=0.1, clip=2.0, ema=0.9
    )
    for name, value in optim.flatten(got).items():
        np.testing.assert_allclose(value, wanted[name], rtol=1e-5, atol=1e-6, err_msg=name)
        np.testing.assert_allclose(
            optim.flatten(ema)[name], average[name], rtol=1e-5, atol=1e-6, err_msg=name
        )
    norm = math.sqrt(sum((g**2).sum() for g in flat[0].values()))
    np.testing.assert_allclose(metrics[0]["grad_norm"], norm, rtol=1e-5)


def test_decay_shrinks_matrices_and_embeddings_of_the_real_tree_and_nothing_else():
    model = variant("nano")
    config = OptimConfig(lr=0.1, weight_decay=0.5, ema=0.0, clip_norm=0.0)
    optimizer = optim.make_optimizer(config, functional.logical_axes(model))
    ones = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), functional.abstract(model))
    still = jax.tree.map(jnp.zeros_like, ones)
    moved = jax.jit(lambda p: run(optimizer, p, [still])[0])(ones)
    chex.assert_trees_all_equal_shapes_and_dtypes(moved, ones)
    shrunk = {path for path, leaf in optim.flatten(moved).items() if float(leaf.max()) < 1}
    kept = {path for path, leaf in optim.flatten(moved).items() if float(leaf.min()) == 1}
    assert shrunk | kept == set(optim.flatten(ones))
    attention = {f"stack/blocks/und/{name}" for name in ("query", "key", "value", "out")}
    assert {"embed", "head/kernel", "vit/patch/kernel"} <= shrunk
    assert {f"{name}/kernel" for name in attention} <= shrunk
    assert {f"{name}/bias" for name in attention if not name.endswith("out")} <= kept
    assert {"vit/position", "stack/und_norm/scale", "stack/blocks/gen/key_norm/scale"} <= kept
    for path in kept:
        assert any(word in path for word in ("bias", "scale", "position")), path


def test_frozen_leaves_have_no_moments_and_do_not_move():
    params = make_params()
    optimizer = optim.make_optimizer(OptimConfig(lr=0.1, freeze=("^und/",), ema=0.5), LOGICAL)
    got, opt_state, ema, _ = run(optimizer, params, [make_params(1), make_params(2)])
    assert np.array_equal(got["und"]["kernel"], params["und"]["kernel"])
    assert not np.array_equal(got["gen"]["kernel"], params["gen"]["kernel"])
    sizes = [x.size for x in jax.tree.leaves(opt_state.inner) if x.ndim]
    trainable = params["gen"]["kernel"].size + params["gen"]["bias"].size
    assert sum(sizes) == 2 * trainable
    assert set(ema) == {"gen"}


@pytest.mark.parametrize("bad", ["gradient", "loss"])
def test_a_non_finite_step_changes_nothing_but_the_counters(bad):
    params, good = make_params(), make_params(1)
    broken = jax.tree.map(lambda x: x, good)
    if bad == "gradient":
        broken["gen"]["bias"] = broken["gen"]["bias"].at[0].set(jnp.inf)
    optimizer = optim.make_optimizer(OptimConfig(lr=0.1, ema=0.9), LOGICAL)
    losses = [1.0, 1.0, float("nan") if bad == "loss" else 1.0, 1.0]
    with_bad = run(optimizer, params, [good, good, broken, good], losses)
    without = run(optimizer, params, [good, good, good])
    for a, b in zip(
        jax.tree.leaves(with_bad[:1] + with_bad[2:3]), jax.tree.leaves(without[:1] + without[2:3])
    ):
        np.testing.assert_array_equal(a, b)
    assert [float(m["skipped"]) for m in with_bad[3]] == [0, 0, 1, 1]
    assert [float(m["consecutive_skips"]) for m in with_bad[3]] == [0, 0, 1, 0]
    assert int(with_bad[1].accepted) == 3


def test_a_spike_is_skipped_once_the_window_is_full():
    params, good = make_params(), make_params(1)
    spike = jax.tree.map(lambda x: 50 * x, good)
    config = OptimConfig(lr=0.1, spike_factor=10.0, spike_window=3)
    optimizer = optim.make_optimizer(config, LOGICAL)
    *_, metrics = run(optimizer, params, [good, spike, good, spike, good, spike])
    # The second gradient is accepted: the window [n, 50 n, ...] is not full yet.
    assert [float(m["skipped"]) for m in metrics] == [0, 0, 0, 1, 1, 2]


def test_config_values_are_checked():
    with pytest.raises(ValueError, match="'constant' or 'cosine'"):
        OptimConfig(schedule="linear")
    with pytest.raises(ValueError, match="must be in"):
        OptimConfig(ema=1.0)
