"""The four integers say exactly what BAGEL's dense mask says."""

import json

import numpy as np
import pytest

from unireason_jax.rules import visibility as vis


def bagel_mask(split_lengths, split_modes, sample_lengths):
    """Slow, literal build of the reference's dense mask, sample by sample and split by split."""
    total = sum(split_lengths)
    mask = np.zeros((total, total), bool)
    starts = np.cumsum([0, *split_lengths])
    sample_of = np.repeat(np.arange(len(sample_lengths)), sample_lengths)
    for i, (length, mode) in enumerate(zip(split_lengths, split_modes)):
        for j in range(i + 1):
            for q in range(starts[i], starts[i] + length):
                for k in range(starts[j], starts[j + 1]):
                    if sample_of[q] != sample_of[k]:
                        continue
                    if j < i:
                        mask[q, k] = split_modes[j] != "noise"
                    else:
                        mask[q, k] = mode in ("full", "noise") or k <= q
    return mask


def random_row(rng):
    lengths, modes, samples = [], [], []
    for _ in range(rng.integers(1, 5)):
        splits = rng.integers(1, 7)
        mine = [int(n) for n in rng.integers(1, 6, splits)]
        lengths += mine
        modes += [str(m) for m in rng.choice(["causal", "full", "noise"], splits)]
        samples.append(sum(mine))
    return lengths, modes, samples


@pytest.mark.parametrize("seed", range(40))
def test_equals_a_literal_build_of_the_reference_mask(seed):
    lengths, modes, samples = random_row(np.random.default_rng(seed))
    row = vis.build(lengths, modes, samples)
    np.testing.assert_array_equal(vis.dense(row), bagel_mask(lengths, modes, samples))
    assert all(part.dtype == np.int32 for part in row)


def test_the_verified_example():
    mask = vis.dense(vis.build([2, 3, 2, 2], ["causal", "noise", "full", "causal"]))
    seen = [set(np.flatnonzero(row)) for row in mask]
    assert seen[0] == {0} and seen[1] == {0, 1}
    assert seen[2] == seen[3] == seen[4] == {0, 1, 2, 3, 4}
    assert seen[5] == seen[6] == {0, 1, 5, 6}
    assert seen[7] == {0, 1, 5, 6, 7}
    assert seen[8] == {0, 1, 5, 6, 7, 8}


@pytest.mark.parametrize("seed", range(10))
def test_packing_is_shifting(seed):
    """Samples built one by one and shifted give the row built at once, padding included."""
    lengths, modes, samples = random_row(np.random.default_rng(100 + seed))
    whole = vis.build(lengths, modes, samples)
    parts, tokens, splits = [], 0, 0
    for size in samples:
        count = int(np.searchsorted(np.cumsum(lengths[splits:]), size)) + 1
        part = vis.build(lengths[splits : splits + count], modes[splits : splits + count])
        parts.append(vis.shifted(part, tokens=tokens, splits=splits))
        tokens, splits = tokens + size, splits + count
    parts.append(vis.padding(3))
    row = vis.Visibility(*(np.concatenate(field) for field in zip(*parts)))
    mask = vis.dense(row)
    np.testing.assert_array_equal(mask[:tokens, :tokens], vis.dense(whole))
    assert not mask[tokens:, :tokens].any() and not mask[:tokens, tokens:].any()
    assert mask[tokens:, tokens:].all()
    assert all(part.dtype == np.int32 for part in row)


def test_moving_padding_keeps_it_invisible():
    moved = vis.shifted(vis.padding(2), tokens=0, splits=5)
    np.testing.assert_array_equal(moved.key, [vis.PADDING, vis.PADDING])
    np.testing.assert_array_equal(moved.own, [vis.NOTHING, vis.NOTHING])


def test_any_order_of_tokens_keeps_the_relation():
    """The integers travel with their token: permuting the row permutes the mask."""
    rng = np.random.default_rng(3)
    row = vis.build(*random_row(rng))
    permutation = rng.permutation(len(row.key))
    mixed = vis.Visibility(*(part[permutation] for part in row))
    np.testing.assert_array_equal(
        vis.dense(mixed), vis.dense(row)[np.ix_(permutation, permutation)]
    )


def test_all_recorded_masks_of_the_reference(data_goldens):
    """Every mask that the official packers built (26 in the open set)."""
    packs = {pack["id"]: pack for pack in json.loads((data_goldens / "packs.json").read_text())}
    stored = np.load(data_goldens / "masks.npz")
    names = [name.removesuffix("/side") for name in stored.files if name.endswith("/side")]
    assert names
    for name in names:
        side = stored[f"{name}/side"].item()
        bits = np.unpackbits(stored[f"{name}/bits"], bitorder="big")[: side * side]
        pack = packs[name]
        row = vis.build(pack["split_lens"], pack["attn_modes"], pack["sample_lens"])
        np.testing.assert_array_equal(vis.dense(row), bits.reshape(side, side) > 0, err_msg=name)


@pytest.mark.parametrize(
    ("lengths", "modes", "samples", "message"),
    [
        ([2, 3], ["causal"], None, "2 split lengths but 1 split modes"),
        ([2], ["bidirectional"], None, "unknown split mode"),
        ([2, 3], ["causal", "full"], [4], "samples hold 4 tokens but the splits hold 5"),
        ([vis.NOISE], ["full"], None, "does not fit below NOISE"),
    ],
)
def test_wrong_rows_are_refused(lengths, modes, samples, message):
    with pytest.raises(ValueError, match=message):
        vis.build(lengths, modes, samples)
