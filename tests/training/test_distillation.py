"""A student's target is where the sampler's guided steps lead, in packed rows, to rounding."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.inference import toy
from tests.inference.test_identity import BUDGETS, conversation
from unireason_jax.data.bagel.tokens import latent_tokens, tokenize
from unireason_jax.data.rows import assemble, stack
from unireason_jax.inference import guidance as poorer
from unireason_jax.inference.context import Context
from unireason_jax.inference.engine import Engine
from unireason_jax.inference.integration import integrate
from unireason_jax.inference.settings import FlowSettings
from unireason_jax.inference.turns import has_image, image_turns, text_turn
from unireason_jax.models import functional
from unireason_jax.rules import flow
from unireason_jax.training import distillation, objective
from unireason_jax.training.distillation import Distillation, Guidance
from unireason_jax.training.objective import LossConfig

pytestmark = pytest.mark.usefixtures("quick_compile")

MARKERS = toy.spec().tokenizer.soi, toy.spec().tokenizer.eoi
NAMES = ("think_t2i", "think_edit", "refine_t2i", "edit")
PLAIN = {"text_free": "all", "timesteps": 5}
WAYS = {
    "one step, text": FlowSettings(
        text_scale=3.0, shift=2.0, interval=(0.0, 1.0), renorm="none", **PLAIN
    ),
    "interval, both": FlowSettings(
        text_scale=3.0, image_scale=2.0, interval=(0.6, 0.95), renorm="global", **PLAIN
    ),
    "text_channel, both": FlowSettings(
        text_scale=2.0,
        image_scale=1.5,
        interval=(0.0, 1.0),
        renorm="text_channel",
        renorm_min=0.2,
        image_free="texts",
        **PLAIN,
    ),
    "channel, both": FlowSettings(
        text_scale=4.0, image_scale=2.0, interval=(0.3, 1.0), renorm="channel", **PLAIN
    ),
}
SUBSTEPS = {"one step, text": 1}


def learned(settings, substeps):
    """What a student learns that does `substeps` steps of these settings in one of its own."""
    names = [field.name for field in dataclasses.fields(Guidance)]
    own = Guidance(**{name: getattr(settings, name) for name in names})
    steps = (settings.timesteps - 1) // substeps
    return Distillation(steps, substeps, settings.shift, MARKERS, own, own)


@functools.cache
def records():
    return [conversation(name) for name in NAMES]


def packed():
    """Two rows of two records each; every target stands at t = 1, where a drawing begins."""
    spec, rng = toy.spec(), np.random.default_rng(3)
    samples = [tokenize(record, spec, rng) for record in records()]
    rows = [assemble(samples[:2], BUDGETS, spec.patch_sizes)]
    rows.append(assemble(samples[2:], BUDGETS, spec.patch_sizes))
    batch = stack(rows)
    logits = batch["latent_logits"]
    return batch | {"latent_logits": np.where(np.isfinite(logits), np.float32(9), logits)}


def targets(record):
    """Numbers of the segments that are drawn."""
    return [n for n, segment in enumerate(record.segments) if segment.loss == "flow"]


def first_target(batch, number):
    """Row and latent places of the first target of record `number`."""
    row, seeds = number // 2, batch["noise_seeds"][number // 2]
    found = list(dict.fromkeys(seeds[seeds > 0].tolist()))
    counts = [len(targets(record)) for record in records()[2 * row : 2 * row + 2]]
    assert len(found) == sum(counts)
    return row, np.flatnonzero(seeds == found[number % 2 * counts[0]])


def taught(batch, how):
    make = functools.partial(distillation.taught, model=toy.config(), how=how)
    return jax.jit(make)(toy.params(), batch)


def sampled(record, settings, noise, substeps):
    """(x_1 - x_t') / (1 - t') of the first `substeps` steps of the sampler."""
    spec, seen, engine = toy.spec(), [], Engine(toy.config(), toy.params(), toy.spec())
    drawn = targets(record)[0]
    for segment in record.segments[:drawn]:
        if segment.kind == "text":
            ids = spec.tokenizer.encode(segment.content)
            seen.append(text_turn([engine.markers.bos, *ids, engine.markers.eos], segment.role))
        else:
            shown = {"gen": segment.gen, "und": segment.und, "role": segment.role}
            seen += image_turns(segment.image, spec, **shown)
    settings, guides = poorer.guides(settings, seen, {}, spec)
    assert len(guides) == (settings.text_scale > 1) * (
        1 + (has_image(seen) and settings.image_scale > 1)
    )
    context = Context(engine, 1)
    context.read({0: seen})
    branches = context.branches([0], {0: 0}, [{0: guide} for guide in guides])
    places = jnp.asarray(latent_tokens(record.segments[drawn].image, spec)[1])[None]
    scales = tuple(jnp.full(1, scale, jnp.float32) for scale in settings.scales)

    @jax.jit
    def draw(params, branches, noise, places):
        model = functional.bind(toy.config(), params)
        counts = jnp.full(1, places.shape[1], jnp.int32)
        fixed = {"markers": engine.markers, "settings": settings.program}
        return integrate(model, branches, noise, places, counts, scales, **fixed).velocities

    velocities, times = (
        np.asarray(draw(toy.params(), branches, noise[None], places)),
        settings.times(),
    )
    lengths = (times[:-1] - times[1:])[:substeps, None, None]
    return np.sum(velocities[:substeps, 0] * lengths, axis=0) / lengths.sum()


@pytest.mark.parametrize("way", [way for way in WAYS if way != "channel, both"])
def test_a_student_learns_where_the_sampler_goes(way):
    settings, substeps, batch = WAYS[way], SUBSTEPS.get(way, 2), packed()
    found = taught(batch, learned(settings, substeps))
    for number, record in enumerate(records()):
        row, places = first_target(batch, number)
        noise = found["noise"][row, places]
        wanted = sampled(record, settings, noise, substeps)
        np.testing.assert_array_equal(found["times"][row, places], 1.0)
        np.testing.assert_allclose(found["target"][row, places], wanted, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("branch", ["without_words", "without_images"])
def test_every_branch_of_the_guidance_is_in_the_target(branch, monkeypatch):
    """A branch that were the full context, as a cache might give it, moves the target."""
    how, batch = learned(WAYS["channel, both"], 2), packed()
    true, contexts = taught(batch, how), distillation.contexts

    def dropped(*args):
        views = contexts(*args)
        return views | {branch: views["full"]}

    monkeypatch.setattr(distillation, "contexts", dropped)
    other = taught(batch, how)
    for number, name in enumerate(NAMES):
        row, places = first_target(batch, number)
        change = np.abs(true["target"] - other["target"])[row, places].max()
        is_read = branch == "without_words" or name != "think_t2i"
        assert change > 1e-3 if is_read else change < 1e-5, (name, change)


def test_times_of_a_student_are_those_it_draws_at_and_clean_tokens_stay_clean():
    how = Distillation(4, 3, 3.0, MARKERS)
    z = np.concatenate([np.random.default_rng(0).normal(size=4000), [-np.inf]])
    times = np.asarray(how.times(jnp.asarray(z[None], jnp.float32)))[:, 0]
    grid = FlowSettings(timesteps=5, shift=3.0).times()
    found, count = np.unique(times[0, :-1], return_counts=True)
    np.testing.assert_allclose(found, grid[:-1][::-1], rtol=1e-6)
    assert count.min() > 900
    np.testing.assert_array_equal(times[:, -1], 0.0)
    whole = FlowSettings(timesteps=13, shift=3.0).times()
    for t in range(4):
        chosen = times[:, :-1][:, np.isclose(times[0, :-1], grid[t])][:, 0]
        np.testing.assert_allclose(chosen, whole[3 * t : 3 * t + 4], atol=1e-6)


def test_guidance_alone_is_learned_at_the_times_of_training():
    batch, settings = packed(), WAYS["one step, text"]
    rng = np.random.default_rng(0)
    logits = batch["latent_logits"]
    batch["latent_logits"] = np.where(logits > 0, rng.normal(size=(2, 1)), logits).astype("f4")
    how = dataclasses.replace(learned(settings, 1), steps=0)
    found = taught(batch, how)
    np.testing.assert_allclose(
        found["times"], flow.timesteps(jnp.asarray(batch["latent_logits"]), how.shift), atol=1e-6
    )
    unguided = taught(batch, dataclasses.replace(how, draw=Guidance(), edit=Guidance()))
    plain = objective.loss_sums(
        toy.params(), unguided, model=toy.config(), loss=LossConfig(timestep_shift=how.shift)
    )
    assert float(plain["flow"]) < 1e-6  # without guidance the teacher is its own student
    guided = objective.loss_sums(
        toy.params(), found, model=toy.config(), loss=LossConfig(timestep_shift=how.shift)
    )
    assert float(guided["flow"]) > 1e-2


@pytest.mark.parametrize(
    "values, told",
    [
        ({"substeps": 2, "steps": 0}, "several substeps need steps"),
        ({"substeps": 0}, "substeps must be 1 or more"),
        ({"shift": 0.0}, "shift above 0"),
    ],
)
def test_what_cannot_be_learned_is_refused(values, told):
    with pytest.raises(ValueError, match=told):
        Distillation(**{"steps": 4, "substeps": 2, "shift": 1.0, "markers": MARKERS} | values)
