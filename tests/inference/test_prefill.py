"""What rows share is read once.

In a batch it is the same up to the rounding of sums, whose order depends on the shapes of a program
(see `Reasoner.run`); one at a time, with `exact` and in a server, to the bit.
"""

import jax
import numpy as np
import pytest

from tests.inference import toy
from unireason_jax.inference import prefill, sampler
from unireason_jax.inference.context import Context
from unireason_jax.inference.engine import Engine
from unireason_jax.inference.turns import image_turns, text_turn

pytestmark = pytest.mark.usefixtures("quick_compile")


@pytest.fixture(scope="module")
def engine():
    return Engine(toy.config(), toy.params(), toy.spec())


@pytest.fixture
def rows_read(monkeypatch):
    """Rows of every text that is read."""
    found, prefill_text = [], sampler.prefill_text

    def noted(params, cache, ids, counts, **how):
        found.append(len(ids))
        return prefill_text(params, cache, ids, counts, **how)

    monkeypatch.setattr(sampler, "prefill_text", noted)
    return found


def asked(number, picture=True):
    """A prompt, and a picture both ways; every call makes turns of its own."""
    rng = np.random.default_rng(number)
    found = [text_turn(rng.integers(4, 60, 9 + number))]
    image = rng.integers(0, 256, (24, 24, 3)).astype(np.uint8)
    return found + (image_turns(image, toy.spec(), gen=True, und=True) if picture else [])


def read(engine, *readings, share=True):
    """A context after readings {row: turns}, with what its rows wanted."""
    context, wanted = Context(engine, 4), []
    if not share:
        context.prefill = Alone(engine)
    for new in readings:
        wanted.append(context.read(new))
    return context, wanted


class Alone(prefill.Prefill):
    """Every row reads for itself."""

    append_shared = prefill.Prefill.append


def same(one, two):
    """That contexts hold the same, in slots that count."""
    lengths = one.cache.lengths
    for a, b in zip(jax.tree.leaves(one.cache), jax.tree.leaves(two.cache), strict=True):
        assert a.shape == b.shape
        for row, length in enumerate(lengths.tolist()):
            rows = (x[:, row, :, :length] if x.ndim == 5 else x[row] for x in (a, b))
            np.testing.assert_allclose(*rows, rtol=0, atol=1e-5)


def test_samples_of_a_prompt_read_it_once(engine, rows_read):
    shared, wanted = read(engine, {row: asked(0) for row in range(4)})
    assert rows_read == [1]
    apart, alone = read(engine, {row: asked(0) for row in range(4)}, share=False)
    assert rows_read == [1, 4] and wanted == alone and len(wanted[0]) == 4
    same(shared, apart)


def test_rows_that_read_nothing_stay_and_what_differs_is_read_apart(engine, rows_read):
    first = {row: asked(row, picture=False) for row in range(4)}
    then = {1: asked(7), 3: asked(7)}
    shared, _ = read(engine, first, then)
    assert rows_read == [4, 4]  # rows 1 and 3 have seen different prompts
    apart, _ = read(engine, first, then, share=False)
    same(shared, apart)
    rows_read.clear()
    first = {row: asked(row % 2, picture=False) for row in range(4)}
    shared, wanted = read(engine, first, then)
    assert rows_read == [2, 1]
    apart, alone = read(engine, first, then, share=False)
    assert wanted == alone and set(wanted[1]) == {1, 3}
    same(shared, apart)


def test_samples_of_a_prompt_one_at_a_time_read_it_once_with_the_same_bits(rows_read):
    model = toy.reasoner(exact=True, learned_stop=False)
    job = model.prepare("generate", "a red circle", preset="think_t2i")[0]
    apart = [dict(model.stream([(job, sample)], model.settings))[0] for sample in (0, 1)]
    together = model.run([job], samples=2)
    assert rows_read == [1, 1, 1]
    for one, other in zip(apart, together, strict=True):
        assert one.texts == other.texts
        np.testing.assert_array_equal(one.image, other.image)
