"""Sequences equal what the official packers emit, and dropout, limits and errors are as said."""

import hashlib
import json

import numpy as np
import pytest
from safetensors import safe_open

from unireason_jax import visibility
from unireason_jax.data import images
from unireason_jax.data.records import Record, RecordError, Segment
from unireason_jax.data.sequence import SequenceSpec, lengths, render
from unireason_jax.data.tokenizer import Qwen2Tokenizer


class IdsTokenizer:
    """Texts are blank-separated ids: for goldens that are given as ids."""

    def __init__(self, bos, eos, soi, eoi):
        self.bos, self.eos, self.soi, self.eoi = bos, eos, soi, eoi
        self.vocab_size = 1024

    def encode(self, text):
        return [int(word) for word in text.split()]

    def decode(self, ids):
        return " ".join(map(str, ids))


class MeanCodec:
    """Latents are the means of 8 x 8 pixels: enough to tell images apart."""

    stride, channels = 8, 3

    def encode(self, image):
        rows, columns = image.shape[0] // 8, image.shape[1] // 8
        mean = image.reshape(rows, 8, columns, 8, 3).mean((1, 3)).astype(np.float32)
        return mean, np.full_like(mean, -np.inf)


class Tape:
    """A stand-in for a NumPy generator that replays the reference's recorded draws."""

    def __init__(self, dropout=(), normals=()):
        self.dropout, self.normals = list(dropout), list(normals)
        self.free = np.random.default_rng(0)

    def random(self, size):
        drawn, self.dropout = self.dropout[:size], self.dropout[size:]
        assert len(drawn) == size
        return np.array(drawn)

    def standard_normal(self, size, dtype=np.float64):
        if isinstance(size, tuple):
            return self.free.standard_normal(size, dtype)
        drawn, self.normals = self.normals[:size], self.normals[size:]
        assert len(drawn) == size
        return np.array(drawn)

    def integers(self, *args):
        return self.free.integers(*args)


def record_of_plan(name, plan, texts, pictures):
    """A reference sequence plan as a record: one segment per item."""
    texts, pictures, segments = iter(texts), iter(pictures), []
    labels = {None: "none", 502: "image", 740: "image", 737: "stop", 736: "text"}
    for item in plan:
        common = {
            "role": "plan",
            "drop": bool(item["enable_cfg"]),
            "next": labels[item["special_token_label"]],
        }
        if item["type"] == "text":
            loss = "text" if item["loss"] else "none"
            segments.append(Segment("text", text=next(texts), loss=loss, **common))
        elif item["type"] == "vit_image":
            segments.append(Segment("image", image=next(pictures), und=True, **common))
        elif item["loss"]:
            segments.append(Segment("image", image=next(pictures), loss="flow", **common))
        else:
            segments.append(Segment("image", image=next(pictures), gen=True, **common))
    return Record(name, tuple(segments))


def in_true_order(sequences):
    """A pack of sequences with the reference's names and indices, dense mask included."""
    fields = {name: [] for name in NAMES}
    rows, tokens, splits = [], 0, 0
    for sequence in sequences:
        text, vit, latent = np.split(sequence.order + tokens, np.cumsum(sequence.lengths)[:2])
        noised = sequence.latent_weights > 0
        labelled = sequence.text_labels >= 0
        ranks = np.argsort(sequence.order)
        part = {
            "packed_text_ids": sequence.text_ids,
            "packed_text_indexes": text,
            "packed_position_ids": sequence.positions[ranks],
            "ce_loss_indexes": text[labelled],
            "packed_label_ids": sequence.text_labels[labelled],
            "ce_loss_weights": sequence.text_weights[labelled],
            "mse_loss_indexes": latent[noised],
            "packed_timesteps": sequence.latent_logits,
            "packed_vit_token_indexes": vit,
            "vit_token_seqlens": np.bincount(sequence.vit_images) if len(vit) else vit,
            "packed_vit_position_ids": sequence.vit_positions,
            "packed_vae_token_indexes": latent,
            "packed_latent_position_ids": sequence.latent_positions,
        }
        for name, value in part.items():
            fields[name].append(value)
        moved = visibility.shifted(sequence.visibility, tokens=tokens, splits=splits)
        rows.append(visibility.Visibility(*(field[ranks] for field in moved)))
        tokens, splits = tokens + len(ranks), splits + len(sequence.split_lengths)
    packed = {name: np.concatenate(parts) for name, parts in fields.items()}
    packed["mask"] = visibility.dense(
        visibility.Visibility(*(np.concatenate(field) for field in zip(*rows)))
    )
    return packed


EMPTY = "broken/irg/conversation_empty_list/0"  # recorded inside one pack
NAMES = [
    "packed_text_ids",
    "packed_text_indexes",
    "packed_position_ids",
    "ce_loss_indexes",
    "packed_label_ids",
    "ce_loss_weights",
    "mse_loss_indexes",
    "packed_timesteps",
    "packed_vit_token_indexes",
    "vit_token_seqlens",
    "packed_vit_position_ids",
    "packed_vae_token_indexes",
    "packed_latent_position_ids",
]


# ---------------------------------------------------------------- the recorded training step


def test_the_recorded_training_step(goldens):
    """Both samples of the golden step: every index, label, position, timestep and the mask."""
    with safe_open(goldens / "train_step.safetensors", "numpy") as file:
        meta = json.loads(file.metadata()["meta"])
        golden = {name: file.get_tensor(f"in.{name}") for name in NAMES}
        masks = [file.get_tensor(f"in.nested_attention_mask_{i}") for i in range(2)]
        splits, modes = file.get_tensor("in.split_lens"), file.get_tensor("in.attn_modes")
        raw = {i: file.get_tensor(f"raw.sample{i // 9}_image{i % 9}") for i in (0, 9, 10, 11, 12)}
        vit_tokens = file.get_tensor("in.packed_vit_tokens")
    pictures = {i: np.zeros((*image.shape[1:], 3), np.uint8) for i, image in raw.items()}
    spec = SequenceSpec(
        IdsTokenizer(500, 501, 502, 503),
        MeanCodec(),
        latent_side=16,
        vit_patch=14,
        vit_side=20,
        weighting="sqrt",
    )
    logits = golden["packed_timesteps"]
    tape = Tape(normals=[logits[0], logits[12]])
    groups = [[pictures[0]], [pictures[i] for i in (9, 10, 11, 12)]]
    sequences = []
    for number, plan in enumerate(meta["sequence_plans"]):
        ids = [" ".join(map(str, ids)) for ids in meta["text_ids_lists"][number]]
        record = record_of_plan(f"s{number}", plan, ids, groups[number])
        sequences.append(render(record, spec, tape))
    packed = in_true_order(sequences)
    for name in NAMES:
        np.testing.assert_array_equal(packed[name], golden[name], err_msg=name)
    expected = np.zeros_like(packed["mask"])
    expected[:26, :26], expected[26:, 26:] = masks[0] == 0, masks[1] == 0
    np.testing.assert_array_equal(packed["mask"], expected)
    np.testing.assert_array_equal(np.concatenate([s.split_lengths for s in sequences]), splits)
    codes = {0: visibility.CAUSAL, 1: visibility.FULL, 2: visibility.NOISED}
    np.testing.assert_array_equal(
        np.concatenate([s.split_modes for s in sequences]), [codes[int(m)] for m in modes]
    )
    patches = [images.patchify(raw[i].transpose(1, 2, 0), 14) for i in (0, 11)]
    np.testing.assert_array_equal(np.concatenate(patches), vit_tokens)


# ---------------------------------------------------------------- the recorded packs


@pytest.fixture(scope="module")
def recorded(data_goldens):
    """(packs, samples, synthetic plans, images, arrays) of the data goldens."""

    def read(name):
        return json.loads((data_goldens / name).read_text())

    return {
        "packs": read("packs.json"),
        "samples": {sample["id"]: sample for sample in read("samples.json")}
        | {EMPTY: {"plan": [], "text_ids": [], "images": []}},
        "synthetic": {plan["id"]: plan["samples"] for plan in read("synthetic_plans.json")},
        "images": np.load(data_goldens / "images_u8.npz"),
        "arrays": np.load(data_goldens / "packs.npz"),
        "masks": np.load(data_goldens / "masks.npz"),
        "tokenizer": Qwen2Tokenizer.load(data_goldens / "tokenizer", parse_controls=True),
    }


def rendered_pack(pack, recorded):
    """Our sequences for one recorded pack, with the reference's draws."""
    synthetic = recorded["synthetic"].get(pack["id"])
    samples = synthetic or [recorded["samples"][name] for name in pack["samples"]]
    chances = pack.get("dropout_prob") or {"text": 0.0, "vae": 0.0, "vit": 0.0}
    if "dropped_items" in pack:
        chances = {"text": 0.5, "vae": 0.5, "vit": 0.5}
    spec = SequenceSpec(
        IdsTokenizer(736, 737, 740, 741) if synthetic else recorded["tokenizer"],
        MeanCodec(),
        latent_side=16,
        vit_patch=14,
        vit_side=20,
        weighting="sqrt",
        dropout=(chances["text"], chances["vae"], chances["vit"]),
        interpolate=pack.get("interpolate_pos", False),
    )
    tape = Tape(pack["dropout_draws"], pack["randn_draws"])
    sequences = []
    for number, sample in enumerate(samples):
        texts = sample.get("texts") or [" ".join(map(str, ids)) for ids in sample["text_ids"]]
        keys = [picture if synthetic else picture["tensor"] for picture in sample["images"]]
        pictures = [recorded["images"][key].transpose(1, 2, 0) for key in keys]
        if not sample["plan"]:
            continue  # the reference packs an empty sample; here it is no record
        record = record_of_plan(f"{pack['id']}:{number}", sample["plan"], texts, pictures)
        sequences.append(render(record, spec, tape))
    return sequences


def test_every_recorded_pack(recorded):
    """All packs of the official packers but the video ones: every array, exactly."""
    checked = masks = 0
    for pack in recorded["packs"]:
        name = pack["id"]
        if "video" in name or name.endswith("[unireason]"):
            continue  # no dataset emits video; UniReason's second SOI label is never used either
        key = name.removesuffix("[bagel+irg+uniedit]")
        if key not in recorded["synthetic"] and key.startswith("synthetic/"):
            raise AssertionError(f"no plan for {name}")
        sequences = rendered_pack({**pack, "id": key}, recorded)
        packed = in_true_order(sequences)
        for field in NAMES:
            stored = f"{name}/{field}"
            if stored in recorded["arrays"].files:
                np.testing.assert_array_equal(
                    packed[field], recorded["arrays"][stored], err_msg=stored
                )
            else:
                assert len(packed[field]) == 0, stored
        lens = [n for s in sequences if (n := int(s.split_lengths.sum()))]
        assert lens == [length for length in pack["sample_lens"] if length], name
        assert np.concatenate([s.split_lengths for s in sequences]).tolist() == pack["split_lens"]
        if "packed_vit_tokens" in pack:
            patches = np.concatenate([s.vit_patches for s in sequences])
            digest = hashlib.sha256(patches.astype("<f4").tobytes()).hexdigest()
            assert digest == pack["packed_vit_tokens"]["sha256"], name
        if f"{name}/bits" in recorded["masks"].files:
            side = recorded["masks"][f"{name}/side"].item()
            bits = np.unpackbits(recorded["masks"][f"{name}/bits"])[: side * side]
            np.testing.assert_array_equal(packed["mask"], bits.reshape(side, side) > 0)
            masks += 1
        checked += 1
    assert checked >= 100 and masks >= 10


# ---------------------------------------------------------------- our own promises


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
    return SequenceSpec(IdsTokenizer(1, 2, 3, 4), **(settings | changes))


def test_hand_over_labels_and_weights_sit_on_closing_markers():
    sequence = render(full_record(), small_spec(), np.random.default_rng(0))
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
    sequence = render(record, small_spec(), np.random.default_rng(0))
    assert sequence.text_ids.tolist() == [3, 4, 3, 4]
    assert sequence.text_labels.tolist() == [-1, -1, -1, 1]
    assert sequence.order.tolist() == [0, 5, 6, 11, 7, 8, 9, 10, 1, 2, 3, 4]


def test_rotary_positions_of_copies():
    sequence = render(full_record(), small_spec(), np.random.default_rng(0))
    rotary = sequence.positions[np.argsort(sequence.order)]
    expected = [0, 1, 2, 3, *[4] * 6, *[5] * 6, 6, 7, 8, *[9] * 6, *[9] * 6, *[10] * 6, 11, 12]
    assert rotary.tolist() == [*expected, 13, 14]


def test_the_target_and_its_clean_copy_are_the_same_latents():
    sequence = render(full_record(), small_spec(), np.random.default_rng(0))
    source, target, clean = np.split(sequence.latents, 3)
    np.testing.assert_array_equal(target, clean)
    assert not np.array_equal(source, target)
    noised = sequence.latent_weights > 0
    assert noised.tolist() == [False] * 4 + [True] * 4 + [False] * 4
    assert np.isfinite(sequence.latent_logits).tolist() == noised.tolist()
    assert len(set(sequence.noise_seeds[noised])) == 1 and not sequence.noise_seeds[~noised].any()


def test_dropout_removes_copies_one_by_one_and_keeps_targets_and_supervised_text():
    spec = small_spec(dropout=(1.0, 0.0, 1.0))
    sequence = render(full_record(), spec, np.random.default_rng(0))
    assert sequence.lengths == (3 + 3 * 2 + 4, 0, 12)
    rotary = sequence.positions[np.argsort(sequence.order)]
    # the prompt's positions are free again, those of dropped images are not
    expected = [*[0] * 6, 2, 3, 4, *[5] * 6, *[5] * 6, 7, 8, 9, 10]
    assert rotary.tolist() == expected
    everything = render(full_record(), small_spec(dropout=(1.0,) * 3), np.random.default_rng(0))
    assert everything.lengths == (3 + 2 + 4, 0, 4)
    assert (everything.latent_weights > 0).all()


def test_dropout_rates_and_independence():
    spec = small_spec(dropout=(0.5, 0.3, 0.1))
    rng = np.random.default_rng(1)
    kept = {"text": 0, "latent": 0, "vit": 0, "both": 0}
    runs = 600
    for _ in range(runs):
        sequence = render(full_record(), spec, rng)
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
    kept = render(full_record(), small_spec(), np.random.default_rng(7))
    dropped = render(full_record(), small_spec(dropout=(1.0,) * 3), np.random.default_rng(7))
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
    values = render(record, spec, np.random.default_rng(0)).latents
    assert abs(values.std() - 2.0) < 0.1 and abs(values.mean()) < 0.1


def test_lengths_agree_with_rendering_without_dropout(tmp_path):
    from PIL import Image

    path = tmp_path / "a.png"
    Image.fromarray(picture(3, (33, 47))).save(path)
    spec = small_spec(
        latent_resize=images.Resize(32, 16, 8),
        vit_resize=images.Resize(24, 8, 8),
        image_root=tmp_path,
    )
    by_file = Record("f", (Segment("image", "x", image="a.png", gen=True, und=True, loss="flow"),))
    for record in (full_record(), by_file):
        assert lengths(record, spec) == render(record, spec, np.random.default_rng(0)).lengths
    path.write_bytes(path.read_bytes()[:-40])  # the header is enough to measure
    assert lengths(by_file, spec)[0] == 6
    with pytest.raises(RecordError, match=r"record 'f', segment 0: .*a\.png.*cannot be decoded"):
        render(by_file, spec, np.random.default_rng(0))


def test_without_a_vit_images_are_shown_as_latents_only():
    spec = small_spec(vit_patch=0)
    sequence = render(full_record(), spec, np.random.default_rng(0))
    assert sequence.lengths[1] == 0 and sequence.vit_patches.shape == (0, 0)
    assert lengths(full_record(), spec) == sequence.lengths
    only = Record("v", (Segment("image", "source", image=picture(0), und=True),))
    with pytest.raises(RecordError, match=r"record 'v', segment 0: .* set gen=True"):
        render(only, spec, np.random.default_rng(0))


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
            "image of 16 x 20 pixels is not a multiple of 8; give the spec a resize rule",
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
        render(record, spec, np.random.default_rng(0))
    with pytest.raises(RecordError, match=message):
        lengths(record, spec)


def test_wrong_specs_are_refused():
    with pytest.raises(ValueError, match="3 probabilities"):
        small_spec(dropout=(0.1, 0.1, 1.5))
    with pytest.raises(ValueError, match="weighting is 'length'"):
        small_spec(weighting="length")


def test_a_record_can_vanish_but_stays_well_formed():
    record = Record("gone", (words("user", "10", drop=True),))
    sequence = render(record, small_spec(dropout=(1.0, 0.0, 0.0)), np.random.default_rng(0))
    assert sequence.lengths == (0, 0, 0)
    assert all(len(part) == 0 for part in sequence.visibility)
