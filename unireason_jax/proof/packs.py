"""Recorded packs: each plan of the official packer as a record, rendered and compared."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from unireason_jax.data.bagel.tokens import tokenize
from unireason_jax.data.records import Next, Record, Segment
from unireason_jax.data.samples import Sample
from unireason_jax.proof.recorded import IdsTokenizer, Recorded, Tape
from unireason_jax.proof.tally import Tally
from unireason_jax.rules import visibility

KINDS = {
    "packed_text_ids": "token ids",
    "packed_label_ids": "labels",
    "ce_loss_indexes": "places of text losses",
    "ce_loss_weights": "weights of text losses",
    "mse_loss_indexes": "places of image losses",
    "packed_timesteps": "timesteps",
    "packed_position_ids": "rotary positions",
    "packed_text_indexes": "places of text tokens",
    "packed_vit_token_indexes": "places of ViT tokens",
    "packed_vae_token_indexes": "places of latent tokens",
    "vit_token_seqlens": "ViT tokens of each image",
    "packed_vit_position_ids": "ViT position ids",
    "packed_latent_position_ids": "latent position ids",
}
"""Arrays of a pack, and what they are called in the report."""

VIDEO = "packs with clips: no released data set has them, and a noised clip is seen by what follows"
SECOND_LABEL = (
    "packs with UniReason's second label on the opening marker of an image: no data set asks for it"
)
PADDED = "packs whose images are padded to the largest: here every image keeps its own grid"
TAIL = "packs filled up by a causal document: here padding sees padding only"
EMPTY = (
    "samples without contents: the reference packs a document of no tokens, here it is no record"
)


def labels(bos: int, eos: int, soi: int) -> dict[int | None, Next]:
    """Hand-overs by the label of a closing marker."""
    return {None: "none", soi: "image", eos: "stop", bos: "text"}


def record_of_plan(
    name: str,
    plan: Iterable[Mapping[str, Any]],
    texts: Iterable[str],
    images: Iterable[np.ndarray],
    handovers: Mapping[int | None, Next],
) -> Record:
    """A sequence plan of the reference as a record, one segment an item.

    Args:
      name: id of the record.
      plan: items with type, enable_cfg, loss and special_token_label.
      texts: one for each text item.
      images: uint8 [H, W, 3], one for each image item.
      handovers: see `labels`.
    """
    texts, images, segments = iter(texts), iter(images), []
    for item in plan:
        then = handovers[item["special_token_label"] if item["special_token_loss"] else None]
        common = {"role": "plan", "drop": bool(item["enable_cfg"]), "next": then}
        if item["type"] == "text":
            loss = "text" if item["loss"] else "none"
            segments.append(Segment("text", text=next(texts), loss=loss, **common))
        elif item["type"] == "vit_image":
            segments.append(Segment("image", image=next(images), und=True, **common))
        elif item["loss"]:
            segments.append(Segment("image", image=next(images), loss="flow", **common))
        else:
            segments.append(Segment("image", image=next(images), gen=True, **common))
    return Record(name, tuple(segments))


def in_true_order(sequences: Sequence[Sample]) -> dict[str, np.ndarray]:
    """A pack of sequences under the reference's names and indices, with its dense mask."""
    fields = {name: [] for name in KINDS}
    rows, tokens, splits = [], 0, 0
    for sequence in sequences:
        text, vit, latent = np.split(sequence.order + tokens, np.cumsum(sequence.lengths)[:2])
        labelled = sequence.text_labels >= 0
        ranks = np.argsort(sequence.order)
        part = {
            "packed_text_ids": sequence.text_ids,
            "packed_text_indexes": text,
            "packed_position_ids": sequence.positions[ranks],
            "ce_loss_indexes": text[labelled],
            "packed_label_ids": sequence.text_labels[labelled],
            "ce_loss_weights": sequence.text_weights[labelled],
            "mse_loss_indexes": latent[sequence.latent_weights > 0],
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
    whole = visibility.Visibility(*(np.concatenate(field) for field in zip(*rows)))
    return packed | {"mask": visibility.dense(whole)}


def compare_packs(recorded: Recorded, tally: Tally) -> None:
    """Every array, split, mask and ViT pixel of every pack, with the recorded draws."""
    masks = recorded.arrays("masks.npz")
    samples = {sample["id"]: sample for sample in recorded.samples}
    plans = {}
    if "synthetic_plans.json" in recorded:
        plans = {plan["id"]: plan["samples"] for plan in recorded.json("synthetic_plans.json")}
    for pack in recorded.packs:
        parts = plans.get(pack["id"].split("[")[0])
        if pack["id"].endswith("[unireason]"):
            tally.deviation(SECOND_LABEL)
            continue
        if parts is None:
            parts = [samples.get(name, {"plan": []}) for name in pack["samples"]]
        if any("frame_delta" in item for sample in parts for item in sample["plan"]):
            tally.exclude(VIDEO)
            continue
        tally.deviation(EMPTY, sum(not sample["plan"] for sample in parts))
        tally.deviation(
            PADDED, len(set(map(tuple, pack.get("patchified_vae_latent_shapes", ())))) > 1
        )
        tally.deviation(TAIL, bool(pack.get("use_flex", {}).get("split_lens_tail")))
        drops = any(pack.get("dropout_prob", {}).values()) or "dropped_items" in pack
        group = "packs with dropout" if drops else "packs"
        sequences = rendered(recorded, pack, [s for s in parts if s["plan"]])
        compare_sequences(recorded, tally, group, pack, sequences, masks)


def rendered(
    recorded: Recorded, pack: Mapping[str, Any], samples: Sequence[Mapping[str, Any]]
) -> list[Sample]:
    """Our sequences of a recorded pack, with the reference's draws.

    Raises:
      ValueError: draws of the reference are left over, or there are too few.
    """
    chances = pack.get("dropout_prob") or {"text": 0.0, "vae": 0.0, "vit": 0.0}
    if "dropped_items" in pack:
        chances = dict.fromkeys(chances, 0.5)
    spec = recorded.spec(
        dropout=(chances["text"], chances["vae"], chances["vit"]),
        interpolate=pack.get("interpolate_pos", False),
        tokenizer=IdsTokenizer(*recorded.controls),
    )
    tape = Tape(pack["dropout_draws"], pack["randn_draws"])
    handovers, sequences = labels(*recorded.controls[:3]), []
    for number, sample in enumerate(samples):
        keys = [image if isinstance(image, str) else image["tensor"] for image in sample["images"]]
        record = record_of_plan(
            f"{pack['id']}:{number}",
            sample["plan"],
            (" ".join(map(str, ids)) for ids in sample["text_ids"]),
            (recorded.images[key].transpose(1, 2, 0) for key in keys),
            handovers,
        )
        sequences.append(tokenize(record, spec, tape))
    if tape.rest:
        raise ValueError(f"pack {pack['id']}: {tape.rest} draws of the reference are left over")
    return sequences


def compare_sequences(
    recorded: Recorded,
    tally: Tally,
    group: str,
    pack: Mapping[str, Any],
    sequences: Sequence[Sample],
    masks: Mapping[str, np.ndarray],
) -> None:
    """Compares sequences with a recorded pack.

    Args:
      recorded: the folder.
      tally: where the checks are counted.
      group: how the rows of the report start.
      pack: the recorded pack.
      sequences: ours, in order.
      masks: recorded masks by "<pack>/side" and "<pack>/bits".
    """
    name, packed = pack["id"], in_true_order(sequences)
    for field, kind in KINDS.items():
        wanted = recorded.pack_arrays.get(f"{name}/{field}", packed[field][:0])
        tally.equal(f"{group}: {kind}", name, packed[field], wanted)
    lengths = np.concatenate([sequence.split_lengths for sequence in sequences])
    modes = np.concatenate([sequence.split_modes for sequence in sequences])
    tally.equal(f"{group}: split lengths", name, lengths, pack["split_lens"])
    wanted = [visibility.MODES[mode] for mode in pack["attn_modes"]]
    tally.equal(f"{group}: split modes", name, modes, wanted)
    sizes = [total for s in sequences if (total := int(s.split_lengths.sum()))]
    wanted = [length for length in pack["sample_lens"] if length]
    tally.equal(f"{group}: sample lengths", name, sizes, wanted)
    if "packed_vit_tokens" in pack:
        pixels = np.concatenate([sequence.vit_patches for sequence in sequences])
        digest = hashlib.sha256(pixels.astype("<f4").tobytes()).hexdigest()
        equal = digest == pack["packed_vit_tokens"]["sha256"]
        tally.hold(f"{group}: ViT pixels", "" if equal else f"{name}: other pixels")
    if f"{name}/bits" in masks:
        side = masks[f"{name}/side"].item()
        bits = np.unpackbits(masks[f"{name}/bits"])[: side * side]
        tally.equal(f"{group}: masks", name, packed["mask"], bits.reshape(side, side) > 0)
