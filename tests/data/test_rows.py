"""Assembled rows hold every token of their sequences, and the mask of a brute-force build."""

import numpy as np
import pytest

from tests.data.toy_records import ToySource, toy_spec
from unireason_jax.data.bagel.tokens import tokenize
from unireason_jax.data.rows import Budgets, assemble, row_spec, stack, true_order
from unireason_jax.rules import visibility


def sequences_of(count, *, seed=0, **changes):
    spec = toy_spec(**changes)
    source = ToySource(count, seed=seed)
    made = [tokenize(source[i], spec, np.random.default_rng([seed, i])) for i in range(count)]
    return made, spec


def brute_force_mask(sequences):
    """The dense mask in true order, from the definition of the split modes, token by token."""
    total = sum(len(s.order) for s in sequences)
    mask = np.zeros((total, total), bool)
    start = 0
    for sequence in sequences:
        splits = list(zip(sequence.split_lengths.tolist(), sequence.split_modes.tolist()))
        spans, at = [], start
        for length, mode in splits:
            spans.append((at, at + length, mode))
            at += length
        for i, (begin, end, mode) in enumerate(spans):
            for query in range(begin, end):
                for earlier_begin, earlier_end, earlier_mode in spans[:i]:
                    if earlier_mode != visibility.NOISED:
                        mask[query, earlier_begin:earlier_end] = True
                last = query + 1 if mode == visibility.CAUSAL else end
                mask[query, begin:last] = True
        start = at
    return mask


@pytest.mark.parametrize("seed", range(6))
def test_mask_of_the_row_equals_a_brute_force_build(seed):
    sequences, spec = sequences_of(5, seed=seed)
    budgets = Budgets(*(int(n) + 5 for n in np.sum([s.lengths for s in sequences], 0)))
    row = assemble(sequences, budgets, spec.patch_sizes)
    order = true_order(sequences, budgets)
    real = np.flatnonzero(order >= 0)
    by_order = real[np.argsort(order[real])]
    np.testing.assert_array_equal(order[by_order], np.arange(len(by_order)))
    seen = visibility.Visibility(*(row[f"vis_{n}"] for n in ("key", "lo", "hi", "own")))
    mask = visibility.dense(seen)
    np.testing.assert_array_equal(mask[np.ix_(by_order, by_order)], brute_force_mask(sequences))
    pad = np.flatnonzero(order < 0)
    assert len(pad) == 15
    assert mask[np.ix_(pad, pad)].all()
    assert not mask[np.ix_(real, pad)].any() and not mask[np.ix_(pad, real)].any()


def test_no_token_is_lost_or_changed():
    sequences, spec = sequences_of(7, seed=3)
    used = np.sum([s.lengths for s in sequences], 0)
    budgets = Budgets(*(int(n) + 3 for n in used))
    row = assemble(sequences, budgets, spec.patch_sizes)
    text, vit, latent = used
    for name in ("text_ids", "text_labels", "text_weights"):
        joined = np.concatenate([getattr(s, name) for s in sequences])
        np.testing.assert_array_equal(row[name][:text], joined)
    for name in ("vit_patches", "vit_positions"):
        joined = np.concatenate([getattr(s, name) for s in sequences])
        np.testing.assert_array_equal(row[name][:vit], joined)
    for name in ("latents", "latent_positions", "latent_weights", "latent_logits", "noise_seeds"):
        joined = np.concatenate([getattr(s, name) for s in sequences])
        np.testing.assert_array_equal(row[name][:latent], joined)
    images = np.concatenate([s.vit_images for s in sequences])
    starts = np.flatnonzero(np.diff(row["vit_images"][:vit], prepend=-1))
    assert len(starts) == sum(s.vit_count for s in sequences)
    np.testing.assert_array_equal(row["vit_images"][starts], np.arange(len(starts)))
    assert len(images) == vit
    parts = [np.split(s.positions, np.cumsum(s.lengths)[:2]) for s in sequences]
    for begin, length, pieces in zip((0, budgets.text, budgets.und), used, zip(*parts)):
        got = row["positions"][begin : begin + length]
        np.testing.assert_array_equal(got, np.concatenate(pieces))


def test_padding_carries_no_loss_and_belongs_to_no_image():
    sequences, spec = sequences_of(2)
    budgets = Budgets(200, 40, 60)
    row = assemble(sequences, budgets, spec.patch_sizes)
    text, vit, latent = np.sum([s.lengths for s in sequences], 0)
    assert (row["text_labels"][text:] == -1).all() and not row["text_weights"][text:].any()
    assert (row["vit_images"][vit:] == -1).all() and not row["vit_patches"][vit:].any()
    assert not row["latent_weights"][latent:].any()
    assert np.isneginf(row["latent_logits"][latent:]).all()
    empty = assemble([], budgets, spec.patch_sizes)
    assert not empty["text_weights"].any() and not empty["latent_weights"].any()
    assert (empty["vis_key"] == visibility.PADDING).all()


def test_own_numbers_are_unique_to_a_noised_split_of_the_row():
    sequences, spec = sequences_of(8, seed=5)
    budgets = Budgets(400, 60, 120)
    row = assemble(sequences, budgets, spec.patch_sizes)
    own = row["vis_own"][row["vis_own"] >= visibility.NOISE]
    noised = sum(int((s.split_modes == visibility.NOISED).sum()) for s in sequences)
    assert len(np.unique(own)) == noised
    np.testing.assert_array_equal(np.unique(own, return_counts=True)[1], 6)  # SOI, 4 latents, EOI


def test_rows_have_the_announced_shapes_and_stack():
    sequences, spec = sequences_of(2, vit_patch=0)
    budgets = Budgets(100, 0, 30)
    row = assemble(sequences, budgets, spec.patch_sizes)
    batch = stack([row, row])
    assert row["vit_patches"].shape[0] == 0
    for name, (shape, dtype) in row_spec(budgets, spec.patch_sizes).items():
        assert row[name].shape == shape and row[name].dtype == dtype, name
        assert batch[name].shape == (2, *shape)
    assert row.keys() == row_spec(budgets, spec.patch_sizes).keys()


def test_a_full_stream_is_named():
    sequences, spec = sequences_of(3)
    with pytest.raises(ValueError, match=r"toy-0-\d.*latent tokens.*budget is 2"):
        assemble(sequences, Budgets(500, 100, 2), spec.patch_sizes)
