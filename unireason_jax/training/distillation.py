"""A student that draws in few passes: it learns in one step what its teacher does in several.

    teacher   n small steps of the guided velocity, from x_t at the student's time t to t', the next
    target    (x_t - x_t') / (t - t'): the one velocity that leads there
    student   the target of its single pass in the full context, without guidance

With n = 1 and any t this is guidance distillation (Meng et al., 2023); with the student's own times
it is one round of progressive distillation (Salimans and Ho, 2022), guidance included. The noised
latents are those of training, at t = 1 pure noise. Everything else is the train step: times and
target are put into the batch, texts are learned beside, and the guidance is the sampler's
(`rules.flow.guide`) over the same packed rows in poorer contexts (`rules.poorer_contexts`).
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from unireason_jax.models import functional, lora
from unireason_jax.models.bagel import Bagel
from unireason_jax.models.config import ModelConfig
from unireason_jax.rules import flow, poorer_contexts
from unireason_jax.rules.poorer_contexts import View
from unireason_jax.training import objective
from unireason_jax.training.objective import Batch
from unireason_jax.training.optim import Params, flatten, unflatten
from unireason_jax.training.state import TrainState


@dataclasses.dataclass(frozen=True)
class Guidance:
    """How the teacher is guided; as the sampler's `FlowSettings`.

    Attributes:
      text_scale: away from the context without any text; 1 or less turns all guidance off.
      image_scale: away from the context without images; 1 or less turns it off.
      interval: (lo, hi): guidance acts at times lo < t <= hi.
      renorm, renorm_min: see `flow.guide`.
      image_free: what is left of images that are left out, one of `poorer_contexts.IMAGE_FREE`.
    """

    text_scale: float = 1.0
    image_scale: float = 1.0
    interval: tuple[float, float] = (0.0, 1.0)
    renorm: str = "none"
    renorm_min: float = 0.0
    image_free: str = "gaps"

    def __post_init__(self) -> None:
        """Raises ValueError on values that cannot work."""
        if self.away_from_images and self.image_free not in poorer_contexts.IMAGE_FREE:
            names = ", ".join(poorer_contexts.IMAGE_FREE)
            raise ValueError(f"image_free is {self.image_free!r}; a student learns {names}.")
        if self.renorm not in flow.RENORMS:
            names = ", ".join(flow.RENORMS)
            raise ValueError(f"renorm is {self.renorm!r}; use one of {names}.")

    @property
    def away_from_images(self) -> bool:
        """Whether the context without images is read."""
        return self.text_scale > 1 and self.image_scale > 1

    def __call__(
        self, parts: dict[str, jax.Array], t: jax.Array, samples: jax.Array, shown: jax.Array
    ) -> jax.Array:
        """The guided velocity [B, T, P].

        Args:
          parts: velocities [B, T, P] in the contexts "full", "without_words", "without_images";
            those that the guidance needs.
          t: [B, T] flow times.
          samples: [B, T] image of its row that a token belongs to.
          shown: [B, T] bool, whether its context shows an image: else none can be left out.
        """
        full, (lo, hi) = parts["full"], self.interval
        if self.text_scale <= 1:
            return full
        guided = flow.guide(
            full,
            parts["without_words"],
            parts.get("without_images") if self.away_from_images else None,
            text_scale=self.text_scale,
            image_scale=jnp.where(shown, self.image_scale, 1.0),
            renorm=self.renorm,
            renorm_min=self.renorm_min,
            samples=samples,
        )
        return jnp.where(((lo < t) & (t <= hi))[..., None], guided, full)


@dataclasses.dataclass(frozen=True)
class Distillation:
    """What a student learns.

    Attributes:
      steps: that it draws an image in; 0: it learns guidance alone, at any time.
      substeps: of the teacher in each of them.
      shift: of the times t of its steps (and of training, where `steps` is 0).
      markers: ids that begin and end an image.
      draw: guidance of images whose context shows none.
      edit: of images whose context shows one.
    """

    steps: int
    substeps: int
    shift: float
    markers: tuple[int, int]
    draw: Guidance = Guidance()
    edit: Guidance = Guidance()

    def __post_init__(self) -> None:
        """Raises ValueError on values that cannot work."""
        if self.substeps < 1 or self.steps < 0 or self.shift <= 0:
            raise ValueError("substeps must be 1 or more, steps 0 or more, and shift above 0.")
        if not self.steps and self.substeps > 1:
            raise ValueError("several substeps need steps: where does one of them end?")

    def times(self, logits: jax.Array) -> jax.Array:
        """The teacher's times from a step of the student to the next: [substeps + 1, B, T].

        Args:
          logits: [B, T] normal draws of training; -inf are clean tokens, which stay at 0.
        """
        if not self.steps:
            t = flow.timesteps(logits, self.shift)
            return jnp.stack([t, jnp.zeros_like(t)])
        number = jnp.ceil(jax.scipy.special.ndtr(logits) * self.steps)  # uniform in 1 .. steps
        part = jnp.arange(self.substeps + 1)[:, None, None] / self.substeps
        return flow.shift(jnp.maximum(number - part, 0.0) / self.steps, self.shift)


def taught(teacher: Params, batch: Batch, *, model: ModelConfig, how: Distillation) -> Batch:
    """The batch with the noise, the "times" [B, T] and the "target" [B, T, P] of its student.

    Args:
      teacher: all parameters.
      batch: packed rows.
      model: the teacher's shape.
      how: what is learned.
    """
    bagel = functional.bind(model, teacher)
    times, noise = how.times(batch["latent_logits"]), objective.noise_of(batch)
    und, views = objective.embed_und(bagel, batch), contexts(batch, how)
    seen = views["full"].seen
    first = seen.own.shape[1] - times.shape[-1]
    own, images = seen.own[:, first:], _parts(batch, how).starts
    samples = jnp.cumsum(own != jnp.roll(own, 1, axis=1), axis=1) % own.shape[1]
    shown = poorer_contexts.count_seen(seen, images)[:, first:] > 0

    def step(carry: tuple, row: tuple) -> tuple[tuple, None]:
        (x, moved), (t, after) = carry, row
        found = {name: _velocity(bagel, und, batch, x, t, view) for name, view in views.items()}
        told = (found, t, samples, shown)
        v = jnp.where(shown[..., None], how.edit(*told), how.draw(*told)) * (t - after)[..., None]
        return (x - v, moved + v), None

    with jax.named_scope("teacher"):
        x_t = flow.interpolate(batch["latents"], noise, times[0])
        start = x_t, jnp.zeros_like(x_t)
        (_, moved), _ = jax.lax.scan(step, start, (times[:-1], times[1:]))
    length = (times[0] - times[-1])[..., None]
    target = moved / jnp.where(length > 0, length, 1.0)
    return {**batch, "noise": noise, "times": times[0], "target": jax.lax.stop_gradient(target)}


def contexts(batch: Batch, how: Distillation) -> dict[str, View]:
    """The views of the rows that the teacher's guidance needs, by name; "full" is the first."""
    full, parts = View(batch["positions"], objective.seen_by(batch)), _parts(batch, how)
    found = {"full": full}
    if max(how.draw.text_scale, how.edit.text_scale) > 1:
        found["without_words"] = poorer_contexts.without_words(full, parts)
    if how.edit.away_from_images:
        rule = how.edit.image_free
        found["without_images"] = poorer_contexts.without_images(full, parts, rule)
    return found


def train_step(
    state: TrainState,
    batch: Batch,
    teacher: Params | None = None,
    *,
    how: Distillation,
    model: ModelConfig,
    **options: Any,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """`objective.train_step` towards a teacher; of adapters: the weights they stand beside.

    Args:
      state, batch, **options: as there.
      teacher: its parameters; None with adapters.
      how: what is learned.
      model: the student's shape.
    """
    if teacher is None:
        flat = flatten(state.params)
        teacher = unflatten({k: leaf for k, leaf in flat.items() if k not in lora.own(flat)})
    batch = taught(teacher, batch, model=functional.with_adapters(model, None), how=how)
    return objective.train_step(state, batch, model=model, **options)


def _parts(batch: Batch, how: Distillation) -> poorer_contexts.Parts:
    return poorer_contexts.parts(batch["text_ids"], objective.seen_by(batch), how.markers)


def _velocity(
    bagel: Bagel, und: jax.Array, batch: Batch, x: jax.Array, t: jax.Array, view: View
) -> jax.Array:
    """Velocities [B, T, P] of latents x [B, T, P] at times t [B, T], seen as the view says."""
    gen = bagel.embed_latents(x, t, batch["latent_positions"])
    _, hidden, _ = bagel.decode(und, gen, view.positions, view.seen, keep_kv=False)
    return bagel.velocity(hidden).astype(jnp.float32)
