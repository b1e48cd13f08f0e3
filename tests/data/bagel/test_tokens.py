"""Sequences: labels, positions, dropout, limits and errors are as said."""

import numpy as np
import pytest

from unireason_jax.data import images, resizing
from unireason_jax.data.bagel.tokens import SampleSpec, lengths, tokenize
from unireason_jax.data.records import Record, RecordError, Segment
from unireason_jax.proof.recorded import IdsTokenizer, MeanCodec


def picture(value, size=(16, 16)):
    return np.full((*size, 3), value, np.uint8)


def words(role, text, **flags):
    return Segment("text", role, text=text, **flags)


def full_record(drop=True):
    """Prompt, source image, plan with hand-over, target that is shown again, last words."""
    return Record(
        "r",
        (
            words("user", "10 11", drop=drop),
            Segment("image", "source", image=picture(10), gen=True, und=True, drop=drop),
            words("plan", "12", loss="text", next="image"),
            Segment(
                "image", "image", image=picture(20), loss="flow", gen=True, und=True, drop=drop
            ),
            words("reflection", "13 14", loss="text", next="stop", weight=2.0),
        ),
    )


def small_spec(**changes):
    settings = {"codec": MeanCodec(), "latent_patch": 1, "latent_side": 4, "vit_patch": 8}
    return SampleSpec(IdsTokenizer(1, 2, 3, 4), **(settings | changes))


def test_root_weighting_of_sixteen_tokens_is_a_quarter():
    text = " ".join(["10"] * 15)  # fifteen words and the end marker are predicted
    record = Record("r", (words("plan", text, loss="text"),))
    spec = small_spec(weighting="sqrt")
    found = tokenize(record, spec, np.random.default_rng(0)).text_weights
    assert found[found > 0].tolist() == [0.25] * 16


def test_hand_over_labels_and_weights_sit_on_closing_markers():
    sequence = tokenize(full_record(), small_spec(), np.random.default_rng(0))
    assert sequence.text_ids.tolist() == [1, 10, 11, 2, 3, 4, 3, 4, 1, 12, 2] + [3, 4] * 3 + [
        *(1, 13, 14, 2)
    ]
    assert sequence.text_labels.tolist() == [-1] * 8 + [12, 2, 3] + [-1] * 6 + [13, 14, 2, 2]
    weights = [0.0] * 8 + [1.0, 1.0, 1.0] + [0.0] * 6 + [2.0, 2.0, 2.0, 1.0]
    assert sequence.text_weights.tolist() == weights


def test_an_images_label_sits_on_the_end_marker_of_its_last_copy():
    record = Record(
        "r", (Segment("image", "x", image=picture(0), gen=True, und=True, next="text"),)
    )
    sequence = tokenize(record, small_spec(), np.random.default_rng(0))
    assert sequence.text_ids.tolist() == [3, 4, 3, 4]
    assert sequence.text_labels.tolist() == [-1, -1, -1, 1]
    assert sequence.order.tolist() == [0, 5, 6, 11, 7, 8, 9, 10, 1, 2, 3, 4]


def test_rotary_positions_of_copies():
    sequence = tokenize(full_record(), small_spec(), np.random.default_rng(0))
    rotary = sequence.positions[np.argsort(sequence.order)]
    expected = [0, 1, 2, 3, *[4] * 6, *[5] * 6, 6, 7, 8, *[9] * 6, *[9] * 6, *[10] * 6, 11, 12]
    assert rotary.tolist() == [*expected, 13, 14]


def test_the_target_and_its_clean_copy_are_the_same_latents():
    sequence = tokenize(full_record(), small_spec(), np.random.default_rng(0))
    source, target, clean = np.split(sequence.latents, 3)
    np.testing.assert_array_equal(target, clean)
    assert not np.array_equal(source, target)
    noised = sequence.latent_weights > 0
    assert noised.tolist() == [False] * 4 + [True] * 4 + [False] * 4
    assert np.isfinite(sequence.latent_logits).tolist() == noised.tolist()
    assert len(set(sequence.noise_seeds[noised])) == 1 and not sequence.noise_seeds[~noised].any()


def test_dropout_removes_copies_one_by_one_and_keeps_targets_and_supervised_text():
    spec = small_spec(dropout=(1.0, 0.0, 1.0))
    sequence = tokenize(full_record(), spec, np.random.default_rng(0))
    assert sequence.lengths == (3 + 3 * 2 + 4, 0, 12)
    rotary = sequence.positions[np.argsort(sequence.order)]
    # the prompt's positions are free again, those of dropped images are not
    expected = [*[0] * 6, 2, 3, 4, *[5] * 6, *[5] * 6, 7, 8, 9, 10]
    assert rotary.tolist() == expected
    everything = tokenize(full_record(), small_spec(dropout=(1.0,) * 3), np.random.default_rng(0))
    assert everything.lengths == (3 + 2 + 4, 0, 4)
    assert (everything.latent_weights > 0).all()


def test_dropout_rates_and_independence():
    spec = small_spec(dropout=(0.5, 0.3, 0.1))
    rng = np.random.default_rng(1)
    kept = {"text": 0, "latent": 0, "vit": 0, "both": 0}
    runs = 600
    for _ in range(runs):
        sequence = tokenize(full_record(), spec, rng)
        ids, order = sequence.text_ids.tolist(), sequence.order
        kept["text"] += 10 in ids
        source = sequence.latents[:, 0] == 10 if len(sequence.latents) else np.zeros(0, bool)
        kept["latent"] += bool(source.any())
        vit = bool((sequence.vit_patches == images.PIXEL_VALUES[10]).all(1).any())
        kept["vit"] += vit
        kept["both"] += vit and bool(source.any())
        assert sorted(order) == list(range(len(order)))
    assert abs(kept["text"] / runs - 0.5) < 0.08
    assert abs(kept["latent"] / runs - 0.7) < 0.08
    assert abs(kept["vit"] / runs - 0.9) < 0.05
    assert abs(kept["both"] / runs - 0.63) < 0.08


def test_what_is_dropped_does_not_change_other_draws():
    """Timestep and noise seed of a target are the same whatever the dropout probabilities are."""
    kept = tokenize(full_record(), small_spec(), np.random.default_rng(7))
    dropped = tokenize(full_record(), small_spec(dropout=(1.0,) * 3), np.random.default_rng(7))
    noised = kept.latent_weights > 0
    np.testing.assert_array_equal(kept.latent_logits[noised], dropped.latent_logits)
    np.testing.assert_array_equal(kept.noise_seeds[noised], dropped.noise_seeds)


def test_the_posterior_is_sampled_with_its_variance():
    class Uncertain(MeanCodec):
        def encode(self, image):
            mean, _ = super().encode(image)
            return mean, np.full_like(mean, np.log(4.0))

    record = Record("r", (Segment("image", "x", image=picture(0, (256, 256)), loss="flow"),))
    spec = small_spec(codec=Uncertain(), latent_side=32)
    values = tokenize(record, spec, np.random.default_rng(0)).latents
    assert abs(values.std() - 2.0) < 0.1 and abs(values.mean()) < 0.1


def test_lengths_agree_with_rendering_without_dropout(tmp_path):
    from PIL import Image

    path = tmp_path / "a.png"
    Image.fromarray(picture(3, (33, 47))).save(path)
    spec = small_spec(
        latent_resize=resizing.Resize(32, 16, 8),
        vit_resize=resizing.Resize(24, 8, 8),
        image_root=tmp_path,
    )
    by_file = Record("f", (Segment("image", "x", image="a.png", gen=True, und=True, loss="flow"),))
    for record in (full_record(), by_file):
        assert lengths(record, spec) == tokenize(record, spec, np.random.default_rng(0)).lengths
    path.write_bytes(path.read_bytes()[:-40])  # the header is enough to measure
    assert lengths(by_file, spec)[0] == 6
    with pytest.raises(RecordError, match=r"record 'f', segment 0: .*a\.png.*cannot be decoded"):
        tokenize(by_file, spec, np.random.default_rng(0))


def test_without_a_vit_images_are_shown_as_latents_only():
    spec = small_spec(vit_patch=0)
    sequence = tokenize(full_record(), spec, np.random.default_rng(0))
    assert sequence.lengths[1] == 0 and sequence.vit_patches.shape == (0, 0)
    assert lengths(full_record(), spec) == sequence.lengths
    only = Record("v", (Segment("image", "source", image=picture(0), und=True),))
    with pytest.raises(RecordError, match=r"record 'v', segment 0: .* set gen=True"):
        tokenize(only, spec, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("record", "changes", "message"),
    [
        (Record("h", (words("plan", None),)), {}, "record 'h', segment 0: the plan text is a hole"),
        (full_record(), {"max_text": 20}, "record 'r': 21 text tokens exceed the row's 20"),
        (
            full_record(),
            {"max_latent": 11},
            "12 latent tokens exceed the row's 11; raise",
        ),
        (full_record(), {"max_vit": 7}, "8 vit tokens"),
        (full_record(), {"codec": None}, "segment 1: the image needs latents but the spec has no"),
        (
            Record("s", (Segment("image", "x", image=picture(0, (20, 16)), loss="flow"),)),
            {},
            "image of 16 x 20 pixels is not a multiple of 8; choose sizes that resize",
        ),
        (
            Record("s", (Segment("image", "x", image=picture(0, (48, 16)), loss="flow"),)),
            {},
            "6 x 2 patches do not fit a table of 4 x 4 positions",
        ),
        (
            Record("m", (Segment("image", "x", image="nowhere.png", und=True),)),
            {},
            "record 'm', segment 0: image .*nowhere.png does not exist",
        ),
    ],
)
def test_unusable_records_are_refused_by_name(record, changes, message):
    spec = small_spec(**changes)
    with pytest.raises(RecordError, match=message):
        tokenize(record, spec, np.random.default_rng(0))
    with pytest.raises(RecordError, match=message):
        lengths(record, spec)


def test_wrong_specs_are_refused():
    with pytest.raises(ValueError, match="3 probabilities"):
        small_spec(dropout=(0.1, 0.1, 1.5))
    with pytest.raises(ValueError, match="weighting is 'length'"):
        small_spec(weighting="length")


def test_a_record_can_vanish_but_stays_well_formed():
    record = Record("gone", (words("user", "10", drop=True),))
    sequence = tokenize(record, small_spec(dropout=(1.0, 0.0, 0.0)), np.random.default_rng(0))
    assert sequence.lengths == (0, 0, 0)
    assert all(len(part) == 0 for part in sequence.visibility)
