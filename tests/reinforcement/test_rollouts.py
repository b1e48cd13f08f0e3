"""What the sampler did is what a packed forward pass says again."""

import dataclasses

import jax
import numpy as np
import pytest

from tests.inference import toy as model
from tests.reinforcement import toy
from unireason_jax.inference import sampler, stochastic
from unireason_jax.inference.cache import empty
from unireason_jax.inference.settings import FlowSettings
from unireason_jax.reinforcement import objective, rows
from unireason_jax.rules import flow

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_compile")]


def test_one_forward_says_the_samplers_log_probabilities_again():
    stack, count = toy.pack()
    assert stack["text_weights"].sum() == pytest.approx(1, abs=1e-5)
    assert stack["move_weights"].sum() == pytest.approx(1, abs=1e-5)
    say = jax.jit(objective.say, static_argnames=("model", "policy", "vocab", "chunk"))
    options = {"model": model.config(), "policy": toy.POLICY, "vocab": toy.VOCAB, "chunk": 32}
    moved = 0
    for number in range(count):
        batch = {name: array[number] for name, array in stack.items()}
        said = say(model.params(), batch, **options)
        for ours, name in ((said.text, "text"), (said.moves, "move")):
            is_counted = batch[f"{name}_weights"] > 0
            theirs = batch[f"{name}_logps"][is_counted]
            np.testing.assert_allclose(ours[is_counted], theirs, atol=2e-5)
            moved += int(is_counted.sum())
    assert moved > 50


def test_the_arrays_of_a_pack_are_those_that_are_compiled_for():
    stack, _ = toy.pack()
    options = {"rows": toy.POLICY.rows, "image_tokens": toy.IMAGE_TOKENS}
    spec = rows.stack_spec(toy.POLICY.budgets, model.spec().patch_sizes, **options)
    assert {name: (x.shape[1:], x.dtype) for name, x in stack.items()} == {
        name: (shape[1:], dtype) for name, (shape, dtype) in spec.items()
    }


def test_a_trajectory_passes_to_another_process_bit_for_bit():
    for one in toy.played():
        found = rows.from_bytes(rows.to_bytes(one))
        for made, given in ((found, one), (found.sample, one.sample)):
            for field in dataclasses.fields(given):
                if field.name != "sample":
                    values = (getattr(x, field.name) for x in (made, given))
                    np.testing.assert_array_equal(*values, strict=True)
        assert rows.Outline.of(found) == rows.Outline.of(one)


def test_siblings_share_plan_and_draft_and_nothing_else():
    for group in toy.groups():
        given = [[s for s in one.trace.steps if s.given] for one in group]
        assert len({steps[1].text for steps in given}) == 1
        assert all(np.array_equal(steps[2].image, given[0][2].image) for steps in given)
        made = [[s.text for s in one.trace.steps if not s.given] for one in group]
        assert len({str(texts) for texts in made}) > 1


def test_without_noise_a_drawing_is_that_of_euler_steps():
    config, spec = model.config(), model.spec()
    reasoner = model.reasoner()
    settings = FlowSettings(timesteps=5, text_scale=1.0).program
    cache = empty(config, 2, 64)
    positions = np.tile(np.arange(9, dtype=np.int32), (2, 1))
    seeds = np.array([[3], [8]], np.uint32) * np.ones((1, 9), np.uint32)
    counts = np.array([9, 4], np.int32)
    noise = flow.token_noise(seeds, positions, spec.patch_sizes[1])
    fixed = {"config": config, "markers": reasoner.engine.markers, "settings": settings}
    ones = tuple(np.ones(2, np.float32) for _ in range(2))
    inputs = (cache,), noise, positions, counts, ones
    wanted, _ = sampler.draw_image(model.params(), *inputs, **fixed)
    inputs = (model.params(), cache, seeds, noise, positions, counts, np.int32(1))
    found, moves = stochastic.draw_moves(*inputs, np.float32(0), window=2, **fixed)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
    assert np.all(np.asarray(moves.logps) == 0)
    noisy, moves = stochastic.draw_moves(*inputs, np.float32(0.7), window=2, **fixed)
    assert np.abs(noisy - wanted).max() > 0.1
    assert np.all(np.asarray(moves.logps) < 0) and moves.points.shape == (3, 2, 9, 24)
