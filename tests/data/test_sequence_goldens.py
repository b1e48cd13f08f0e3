"""Sequences equal what the official packers emitted, token for token."""

import hashlib
import json

import numpy as np
import pytest
from safetensors import safe_open

from tests.data.stand_ins import IdsTokenizer, MeanCodec
from unireason_jax import visibility
from unireason_jax.data import images
from unireason_jax.data.records import Record, Segment
from unireason_jax.data.sequence import SequenceSpec, render
from unireason_jax.data.tokenizer import Qwen2Tokenizer


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
    assert not tape.dropout and not tape.normals, "draws of the reference are left over"
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
