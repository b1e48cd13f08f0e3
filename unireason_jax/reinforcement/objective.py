"""The joint objective of a packed microbatch: clipped ratios of text and of flow, and penalties.

    loss =   text.weight * sum w max(-A r, -A clip(r))   over tokens the model wrote
           + flow.weight * sum w max(-A r, -A clip(r))   over stochastic steps
           + text.kl * sum w k3 + flow.penalty * sum w |v - v_ref|^2

The weights w of a whole iteration sum to 1 for text and for flow, so microbatches add up and
nothing depends on how trajectories are packed. The old log-probability of a first update is the new
one, held constant: the ratio is 1 to the last bit whatever the sampler's programs round. Later
updates of the same rollouts compare with what the first one recorded.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from unireason_jax.models import functional
from unireason_jax.models.config import ModelConfig
from unireason_jax.pods.sharding import constrain
from unireason_jax.reinforcement.settings import Policy
from unireason_jax.rules import policy_losses, stochastic_steps
from unireason_jax.rules.visibility import Visibility

Rows = Mapping[str, jax.Array]


class Said(NamedTuple):
    """What a model says of a packed microbatch.

    Attributes:
      text: [B, T] float32 log-probabilities of the labels at the temperature; 0 without one.
      entropy: [B, T] float32 of the distributions that they are from.
      moves: [B, S] float32 log-probabilities of the stochastic steps.
      velocity: [B, M, P] float32.
    """

    text: jax.Array
    entropy: jax.Array
    moves: jax.Array
    velocity: jax.Array


def say(
    params: Any, rows: Rows, *, model: ModelConfig, policy: Policy, vocab: int, chunk: int
) -> Said:
    """One forward pass over whole trajectories.

    Args:
      params: all parameters.
      rows: a microbatch of rows, see `rows.Filler`.
      model: the model's shape.
      policy: temperature and noise level.
      vocab: ids below it may be written.
      chunk: text tokens of a row whose logits exist at the same time.
    """
    bagel = functional.bind(model, params)
    with jax.named_scope("embed"):
        streams = [bagel.embed_text(rows["text_ids"])]
        if rows["vit_patches"].shape[1]:
            images = rows["vit_patches"], rows["vit_positions"], rows["vit_images"]
            streams.append(bagel.embed_vit(*images))
        und = jnp.concatenate(streams, axis=1)
        gen = bagel.embed_latents(rows["latents"], rows["times"], rows["latent_positions"])
    seen = Visibility(rows["vis_key"], rows["vis_lo"], rows["vis_hi"], rows["vis_own"])
    und, gen, _ = bagel.decode(und, gen, rows["positions"], seen, keep_kv=False)
    with jax.named_scope("text"):
        text, entropy = token_logps(
            und[:, : rows["text_ids"].shape[1]],
            bagel.head_kernel,
            rows["text_labels"],
            temperature=policy.temperature,
            vocab=vocab,
            chunk=chunk,
            dtype=model.dtype,
        )
    with jax.named_scope("moves"):
        velocity = bagel.velocity(gen).astype(jnp.float32)
        moves = move_logps(velocity, rows, policy.noise)
    return Said(text, entropy, moves, velocity)


def token_logps(
    hidden: jax.Array,
    kernel: jax.Array,
    labels: jax.Array,
    *,
    temperature: float,
    vocab: int,
    chunk: int,
    dtype: str,
) -> tuple[jax.Array, jax.Array]:
    """Log-probabilities [B, T] of labels and entropies [B, T], `chunk` tokens at a time.

    The distribution is the sampler's: the first `vocab` columns of the head [D, V], logits over the
    temperature. The backward pass makes the logits of a chunk again.
    """
    rows, tokens, _ = hidden.shape
    chunk = max(min(chunk, tokens), 1)
    padding = -tokens % chunk
    matrix = constrain(kernel.astype(dtype), None, "vocab")

    @jax.checkpoint
    def part(piece: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        h, label = piece
        logits = jnp.einsum(
            "BTD,DV->BTV", h.astype(dtype), matrix, preferred_element_type=jnp.float32
        )
        column = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 2)
        logits = jnp.where(column < vocab, logits / temperature, -jnp.inf)
        logs = jax.nn.log_softmax(constrain(logits, "batch", None, "vocab"))
        found = jnp.take_along_axis(logs, jnp.maximum(label, 0)[..., None], axis=-1)[..., 0]
        spread = -jnp.sum(jnp.where(column < vocab, jnp.exp(logs) * logs, 0.0), axis=-1)
        return jnp.where(label >= 0, found, 0.0), spread

    def pieces(x: jax.Array) -> jax.Array:
        x = jnp.pad(x, [(0, 0), (0, padding)] + [(0, 0)] * (x.ndim - 2))
        return jnp.moveaxis(x.reshape(rows, -1, chunk, *x.shape[2:]), 1, 0)

    found = jax.lax.map(part, (pieces(hidden), pieces(labels)))
    return tuple(jnp.moveaxis(x, 0, 1).reshape(rows, -1)[:, :tokens] for x in found)


def move_logps(velocity: jax.Array, rows: Rows, level: float) -> jax.Array:
    """Log-probabilities [B, S] of the stochastic steps, means over the numbers of an image."""
    is_move = rows["moves"] >= 0
    t = jnp.where(is_move, rows["times"], 0.5)  # clean tokens, at 0, are no step
    t_next = jnp.where(is_move, rows["next_times"], 0.4)
    mean, std = stochastic_steps.sde_step(rows["latents"], velocity, t, t_next, level=level)
    each = stochastic_steps.log_prob(rows["next_latents"], mean, std)
    return _image_means(each, rows)


def _image_means(values: jax.Array, rows: Rows) -> jax.Array:
    """Means [B, S] over the tokens of each step of values [B, M]."""
    slots = rows["move_weights"].shape[1]
    number = jnp.where(rows["moves"] >= 0, rows["moves"], slots)

    def one(values: jax.Array, number: jax.Array) -> jax.Array:
        sums = jax.ops.segment_sum(values, number, slots + 1)[:slots]
        counts = jax.ops.segment_sum(jnp.ones_like(values), number, slots + 1)[:slots]
        return sums / jnp.maximum(counts, 1)

    return jax.vmap(one)(values, number)


def losses_of(
    said: Said, old: tuple[jax.Array, jax.Array], reference: Said | None, rows: Rows, policy: Policy
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The objective of a microbatch, and weighted sums to report.

    Args:
      said: what the model says.
      old: log-probabilities of text and of steps that the ratios compare with.
      reference: what the reference says; None where its distance does not count.
      rows: the microbatch.
      policy: weights and clips.
    """
    text, flow = policy.text, policy.flow
    w_text, w_flow = rows["text_weights"], rows["move_weights"]
    log_text = jnp.where(w_text > 0, said.text - old[0], 0.0)
    log_flow = jnp.where(w_flow > 0, said.moves - old[1], 0.0)
    total, told = jnp.float32(0), {}
    if text.weight:
        term = jnp.sum(
            w_text * policy_losses.clipped_ratio(log_text, rows["text_worth"], text.clip)
        )
        total += text.weight * term
        told["loss/text"] = term
    if flow.weight:
        term = jnp.sum(
            w_flow * policy_losses.clipped_ratio(log_flow, rows["move_worth"], flow.clip)
        )
        total += flow.weight * term
        told["loss/flow"] = term
    if reference is not None and text.weight:
        term = jnp.sum(
            jnp.where(w_text > 0, w_text * policy_losses.k3(said.text, reference.text), 0.0)
        )
        total += text.kl * term
        told["kl/text"] = term
    if reference is not None and flow.weight:
        apart = stochastic_steps.velocity_penalty(said.velocity, reference.velocity)
        term = jnp.sum(w_flow * _image_means(apart, rows))
        total += flow.penalty * term
        told["kl/velocity"] = term
    told |= {
        "entropy": jnp.sum(w_text * said.entropy),
        "ratio/text": jnp.sum(w_text * jnp.exp(log_text)),
        "ratio/flow": jnp.sum(w_flow * jnp.exp(log_flow)),
        "clipped/text": jnp.sum(w_text * policy_losses.clip_share(log_text, text.clip)),
        "clipped/flow": jnp.sum(w_flow * policy_losses.clip_share(log_flow, flow.clip)),
        "mismatch/text": jnp.sum(w_text * jnp.abs(said.text - rows["text_logps"])),
        "mismatch/flow": jnp.sum(w_flow * jnp.abs(said.moves - rows["move_logps"])),
    }
    return total, {"loss": total, **jax.lax.stop_gradient(told)}
