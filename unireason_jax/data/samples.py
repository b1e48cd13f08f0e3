"""The tokens of one record laid out by stream, and the builder that collects them."""

import dataclasses
import math

import numpy as np

from unireason_jax.data.text.tokenizer import Tokenizer
from unireason_jax.rules import visibility

TEXT, VIT, LATENT = 0, 1, 2
STREAMS = ("text", "vit", "latent")


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """The tokens of one record, streams laid out [text | vit | latent], in record-local numbers.

    n, v, m are the tokens of the streams, T = n + v + m. Packing adds the tokens of earlier samples
    to `order`, the same and the splits of earlier samples to `visibility` (`visibility.shifted`),
    and the images of earlier samples to `vit_images`.

    Attributes:
      record_id: the record's name.
      text_ids, text_labels: int32 [n]; label -1 is none.
      text_weights: float32 [n]; 0 where there is no label.
      vit_patches: float32 [v, p*p*3] in [-1, 1], features (py, px, c).
      vit_positions, vit_images: int32 [v]; row * side + column, and the image's number.
      latents: float32 [m, p*p*C], clean x0, features (py, px, c).
      latent_positions: int32 [m].
      latent_weights: float32 [m]; > 0 on noised tokens only.
      latent_logits: float32 [m]; normal draw before the sigmoid, -inf for clean tokens.
      noise_seeds: uint32 [m]; one number per noised image, 0 for clean tokens.
      code_ids, code_from: int32 [m], of a model that draws with codes (and has no latents): the
        code, and the text token that predicts it, -1 for the code before it.
      code_weights: float32 [m], of codes as targets.
      positions: int32 [T], rotary.
      order: int32 [T], place of each token in the record's true order.
      visibility: four int32 [T] (see `unireason_jax.rules.visibility`).
      split_lengths, split_modes: int32 [splits], in true order.
      vit_count: ViT images.
    """

    record_id: str
    text_ids: np.ndarray
    text_labels: np.ndarray
    text_weights: np.ndarray
    vit_patches: np.ndarray
    vit_positions: np.ndarray
    vit_images: np.ndarray
    latents: np.ndarray
    latent_positions: np.ndarray
    latent_weights: np.ndarray
    latent_logits: np.ndarray
    noise_seeds: np.ndarray
    positions: np.ndarray
    order: np.ndarray
    visibility: visibility.Visibility
    split_lengths: np.ndarray
    split_modes: np.ndarray
    vit_count: int
    code_ids: np.ndarray | None = None
    code_weights: np.ndarray | None = None
    code_from: np.ndarray | None = None

    @property
    def lengths(self) -> tuple[int, int, int]:
        """Tokens of the text, ViT and latent streams."""
        return len(self.text_ids), len(self.vit_positions), len(self.latent_positions)


class Builder:
    """Collects the splits of one record in true order, then lays them out by stream.

    Plain lists until `finish`: short records spend their time in calls, not in arithmetic. A
    `following` argument is the `next` label of the split's closing marker.
    """

    def __init__(self, tokenizer: Tokenizer, patch_sizes: tuple[int, int]):
        self.patch_sizes = patch_sizes
        self.soi, self.eoi = tokenizer.soi, tokenizer.eoi
        self.after = {"none": -1, "text": tokenizer.bos, "image": tokenizer.soi}
        self.after["stop"] = tokenizer.eos
        self.rotary = 0
        self.ids, self.labels, self.weights = [], [], []
        self.split_lengths, self.split_modes, self.split_rotary = [], [], []
        self.split_streams = []
        self.patches, self.patch_positions = [], []
        self.latents, self.latent_positions = [], []
        self.latent_rows = []  # (tokens, weight, logit, seed) per latent image

    def skip(self, stream: int) -> None:
        """Condition dropout of a copy: nothing is added, an image still advances the rotary."""
        self.rotary += stream != TEXT

    def text(self, ids: list[int], weight: float, following: str) -> None:
        """Adds [bos, ..., eos]; `weight` > 0 supervises every token after bos."""
        count = len(ids) - 1
        self.ids += ids
        self.labels += ids[1:] if weight else [-1] * count
        self.weights += [weight] * count
        self._close(following)
        self._split(len(ids), visibility.CAUSAL, TEXT)
        self.rotary += len(ids)

    def vit(self, patches: np.ndarray, positions: np.ndarray, following: str) -> None:
        """Adds the ViT copy of an image."""
        self.patches.append(patches)
        self.patch_positions.append(positions)
        self._image(len(positions), visibility.FULL, VIT, following)
        self.rotary += 1

    def clean(self, latents: np.ndarray, positions: np.ndarray, following: str) -> None:
        """Adds the clean latent copy of an image."""
        self._latent(latents, positions, (len(positions), 0.0, -math.inf, 0))
        self._image(len(positions), visibility.FULL, LATENT, following)
        self.rotary += 1

    def target(
        self,
        latents: np.ndarray,
        positions: np.ndarray,
        following: str,
        *,
        weight: float,
        logit: float,
        seed: int,
    ) -> None:
        """Adds a flow target with its loss weight, timestep logit and noise seed."""
        self._latent(latents, positions, (len(positions), weight, logit, seed))
        self._image(len(positions), visibility.NOISED, LATENT, following)

    def _latent(self, latents, positions, row) -> None:
        self.latents.append(latents)
        self.latent_positions.append(positions)
        self.latent_rows.append(row)

    def _image(self, tokens: int, mode: int, stream: int, following: str) -> None:
        self.ids += (self.soi, self.eoi)
        self.labels.append(-1)
        self.weights.append(0.0)
        self._close(following)
        self._split(tokens + 2, mode, stream)

    def _close(self, following: str) -> None:
        self.labels.append(self.after[following])
        self.weights.append(float(following != "none"))

    def _split(self, length: int, mode: int, stream: int) -> None:
        self.split_lengths.append(length)
        self.split_modes.append(mode)
        self.split_rotary.append(self.rotary)
        self.split_streams.append(stream)

    def finish(self, record_id: str) -> Sample:
        """The sample of all that was added."""
        lengths = np.array(self.split_lengths, np.int32)
        modes = np.array(self.split_modes, np.int32)
        true = visibility.build(lengths, modes)
        order, positions = self._layout(lengths)
        counts = [len(part) for part in self.patch_positions]
        vit_width, latent_width = self.patch_sizes
        rows = list(zip(*self.latent_rows)) or [(), (), (), ()]
        return Sample(
            record_id=record_id,
            text_ids=np.array(self.ids, np.int32),
            text_labels=np.array(self.labels, np.int32),
            text_weights=np.array(self.weights, np.float32),
            vit_patches=_joined(self.patches, (0, vit_width), np.float32),
            vit_positions=_joined(self.patch_positions, (0,), np.int32),
            vit_images=np.repeat(np.arange(len(counts), dtype=np.int32), counts),
            latents=_joined(self.latents, (0, latent_width), np.float32),
            latent_positions=_joined(self.latent_positions, (0,), np.int32),
            latent_weights=np.repeat(np.array(rows[1], np.float32), rows[0]),
            latent_logits=np.repeat(np.array(rows[2], np.float32), rows[0]),
            noise_seeds=np.repeat(np.array(rows[3], np.uint32), rows[0]),
            positions=positions[order],
            order=order,
            visibility=visibility.Visibility(*(part[order] for part in true)),
            split_lengths=lengths,
            split_modes=modes,
            vit_count=len(counts),
        )

    def _layout(self, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """True order of the tokens stream by stream, and rotary positions in true order."""
        streams = np.zeros(int(lengths.sum()), np.int8)
        positions = np.repeat(np.array(self.split_rotary, np.int32), lengths)
        start = 0
        for length, stream in zip(self.split_lengths, self.split_streams):
            if stream == TEXT:
                positions[start : start + length] += np.arange(length, dtype=np.int32)
            else:
                streams[start + 1 : start + length - 1] = stream
            start += length
        return np.argsort(streams, kind="stable").astype(np.int32), positions


def _joined(parts: list[np.ndarray], empty: tuple[int, ...], dtype) -> np.ndarray:
    return np.concatenate(parts).astype(dtype, copy=False) if parts else np.zeros(empty, dtype)
