"""The recorded training step of the official code, token for token."""

import json

import numpy as np
from safetensors import safe_open

from unireason_jax.data import images
from unireason_jax.data.bagel.tokens import SampleSpec, tokenize
from unireason_jax.proof.packs import KINDS, in_true_order, labels, record_of_plan
from unireason_jax.proof.recorded import IdsTokenizer, MeanCodec, Tape
from unireason_jax.rules import visibility


def test_the_recorded_training_step(goldens):
    """Both samples of the golden step: every index, label, position, timestep and the mask."""
    with safe_open(goldens / "train_step.safetensors", "numpy") as file:
        meta = json.loads(file.metadata()["meta"])
        golden = {name: file.get_tensor(f"in.{name}") for name in KINDS}
        masks = [file.get_tensor(f"in.nested_attention_mask_{i}") for i in range(2)]
        splits, modes = file.get_tensor("in.split_lens"), file.get_tensor("in.attn_modes")
        raw = {i: file.get_tensor(f"raw.sample{i // 9}_image{i % 9}") for i in (0, 9, 10, 11, 12)}
        vit_tokens = file.get_tensor("in.packed_vit_tokens")
    pictures = {i: np.zeros((*image.shape[1:], 3), np.uint8) for i, image in raw.items()}
    spec = SampleSpec(
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
        record = record_of_plan(f"s{number}", plan, ids, groups[number], labels(500, 501, 502))
        sequences.append(tokenize(record, spec, tape))
    packed = in_true_order(sequences)
    for name in KINDS:
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
