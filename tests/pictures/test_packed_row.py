"""A packed row can be read back and drawn."""

import numpy as np
import pytest

from unireason_jax.data.bagel.tokens import SampleSpec, tokenize
from unireason_jax.data.image_sizes import SizeCodec
from unireason_jax.data.rows import Budgets, assemble
from unireason_jax.data.samples import LATENT, TEXT, VIT
from unireason_jax.data.sources import WorldSource
from unireason_jax.data.text.tokenizer import SentencePieceTokenizer
from unireason_jax.pictures import splits
from unireason_jax.pictures.packed_row import draw_row
from unireason_jax.rules import visibility


@pytest.fixture(scope="module")
def packed():
    """(tokenizer, sequences, row) of six world records with dropout and padding."""
    weights = dict.fromkeys(["refine_edit", "process", "vqa", "think_t2i"], 1.0)
    source = WorldSource(1, 6, weights)
    records = [source[i] for i in range(6)]
    tokenizer = SentencePieceTokenizer.train(
        s.content for record in records for s in record.segments if s.kind == "text"
    )
    spec = SampleSpec(
        tokenizer,
        SizeCodec(8, 4),
        latent_patch=1,
        vit_patch=8,
        dropout=(0.2, 0.2, 0.2),
    )
    sequences = [tokenize(r, spec, np.random.default_rng(i)) for i, r in enumerate(records)]
    budgets = Budgets(*(np.sum([s.lengths for s in sequences], 0) + 5).tolist())
    return tokenizer, sequences, assemble(sequences, budgets, spec.patch_sizes)


def test_a_row_is_read_back_into_its_records_and_splits(packed):
    tokenizer, sequences, row = packed
    found = splits.samples(row, tokenizer.bos)
    assert len(found) == len(sequences)
    for sample, sequence in zip(found, sequences):
        assert [len(split.tokens) for split in sample.splits] == sequence.split_lengths.tolist()
        assert [split.mode for split in sample.splits] == sequence.split_modes.tolist()
        ranks = np.argsort(sequence.order)
        np.testing.assert_array_equal(row["positions"][sample.tokens], sequence.positions[ranks])
        for split in sample.splits:
            streams = splits.streams_of(row)[split.tokens]
            if split.mode == visibility.CAUSAL:
                assert split.stream == TEXT and (streams == TEXT).all()
            else:
                assert split.stream in (VIT, LATENT)
                assert (streams[[0, -1]] == TEXT).all() and (streams[1:-1] == split.stream).all()
                ids = row["text_ids"][split.tokens[[0, -1]]]
                assert ids.tolist() == [tokenizer.soi, tokenizer.eoi]


def test_without_bos_adjacent_turns_count_as_one(packed):
    tokenizer, _, row = packed
    parted = sum(len(sample.splits) for sample in splits.samples(row, tokenizer.bos))
    assert sum(len(sample.splits) for sample in splits.samples(row)) < parted


@pytest.mark.parametrize(
    ("positions", "width"),
    [([0, 1, 2, 64, 65, 66], 3), ([0, 1, 2, 3], 2), ([0, 4, 8, 64, 68, 72], 3), ([0], 1)],
)
def test_grid_width(positions, width):
    assert splits.grid_width(np.array(positions)) == width


def test_the_picture_grows_with_the_records_and_marks_what_is_learned(packed):
    tokenizer, _, row = packed
    short, tall = (draw_row(row, tokenizer, most=most) for most in (1, 6))
    assert short.mode == "RGB" and short.width == tall.width == 1400
    assert tall.height > short.height

    def red(image):
        pixels = np.asarray(image).astype(int)
        return int((np.abs(pixels - (0xD6, 0x28, 0x3F)).sum(-1) < 6).sum())

    silent = {
        **row,
        "text_weights": np.zeros_like(row["text_weights"]),
        "text_labels": np.full_like(row["text_labels"], -1),
    }
    assert red(draw_row(row, tokenizer)) > red(draw_row(silent, tokenizer)) > 0


def test_the_mask_is_drawn_as_it_is(packed):
    """Share of coloured pixels in the mask equals the share of visible pairs."""
    _, _, row = packed
    order = splits.true_order(row)
    parts = visibility.Visibility(
        *(row[f"vis_{name}"][order] for name in ("key", "lo", "hi", "own"))
    )
    share = visibility.dense(parts).mean()
    pixels = np.asarray(draw_row(row, most=0)).astype(int)
    left, top = 24 + 22, None
    hidden = np.abs(pixels - (250, 251, 252)).sum(-1) == 0
    top = int(np.flatnonzero(hidden[:, left : left + 560].mean(1) > 0.3)[0])
    area = pixels[top : top + 560, left : left + 560]
    drawn = (np.abs(area - (250, 251, 252)).sum(-1) > 60).mean()
    assert abs(drawn - share) < 0.04


def test_rows_without_images_or_tokens_can_be_drawn():
    budgets = Budgets(8, 0, 0)
    row = assemble([], budgets, (0, 0))
    assert splits.samples(row) == []
    assert draw_row(row).height > 500
