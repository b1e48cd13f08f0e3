"""Choosing tokens, stopping, and the bookkeeping of Euler steps."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.inference import toy
from unireason_jax.inference import cache as caches
from unireason_jax.inference import sampler, writing
from unireason_jax.inference.engine import Engine
from unireason_jax.inference.settings import FlowSettings, TextSettings
from unireason_jax.models import functional
from unireason_jax.rules.visibility import Visibility

pytestmark = pytest.mark.usefixtures("quick_compile")

MARKERS = Engine(toy.config(), None, toy.spec()).markers
VOCAB = toy.spec().tokenizer.vocab_size
ROOM = 12


def prompts(rows):
    """[bos, words, eos] of different length per row."""
    rng = np.random.default_rng(4)
    turns = [[MARKERS.bos, *rng.integers(20, VOCAB, 3 + r % 4), MARKERS.eos] for r in range(rows)]
    ids = np.zeros((rows, 8), np.int32)
    for row, turn in zip(ids, turns):
        row[: len(turn)] = turn
    return ids, np.array([len(turn) for turn in turns], np.int32)


def prefilled(ids, counts):
    cache = caches.empty(toy.config(), len(ids), 64)
    return sampler.prefill_text(
        toy.params(), cache, jnp.asarray(ids), jnp.asarray(counts), config=toy.config()
    )


def write(cache, seeds, *, temperature=0.0, top_p=1.0, limit=ROOM, active=None, markers=MARKERS):
    rows = cache.rows
    return writing.write_text(
        toy.params(),
        cache,
        jnp.asarray(np.ones(rows, bool) if active is None else active),
        jnp.asarray(seeds, jnp.uint32),
        jnp.int32(limit),
        jnp.float32(temperature),
        jnp.float32(top_p),
        config=toy.config(),
        markers=markers,
        vocab=VOCAB,
        max_tokens=ROOM,
        greedy=temperature == 0,
    )


@jax.jit
def _whole(params, ids):
    """Logits after every token of one causal text [1, T], without a cache."""
    model = functional.bind(toy.config(), params)
    order = jnp.arange(ids.shape[1], dtype=jnp.int32)[None]
    seen = Visibility(order, jnp.zeros_like(order), order, jnp.full_like(order, -1))
    nothing = jnp.zeros((1, 0, toy.config().llm.width))
    hidden, _, _ = model.decode(model.embed_text(ids), nothing, order, seen)
    return model.logits(hidden)[0, :, :VOCAB]


def naive(turn, limit):
    """Greedy text, hand-over and cut flag by recomputing everything for every token."""
    tokens, out = [*turn, MARKERS.bos], []
    while True:
        padded = np.zeros((1, 24), np.int32)
        padded[0, : len(tokens)] = tokens
        logits = np.asarray(_whole(toy.params(), jnp.asarray(padded)))[len(tokens) - 1]
        if tokens[-1] == MARKERS.eos and len(tokens) > len(turn):
            control = [MARKERS.bos, MARKERS.soi, MARKERS.eos]
            return out, control[int(np.argmax(logits[control]))]
        best = int(np.argmax(logits))
        if best == MARKERS.soi and len(out) < limit:
            return out, MARKERS.soi
        if len(out) >= limit:
            best = MARKERS.eos
        if best != MARKERS.eos:
            out.append(best)
        tokens.append(best)


def test_greedy_text_equals_recomputing_without_a_cache():
    ids, counts = prompts(3)
    cache, drawn = write(prefilled(ids, counts), [0, 0, 0], limit=7)
    for row in range(3):
        wanted, handover = naive(ids[row, : counts[row]].tolist(), 7)
        n = int(drawn.counts[row])
        assert np.asarray(drawn.ids[row, :n]).tolist() == wanted
        assert int(drawn.handover[row]) == handover
        assert bool(drawn.cut[row]) == (n == 7)
        assert int(cache.lengths[row]) == counts[row] + n + 2 == int(cache.positions[row])


def test_sampled_text_depends_on_the_seed_alone():
    ids, counts = prompts(4)
    hot = {"temperature": 2.0, "top_p": 0.9}
    _, together = write(prefilled(ids, counts), [7, 8, 9, 7], **hot)
    _, other = write(prefilled(ids[::-1], counts[::-1]), [7, 9, 8, 7], **hot)
    for row in range(4):
        for field in ("ids", "counts", "handover"):
            a, b = getattr(together, field)[row], getattr(other, field)[3 - row]
            np.testing.assert_array_equal(a, b)
    _, again = write(prefilled(ids, counts), [1, 2, 3, 4], **hot)
    assert not np.array_equal(together.ids, again.ids)


def test_a_tiny_nucleus_is_greedy():
    ids, counts = prompts(3)
    _, greedy = write(prefilled(ids, counts), [1, 2, 3])
    _, nucleus = write(prefilled(ids, counts), [1, 2, 3], temperature=5.0, top_p=1e-6)
    np.testing.assert_array_equal(greedy.ids, nucleus.ids)


def test_inactive_rows_stay_as_they_are():
    ids, counts = prompts(3)
    cache, drawn = write(prefilled(ids, counts), [0, 0, 0], active=np.array([True, False, True]))
    assert int(cache.lengths[1]) == counts[1] and int(drawn.counts[1]) == 0
    assert int(drawn.handover[1]) == writing.NEVER
    assert int(cache.lengths[0]) > counts[0]


def test_the_end_token_ends_a_row_at_once():
    ids, counts = prompts(2)
    first = naive(ids[0, : counts[0]].tolist(), 3)[0][0]
    markers = dataclasses.replace(MARKERS, eos=first)
    _, drawn = write(prefilled(ids, counts), [0, 0], markers=markers)
    assert int(drawn.counts[0]) == 0 and not bool(drawn.cut[0])


def test_nucleus_sampling_follows_the_distribution():
    logits = jnp.log(jnp.asarray([[0.5, 0.3, 0.15, 0.05]]))
    draw = jax.jit(
        jax.vmap(
            lambda s: writing._sample(
                logits, s[None], jnp.zeros(1, jnp.int32), jnp.float32(1), 0.9
            )[0]
        )
    )
    found = np.bincount(np.asarray(draw(jnp.arange(4000, dtype=jnp.uint32))), minlength=4) / 4000
    np.testing.assert_allclose(found, [0.5 / 0.95, 0.3 / 0.95, 0.15 / 0.95, 0.0], atol=0.03)


def test_segments_split_the_steps_at_the_guidance_interval():
    flow = FlowSettings(timesteps=50, shift=3.0, interval=(0.4, 1.0))
    assert flow.segments() == ((0, 41, True), (41, 49, False))
    assert flow.forwards(2) == 90 and flow.forwards(3) == 131 and flow.forwards(1) == 49
    middle = FlowSettings(timesteps=11, shift=1.0, interval=(0.25, 0.75)).segments()
    assert [on for _, _, on in middle] == [False, True, False]
    assert FlowSettings(timesteps=5, interval=(0.0, 1.0)).segments() == ((0, 4, True),)
    times = FlowSettings(timesteps=50, shift=3.0).times()
    np.testing.assert_allclose(
        times[[0, 1, 2, -2, -1]], [1, 0.993103, 0.986014, 0.058824, 0], atol=1e-6
    )


def test_seeds_are_stable():
    assert sampler.seed("a", 0, "image", 0) == sampler.seed("a", 0, "image", 0)
    names = {
        sampler.seed("prompt", n, kind, k) for n in range(9) for kind in "ab" for k in range(9)
    }
    assert len(names) == 162
    assert sampler.seed("a red circle", 0, "image", 0) == 2913986767


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: FlowSettings(timesteps=1), "timesteps"),
        (lambda: FlowSettings(shift=0.0), "shift"),
        (lambda: FlowSettings(renorm="local"), "local"),
        (lambda: TextSettings(temperature=-1.0), "temperature"),
        (lambda: TextSettings(top_p=0.0), "top_p"),
    ],
)
def test_settings_refuse_nonsense(make, word):
    with pytest.raises(ValueError, match=word):
        make()


def sorts(jaxpr):
    """Sorts of a program that run whatever its inputs are: not in the branches of a condition."""
    found = 0
    for equation in jaxpr.eqns:
        found += equation.primitive.name == "sort"
        if equation.primitive.name != "cond":
            parts = [part for part in equation.params.values() if hasattr(part, "jaxpr")]
            found += sum(sorts(part.jaxpr) for part in parts)
    return found


def test_all_tokens_are_kept_at_top_p_1_and_none_sorted():
    logits = jnp.asarray([[8.0, 0.0, -1.0, -30.0]])
    draw = functools.partial(
        writing._sample, logits, jnp.arange(1, dtype=jnp.uint32), jnp.zeros(1, jnp.int32)
    )
    traced = jax.make_jaxpr(draw)(jnp.float32(1), jnp.float32(1))
    assert sorts(traced.jaxpr) == 0 and "sort" in str(traced)
    many = jax.jit(
        jax.vmap(
            lambda s: writing._sample(
                logits, s[None], jnp.zeros(1, jnp.int32), jnp.float32(9), 1.0
            )[0]
        )
    )
    found = np.bincount(np.asarray(many(jnp.arange(4000, dtype=jnp.uint32))), minlength=4) / 4000
    np.testing.assert_allclose(found, np.asarray(jax.nn.softmax(logits[0] / 9)), atol=0.03)
