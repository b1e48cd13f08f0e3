"""Sampler and trainer are the same: a finished conversation, replayed through the cache, gives the
training forward's tokens, positions, logits and velocities."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.inference import toy
from unireason_jax.data.bagel.tokens import copies, latent_tokens, text_tokens, tokenize, vit_tokens
from unireason_jax.data.rows import Budgets, assemble
from unireason_jax.data.samples import LATENT, TEXT, VIT
from unireason_jax.data.templates import TEMPLATES
from unireason_jax.inference import cache as caches
from unireason_jax.inference import sampler
from unireason_jax.inference.engine import Engine
from unireason_jax.models import functional
from unireason_jax.rules import flow
from unireason_jax.rules.visibility import NOISED, Visibility
from unireason_jax.world.tasks import example

pytestmark = pytest.mark.usefixtures("quick_compile")

BUDGETS = Budgets(text=256, vit=64, latent=112)
WORLD = {"think_t2i": "think_knowledge", "t2i": "knowledge"}  # templates told by another task


def repaired(raw):
    """Whether an example has the branches that few have: a round, a wrong step or picture."""
    steps = raw.get("steps", ())
    wrong = not steps or any(step["refine"] is not None for step in steps)
    return bool(raw.get("rounds", True)) and wrong and raw.get("refine", "") is not None


def conversation(name):
    """A finished record of a template, told by the world."""
    if name == "multi_edit":
        first, then = (example(3, index, "edit", side=toy.SIDE) for index in range(2))
        hops = [
            {"instruction": e["instruction"], "image": e["output_image"]} for e in (first, then)
        ]
        return TEMPLATES[name]({"id": name, "input_image": first["input_image"], "hops": hops})
    if name == "vqa":
        turns = [example(3, index, "vqa", side=toy.SIDE) for index in range(3)]
        turns[1] = turns[1] | {"image": [turns[1]["image"], turns[0]["image"]]}
        turns[2] = {key: turns[2][key] for key in ("question", "answer")}
        return TEMPLATES[name]({"id": name, "turns": turns})
    found = (example(3, index, WORLD.get(name, name), side=toy.SIDE) for index in range(100))
    return TEMPLATES[name](next(filter(repaired, found)))


@jax.jit
def _forward(params, b):
    model = functional.bind(toy.config(), params)
    und = [model.embed_text(b["text_ids"])]
    und.append(model.embed_vit(b["vit_patches"], b["vit_positions"], b["vit_images"]))
    t = flow.timesteps(b["latent_logits"], 2.0)
    noise = flow.token_noise(b["noise_seeds"], b["latent_positions"], b["latents"].shape[-1])
    x_t = flow.interpolate(b["latents"], noise, t)
    gen = model.embed_latents(x_t, t, b["latent_positions"])
    seen = Visibility(b["vis_key"], b["vis_lo"], b["vis_hi"], b["vis_own"])
    und_h, gen_h, _ = model.decode(jnp.concatenate(und, 1), gen, b["positions"], seen)
    return model.logits(und_h), model.velocity(gen_h), x_t, t


def one_shot(row):
    """Of the training forward of a packed row: logits, velocities, noised latents and times."""
    return _forward(toy.params(), {k: jnp.asarray(v)[None] for k, v in row.items()})


MARKERS = Engine(toy.config(), None, toy.spec()).markers


@jax.jit
def _text(params, cache, ids, counts):
    model = functional.bind(toy.config(), params)
    cache, hidden = caches.append_text(model, cache, ids, counts)
    return cache, model.logits(hidden)


@jax.jit
def _noised(params, cache, x_t, t, positions, counts):
    model = functional.bind(toy.config(), params)
    return caches.read_noised(model, cache, x_t, t, positions, counts, MARKERS)


class Replay:
    """Two rows of one cache: the conversation, and an empty one that must stay empty."""

    def __init__(self):
        self.cache = caches.empty(toy.config(), 2, 384)

    def text(self, ids):
        padded, counts = self._padded(ids, 48)
        self.cache, logits = _text(toy.params(), self.cache, padded, counts)
        return logits[0, : len(ids)]

    def image(self, stream, tokens, positions):
        prefill = sampler.prefill_vit if stream == VIT else sampler.prefill_latents
        padded, counts = self._padded(tokens, 12)
        places, _ = self._padded(positions, 12)
        fixed = {"config": toy.config(), "markers": MARKERS}
        self.cache, _ = prefill(toy.params(), self.cache, padded, places, counts, **fixed)

    def noised(self, x_t, t, positions):
        padded, counts = self._padded(x_t, 12)
        places, _ = self._padded(positions, 12)
        times = jnp.full(2, t)
        found = _noised(toy.params(), self.cache, padded, times, places, counts)
        return found[0, : len(positions)]

    def _padded(self, array, length):
        """The array as first of two rows, padded with zeros, and the rows' counts."""
        array = np.asarray(array)
        padded = np.zeros((2, length, *array.shape[1:]), array.dtype)
        padded[0, : len(array)] = array
        return jnp.asarray(padded), jnp.asarray([len(array), 0])


@pytest.mark.parametrize("name", TEMPLATES)
def test_replay_equals_the_training_forward(name):
    record, spec = conversation(name), toy.spec()
    sequence = tokenize(record, spec, np.random.default_rng(5))
    row = assemble([sequence], BUDGETS, spec.patch_sizes)
    logits, velocities, x_t, t = (np.asarray(x[0]) for x in one_shot(row))
    replay, text_at, latent_at, targets = Replay(), 0, 0, 0
    for segment in record.segments:
        for stream, mode in copies(segment, spec):
            rotary = int(replay.cache.positions[0])
            if stream == TEXT:
                ids = text_tokens(segment, spec)
                part = slice(text_at, text_at + len(ids))
                np.testing.assert_array_equal(ids, row["text_ids"][part])
                wanted = rotary + np.arange(len(ids))
                np.testing.assert_array_equal(wanted, row["positions"][part])
                np.testing.assert_allclose(replay.text(ids), logits[part], atol=1e-5)
                text_at += len(ids)
                continue
            ends = [MARKERS.soi, MARKERS.eoi]
            np.testing.assert_array_equal(row["text_ids"][text_at : text_at + 2], ends)
            np.testing.assert_array_equal(row["positions"][text_at : text_at + 2], rotary)
            text_at += 2
            make = vit_tokens if stream == VIT else latent_tokens
            tokens, positions = make(segment.image, spec)
            part = slice(latent_at, latent_at + len(positions))
            if stream == LATENT:
                first = BUDGETS.text + BUDGETS.vit
                np.testing.assert_array_equal(row["positions"][first:][part], rotary)
                latent_at += len(positions)
            if mode == NOISED:
                found = replay.noised(x_t[part], t[part][0], positions)
                np.testing.assert_allclose(found, velocities[part], atol=1e-5)
                targets += 1
            else:
                replay.image(stream, tokens, positions)
    assert text_at == sequence.lengths[0] and latent_at == sequence.lengths[2]
    assert targets == sum(segment.loss == "flow" for segment in record.segments)
    assert int(replay.cache.lengths[1]) == int(replay.cache.positions[1]) == 0


def test_a_dropped_image_moves_positions_as_in_training():
    record = conversation("think_edit")
    spec = dataclasses.replace(toy.spec(), dropout=(0.0, 1.0, 1.0))
    row = assemble([tokenize(record, spec, np.random.default_rng(0))], BUDGETS, spec.patch_sizes)
    replay = Replay()
    wanted, at = row["positions"], 0
    for segment in record.segments[:-1]:
        if segment.kind == "image":
            both = jnp.asarray([2, 0])
            replay.cache = caches.advance(replay.cache, both)
            continue
        ids = text_tokens(segment, spec)
        assert wanted[at] == int(replay.cache.positions[0])
        replay.text(ids)
        at += len(ids)
    assert wanted[at] == int(replay.cache.positions[0])
