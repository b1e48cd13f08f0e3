"""Prefill and greedy decoding against the official model, through the batched cache."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.inference.golden import Golden
from unireason_jax.inference import cache as caches
from unireason_jax.inference import writing
from unireason_jax.models import functional

pytestmark = pytest.mark.usefixtures("quick_compile")


@pytest.fixture(scope="module")
def golden(goldens):
    return Golden(goldens, "textgen")


def context(golden, case):
    cache = golden.empty()
    for op in golden.meta["cases"][case]:
        if op["op"] == "text":
            cache = golden.text(cache, [op["ids"]])
            continue
        if op["vae"]:
            cache = golden.latents(cache, "in.image_vae_0", "in.vae_noise_0")
        if op["vit"]:
            cache = golden.vit(cache, "in.image_vit_0")
    return cache


@functools.partial(jax.jit, static_argnames="config")
def step(params, cache, token, *, config):
    model = functional.bind(config, params)
    ones = jnp.ones(token.shape[0], jnp.int32)
    cache, hidden = caches.append_text(model, cache, token[:, None], ones)
    return cache, model.logits(hidden[:, 0])


def logits_along(golden, cache, tokens):
    """[steps, B, V]: what the model predicts after each of the given tokens [steps, B]."""
    out = []
    for token in tokens:
        token = jnp.asarray(token, jnp.int32)
        cache, logits = step(golden.params, cache, token, config=golden.config)
        out.append(logits)
    return np.stack(out)


def written(golden, cache, eos, limit):
    """Greedy text [tokens per row], with `eos` as the end token."""
    markers = dataclasses.replace(golden.markers, eos=eos, soi=-1)
    rows = cache.rows
    _, drawn = writing.write_text(
        golden.params,
        cache,
        jnp.ones(rows, bool),
        jnp.zeros(rows, jnp.uint32),
        jnp.int32(limit),
        jnp.float32(0),
        jnp.float32(1),
        config=golden.config,
        markers=markers,
        vocab=golden.config.llm.vocab,
        max_tokens=32,
        greedy=True,
    )
    return [np.asarray(drawn.ids[row, : drawn.counts[row]]) for row in range(rows)], drawn


@pytest.mark.parametrize("case", ["text_only", "vae_vit_text", "vit_text"])
def test_logits_and_greedy_tokens(golden, case):
    cache = context(golden, case)
    golden.check_context(cache, f"out.{case}")
    for layer in range(golden.config.llm.layers):
        length = int(cache.lengths[0])
        k, v = (x[layer, 0, :, :length].swapaxes(0, 1) for x in (cache.k, cache.v))
        golden.close(k, f"out.{case}.prefill.k_layer{layer}")
        golden.close(v, f"out.{case}.prefill.v_layer{layer}")
    tokens = golden.tensors[f"out.{case}.tokens"]
    golden.close(logits_along(golden, cache, tokens), f"out.{case}.logits")
    ids, drawn = written(golden, cache, eos=-1, limit=16)
    assert ids[0].tolist() == tokens[1:, 0].tolist()
    assert bool(drawn.cut[0])


def test_rows_of_different_length_share_a_batch(golden):
    prompts = golden.meta["batch2"]
    cache = golden.text(golden.empty(rows=2), prompts)
    for row in range(2):
        golden.check_context(cache, "out.batch2", row)
    tokens = golden.tensors["out.batch2.tokens"]
    golden.close(logits_along(golden, cache, tokens), "out.batch2.logits")
    ids, _ = written(golden, cache, eos=-1, limit=16)
    assert np.stack(ids, 1).tolist() == tokens[1:].tolist()


def test_stops_at_the_end_token_and_predicts_what_follows(golden):
    eos = int(golden.tensors["out.stop_bagel.end_token_id"])
    before = golden.tensors["out.stop_bagel.tokens"][1:, 0].tolist()
    key = "out.stop_unireason.post_eos_logits_if_computed_correctly"
    cache = context(golden, "text_only")
    ids, drawn = written(golden, jax.tree.map(jnp.copy, cache), eos=eos, limit=16)
    assert ids[0].tolist() == before and not bool(drawn.cut[0])
    tokens = golden.tensors["out.stop_unireason.tokens"]
    assert tokens[-1, 0] == eos
    after = logits_along(golden, cache, tokens)[-1]
    golden.close(after, key)
    control = [golden.markers.bos, golden.markers.soi, eos]
    assert int(drawn.handover[0]) == control[int(np.argmax(after[0][control]))]
