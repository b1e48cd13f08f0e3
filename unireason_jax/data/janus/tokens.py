"""From a record to tokens for a model that draws with codes: everything causal, in true order.

An image that the model draws is its begin, its codes and its end; the codes are targets where the
image has a loss, and what follows sees them. An image that is looked at is begin, features of the
tower, end. Where both are wanted (a draft that is reflected upon) the codes come first. Rotary
positions go on by one a token.

Condition dropout, where a record draws: with the probability of texts, all words but the first
token become the blank id, are still seen, and carry no loss: what guidance turns away from.
"""

import numpy as np

from unireason_jax.data.bagel.tokens import (
    SampleSpec,
    check_limits,
    image_length,
    latent_pixels,
    refuse_hole,
    text_weight,
    vit_tokens,
)
from unireason_jax.data.condition_dropout import prompt_dropped
from unireason_jax.data.janus import script
from unireason_jax.data.records import Record, RecordError, Segment
from unireason_jax.data.samples import LATENT, TEXT, VIT, Sample
from unireason_jax.rules import visibility


def lengths(record: Record, spec: SampleSpec) -> tuple[int, int, int]:
    """Tokens by stream (text, vit, codes); files are read up to their header.

    Raises:
      RecordError: as `tokenize`, except for what only shows when pixels are decoded.
    """
    total = [0, 0, 0]
    for number, segment in enumerate(record.segments):
        try:
            refuse_hole(segment)
            around = script.said(record, number, spec.tokenizer)
            total[TEXT] += sum(map(len, around))
            for stream in streams(segment, spec):
                total[TEXT] += 2
                total[stream] += image_length(segment, stream, spec)
        except (ValueError, OSError) as error:
            raise RecordError(record.id, number, str(error)) from error
    check_limits(record, total, spec)
    return tuple(total)


def streams(segment: Segment, spec: SampleSpec) -> list[int]:
    """The streams of an image's copies, in order; none for a text.

    Raises:
      ValueError: the image cannot be shown.
    """
    if segment.kind == "text":
        return []
    tower = bool(spec.vit_patch)
    found = [LATENT] if script.shows_codes(segment, tower=tower) else []
    return found + ([VIT] if segment.und and tower else [])


def tokenize(record: Record, spec: SampleSpec, rng: np.random.Generator) -> Sample:
    """The token sample of a record.

    Args:
      record: without holes.
      spec: tokenizer, codec, sizes, dropout.
      rng: keyed by the example; read once, for the dropout of the prompt.

    Raises:
      RecordError: a hole, an unreadable image, a size that does not fit, or a record longer than
        the spec's limits; nothing is cut short.
    """
    build = Builder(spec)
    for number, segment in enumerate(record.segments):
        try:
            refuse_hole(segment)
            around = script.said(record, number, spec.tokenizer)
            build.words(around.opening)
            if segment.kind == "text":
                weight = text_weight(segment, [0, *around.body], spec)
                build.words(around.body, weight)
            shown = streams(segment, spec)
            for stream in shown:
                if stream == VIT:
                    build.look(*vit_tokens(segment.image, spec))
                else:
                    codes = spec.codec.encode(latent_pixels(segment.image, spec))
                    build.draw(codes.reshape(-1), segment.weight * (segment.loss == "flow"))
            build.hand_over(segment.next)
            build.words(around.closing)
        except (ValueError, OSError) as error:
            raise RecordError(record.id, number, str(error)) from error
    blank = prompt_dropped(spec.dropout, rng) and any(build.code_weights)
    sample = build.finish(record.id, blank=blank)
    check_limits(record, sample.lengths, spec)
    return sample


class Builder:
    """The tokens of one record in true order, as they are added."""

    def __init__(self, spec: SampleSpec):
        self.spec = spec
        tokenizer = spec.tokenizer
        self.after = {"text": tokenizer.bos, "image": tokenizer.soi, "stop": tokenizer.eos}
        self.markers: set[int] = set()  # text tokens that begin or end an image
        self.kinds: list[np.ndarray] = []
        self.ids: list[int] = []
        self.labels: list[int] = []
        self.weights: list[float] = []
        self.patches: list[np.ndarray] = []
        self.places: list[np.ndarray] = []
        self.codes: list[np.ndarray] = []
        self.code_weights: list[float] = []
        self.starts: list[int] = []

    def words(self, ids: list[int], weight: float = 0.0) -> None:
        """Adds text tokens; a weight supervises each of them, at the token before it."""
        for token in ids:
            if weight:
                self.labels[-1], self.weights[-1] = token, weight
            self.ids.append(token)
            self.labels.append(-1)
            self.weights.append(0.0)
        self.kinds.append(np.full(len(ids), TEXT, np.int8))

    def look(self, patches: np.ndarray, places: np.ndarray) -> None:
        """Adds an image as the tower's features."""
        self.patches.append(patches)
        self.places.append(places)
        self._between(VIT, len(places))

    def draw(self, codes: np.ndarray, weight: float) -> None:
        """Adds an image as its codes, with their weight as targets."""
        self.codes.append(codes)
        self.code_weights.append(weight)
        self.starts.append(len(self.ids))
        self._between(LATENT, len(codes))

    def _between(self, stream: int, count: int) -> None:
        """Adds the begin of an image, tokens of a stream, and the end."""
        for token in (self.spec.tokenizer.soi, None, self.spec.tokenizer.eoi):
            if token is None:
                self.kinds.append(np.full(count, stream, np.int8))
            else:
                self.markers.add(len(self.ids))
                self.words([token])

    def hand_over(self, following: str) -> None:
        """Labels the last token with what comes next."""
        if following != "none":
            self.labels[-1], self.weights[-1] = self.after[following], 1.0

    def finish(self, record_id: str, *, blank: bool) -> Sample:
        """The sample of all that was added; blank: without its words."""
        ids, weights = np.array(self.ids, np.int32), np.array(self.weights, np.float32)
        labels = np.array(self.labels, np.int32)
        if blank:
            gone = np.array([0 < i and i not in self.markers for i in range(len(ids))])
            ids[gone] = script.blank(self.spec.tokenizer)
            labels[:], weights[:] = -1, 0
        kinds = np.concatenate(self.kinds)
        order = np.argsort(kinds, kind="stable").astype(np.int32)
        seen = visibility.build([len(kinds)], [visibility.CAUSAL])
        counts, drawn = [len(x) for x in self.places], [len(x) for x in self.codes]
        before = [np.full(count, -1, np.int32) for count in drawn]
        for found, start in zip(before, self.starts):
            found[:1] = start
        total = sum(drawn)
        return Sample(
            record_id=record_id,
            text_ids=ids,
            text_labels=labels,
            text_weights=weights,
            vit_patches=_joined(self.patches, (0, 3 * self.spec.vit_patch**2), np.float32),
            vit_positions=_joined(self.places, (0,), np.int32),
            vit_images=np.repeat(np.arange(len(counts), dtype=np.int32), counts),
            latents=np.zeros((total, 0), np.float32),
            latent_positions=np.arange(total, dtype=np.int32),
            latent_weights=np.zeros(total, np.float32),
            latent_logits=np.zeros(total, np.float32),
            noise_seeds=np.zeros(total, np.uint32),
            code_ids=_joined(self.codes, (0,), np.int32),
            code_weights=np.repeat(np.array(self.code_weights, np.float32), drawn),
            code_from=_joined(before, (0,), np.int32),
            positions=order.copy(),
            order=order,
            visibility=visibility.Visibility(*(part[order] for part in seen)),
            split_lengths=np.array([len(kinds)], np.int32),
            split_modes=np.array([visibility.CAUSAL], np.int32),
            vit_count=len(counts),
        )


def _joined(parts: list[np.ndarray], empty: tuple[int, ...], dtype) -> np.ndarray:
    return np.concatenate(parts).astype(dtype, copy=False) if parts else np.zeros(empty, dtype)
