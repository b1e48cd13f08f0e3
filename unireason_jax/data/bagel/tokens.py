"""From a record to tokens: what BAGEL's training packer emits for one sample, split-packed.

Rules ("BAGEL training packer"); r is the rotary position, starting at 0:

    text          bos, ids, eos      causal   positions r, r+1, ...   r advances by their number
    flow target   SOI, latents, EOI  noised   all at r                r stays
    clean latent  SOI, latents, EOI  full     all at r                r advances by 1
    ViT copy      SOI, patches, EOI  full     all at r                r advances by 1

One image segment yields its copies in this order. A supervised text predicts ids + eos from bos +
ids; `next` is one more label on the segment's closing marker (eos, or the EOI of its last planned
copy). Condition dropout removes whole copies: a dropped text advances r by 0, a dropped image copy
by 1, flow targets stay. Each copy is drawn on its own.

The result is laid out [text | vit | latent] with the true order kept in small integers, so that
packing only concatenates and shifts. SOI and EOI are text-stream tokens of their image's split.
"""

import dataclasses
import math
from pathlib import Path
from typing import Protocol

import numpy as np

from unireason_jax.data import images, resizing, timesteps
from unireason_jax.data.condition_dropout import dropped
from unireason_jax.data.records import Record, RecordError, Segment
from unireason_jax.data.samples import LATENT, STREAMS, TEXT, VIT, Builder, Sample
from unireason_jax.data.text.tokenizer import Tokenizer
from unireason_jax.rules import visibility

WEIGHTINGS = ("token", "sqrt")


class LatentCodec(Protocol):
    """An image autoencoder with scaled latents ("VAE"), one image at a time, NumPy in and out."""

    stride: int
    channels: int

    def encode(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """uint8 [H, W, 3] -> mean, log variance, float32 [H/stride, W/stride, C]."""

    def decode(self, latents: np.ndarray) -> np.ndarray:
        """float32 [h, w, C] -> uint8 [h*stride, w*stride, 3]."""


@dataclasses.dataclass(frozen=True)
class SampleSpec:
    """Everything that turns a record into tokens, shared by training and sampling.

    Attributes:
      tokenizer: text <-> ids, and the four control ids.
      codec: image <-> latents, or codes (`by_codes`); None where no image is generated or shown so.
      latent_patch, latent_side: latents per side of a token, tokens per side of the position table.
      vit_patch, vit_side: the same for ViT patches in pixels; vit_patch 0 means that the model has
        no ViT: `und` copies are left out where the image is also shown as latents, else refused.
      latent_resize, vit_resize: size rules of the two kinds of copies; None keeps images as stored.
      dropout: probabilities (text, clean latent, ViT) of condition dropout. BAGEL trains with
        (0.1, 0.3, 0.3), UniReason with (0.1, 0.1, 0.0).
      max_text, max_vit, max_latent: longest record by stream (a row's budgets); None is no limit.
      weighting: "token" gives every supervised text token the segment's weight, "sqrt" divides it
        by the root of their number (BAGEL's optional re-weighting).
      interpolate: stretch image positions over the whole table (off in the released models).
      image_root: folder of relative image paths.
    """

    tokenizer: Tokenizer
    codec: LatentCodec | None = None
    latent_patch: int = 2
    latent_side: int = 64
    vit_patch: int = 0
    vit_side: int = 70
    latent_resize: resizing.Resize | None = None
    vit_resize: resizing.Resize | None = None
    dropout: tuple[float, float, float] = (0.0, 0.0, 0.0)
    max_text: int | None = None
    max_vit: int | None = None
    max_latent: int | None = None
    weighting: str = "token"
    interpolate: bool = False
    image_root: Path | None = None

    def __post_init__(self):
        if len(self.dropout) != 3 or not all(0 <= p <= 1 for p in self.dropout):
            raise ValueError(f"dropout is {self.dropout}; give 3 probabilities (text, latent, ViT)")
        if self.weighting not in WEIGHTINGS:
            raise ValueError(f"weighting is {self.weighting!r}; use one of {WEIGHTINGS}")

    @property
    def by_codes(self) -> bool:
        """Whether images are drawn with codes: the codec makes them, instead of latents."""
        return hasattr(self.codec, "codes")

    @property
    def patch_sizes(self) -> tuple[int, int]:
        """Features of a ViT patch (p*p*3) and of a latent token (p*p*C, 0 without codec)."""
        channels = self.codec.channels if self.codec and not self.by_codes else 0
        return 3 * self.vit_patch**2, channels * self.latent_patch**2


def text_tokens(segment: Segment, spec: SampleSpec) -> list[int]:
    """[bos, ids, eos] of a text segment, tags included."""
    tokenizer = spec.tokenizer
    return [tokenizer.bos, *tokenizer.encode(segment.content), tokenizer.eos]


def vit_tokens(image, spec: SampleSpec, sharing: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Patches float32 [v, p*p*3] in [-1, 1] and positions int32 [v] of an image's ViT copy.

    `sharing` images of a record share the resize rule's max_pixels: BAGEL counts those that are
    shown to the ViT only (questions about several images), not those of edits.
    """
    pixels = images.load(image, spec.image_root)
    if spec.vit_resize:
        pixels = spec.vit_resize.apply(pixels, sharing)
    patch = spec.vit_patch
    _check_multiple(pixels.shape[1], pixels.shape[0], patch)
    rows, columns = pixels.shape[0] // patch, pixels.shape[1] // patch
    patches = images.PIXEL_VALUES[images.patchify(pixels, patch)]
    return patches, images.positions(rows, columns, spec.vit_side, spec.interpolate)


def latent_pixels(image, spec: SampleSpec) -> np.ndarray:
    """What the codec encodes of an image: uint8 [H, W, 3], resized.

    Raises:
      ValueError: an edge is not a multiple of a latent token.
    """
    pixels = images.load(image, spec.image_root)
    if spec.latent_resize:
        pixels = spec.latent_resize.apply(pixels)
    _check_multiple(pixels.shape[1], pixels.shape[0], spec.codec.stride * spec.latent_patch)
    return pixels


def latent_tokens(
    image,
    spec: SampleSpec,
    rng: np.random.Generator | None = None,
    moments: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Latents float32 [m, p*p*C] and positions int32 [m] of an image.

    The posterior is sampled with `rng` as in the reference's training; without, its mean is taken.
    `moments` of the posterior made ahead of time (`Segment.moments`) are used instead of the image.
    """
    if moments is None:
        latents, logvar = spec.codec.encode(latent_pixels(image, spec))
    else:
        latents, logvar = moments.astype(np.float32)
    if rng is not None:
        noise = rng.standard_normal(latents.shape, np.float32)
        latents = latents + np.exp(np.float32(0.5) * logvar) * noise
    rows, columns = (edge // spec.latent_patch for edge in latents.shape[:2])
    tokens = images.patchify(latents, spec.latent_patch).astype(np.float32, copy=False)
    return tokens, images.positions(rows, columns, spec.latent_side, spec.interpolate)


def copies(segment: Segment, spec: SampleSpec) -> list[tuple[int, int]]:
    """(stream, split mode) of each copy that a segment puts into the sample, in order.

    Raises:
      ValueError: the image needs a ViT or a codec that the spec lacks.
    """
    if segment.kind == "text":
        return [(TEXT, visibility.CAUSAL)]
    shown = []
    if segment.loss == "flow":
        shown.append((LATENT, visibility.NOISED))
    if segment.gen:
        shown.append((LATENT, visibility.FULL))
    if shown and spec.codec is None:
        raise ValueError("the image needs latents but the spec has no codec; give one")
    if segment.und and spec.vit_patch:
        shown.append((VIT, visibility.FULL))
    elif segment.und and not segment.gen:
        raise ValueError("the image is shown to a ViT only but the model has none; set gen=True")
    return shown


def lengths(record: Record, spec: SampleSpec) -> tuple[int, int, int]:
    """Tokens by stream (text, vit, latent) before dropout; files are read up to their header.

    Raises:
      RecordError: as `tokenize`, except for what only shows when pixels are decoded.
    """
    total = [0, 0, 0]
    sharing = _sharing(record)
    for number, segment in enumerate(record.segments):
        try:
            refuse_hole(segment)
            for stream, _ in copies(segment, spec):
                if stream == TEXT:
                    total[TEXT] += len(text_tokens(segment, spec))
                else:
                    total[TEXT] += 2
                    total[stream] += image_length(segment, stream, spec, sharing)
        except (ValueError, OSError) as error:
            raise RecordError(record.id, number, str(error)) from error
    check_limits(record, total, spec)
    return tuple(total)


def tokenize(record: Record, spec: SampleSpec, rng: np.random.Generator) -> Sample:
    """The sample of a record: its tokens.

    Args:
      record: without holes.
      spec: tokenizer, codec, sizes, dropout.
      rng: keyed by the example. Read in this order whatever is dropped: one `random` per droppable
        copy; one `standard_normal` (timestep) and one `integers` (noise seed) per flow target; then
        the posterior samples.

    Raises:
      RecordError: a hole, an unreadable image, a size that does not fit, or a record longer than
        the spec's limits; nothing is cut short.
    """
    build = Builder(spec.tokenizer, spec.patch_sizes)
    plan = _plan(record, spec)
    is_target = [mode == visibility.NOISED for _, _, mode in plan]
    droppable = [record.segments[n].drop and not no for (n, _, _), no in zip(plan, is_target)]
    drops = dropped([stream for _, stream, _ in plan], droppable, spec.dropout, rng)
    logits, seeds = timesteps.draw(sum(is_target), rng)
    latents: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    sharing = _sharing(record)
    last = {number: place for place, (number, _, _) in enumerate(plan)}
    target = 0
    for place, (number, stream, mode) in enumerate(plan):
        segment = record.segments[number]
        following = segment.next if last[number] == place else "none"
        try:
            if stream == LATENT and number not in latents:
                latents[number] = latent_tokens(segment.image, spec, rng, segment.moments)
            if drops[place]:
                build.skip(stream)
            elif stream == TEXT:
                ids = text_tokens(segment, spec)
                build.text(ids, text_weight(segment, ids, spec), following)
            elif stream == VIT:
                build.vit(*vit_tokens(segment.image, spec, sharing), following)
            elif mode == visibility.NOISED:
                build.target(
                    *latents[number],
                    following,
                    weight=segment.weight,
                    logit=logits[target],
                    seed=seeds[target],
                )
                target += 1
            else:
                build.clean(*latents[number], following)
        except (ValueError, OSError) as error:
            raise RecordError(record.id, number, str(error)) from error
    sample = build.finish(record.id)
    check_limits(record, sample.lengths, spec)
    return sample


def _sharing(record: Record) -> int:
    """Images that are shown to the ViT only, at least 1."""
    return max(1, sum(s.und and not s.gen and s.loss == "none" for s in record.segments))


def _plan(record: Record, spec: SampleSpec) -> list[tuple[int, int, int]]:
    plan = []
    for number, segment in enumerate(record.segments):
        try:
            refuse_hole(segment)
            plan += [(number, stream, mode) for stream, mode in copies(segment, spec)]
        except ValueError as error:
            raise RecordError(record.id, number, str(error)) from error
    return plan


def text_weight(segment: Segment, ids: list[int], spec: SampleSpec) -> float:
    """Loss weight of each of the len(ids) - 1 supervised tokens; 0 without loss."""
    if segment.loss != "text":
        return 0.0
    return segment.weight / (math.sqrt(len(ids) - 1) if spec.weighting == "sqrt" else 1.0)


_FIELDS = {
    "plan": "'think', or 'explanation' of a refinement, which may be \"\"",
    "draft": "'draft'",
    "reflection": "'reflection' of a round, or 'final_reflection', which may be \"\"",
    "refined": "'image' of a round",
    "image": "'image', or 'output_image' of an edit",
    "answer": "'answer'",
}
"""What an example calls the contents of a segment, by its role."""


def refuse_hole(segment: Segment) -> None:
    """Raises ValueError for a hole; the message names the field that would fill it."""
    if segment.is_hole:
        field = _FIELDS.get(segment.role)
        told = f" (field {field})" if field else ""
        raise ValueError(
            f"the {segment.role} {segment.kind} is a hole{told}; holes are for sampling, training "
            "data must fill them"
        )


def _check_multiple(width: int, height: int, multiple: int) -> None:
    if width % multiple or height % multiple:
        raise ValueError(
            f"image of {width} x {height} pixels is not a multiple of {multiple}; choose sizes "
            "that resize (`unireason prepare --sizes`), or give the spec a rule with that stride"
        )


def image_length(segment: Segment, stream: int, spec: SampleSpec, sharing: int = 1) -> int:
    """Tokens of an image's copy in a stream, without its markers. Raises ValueError and OSError."""
    if stream == LATENT and segment.moments is not None:
        height, width = (edge * spec.codec.stride for edge in segment.moments.shape[1:3])
    else:
        width, height = images.size(segment.image, spec.image_root)
        resize = spec.vit_resize if stream == VIT else spec.latent_resize
        if resize:
            width, height = resize(width, height, sharing if stream == VIT else 1)
    cell = spec.vit_patch if stream == VIT else spec.codec.stride * spec.latent_patch
    _check_multiple(width, height, cell)
    side = spec.vit_side if stream == VIT else spec.latent_side
    return len(images.positions(height // cell, width // cell, side))


def check_limits(record: Record, found, spec: SampleSpec) -> None:
    """Raises RecordError where a record has more tokens of a stream than a row."""
    for stream, count in zip(STREAMS, found):
        limit = getattr(spec, f"max_{stream}")
        if limit is not None and count > limit:
            raise RecordError(
                record.id,
                None,
                f"{count} {stream} tokens exceed the row's {limit}; raise max_{stream} or leave "
                "the record out",
            )
