"""Losses of a policy: the clipped ratio and the distance to a reference."""

import jax
import jax.numpy as jnp

LINEAR_FROM = 10.0


def clipped_ratio(log_ratio: jax.Array, advantage: jax.Array, clip: float) -> jax.Array:
    """max(-A r, -A clip(r, 1 - clip, 1 + clip)), r = exp(log_ratio), element by element.

    Args:
      log_ratio: log-probability under the policy less that of the sampler, per token or per image.
      advantage: broadcasts over `log_ratio`.
      clip: how far the ratio counts; of a flow's mean log-probability, far below that of text.
    """
    ratio = jnp.exp(log_ratio)
    bounded = jnp.clip(ratio, 1 - clip, 1 + clip)
    return jnp.maximum(-advantage * ratio, -advantage * bounded)


def clip_share(log_ratio: jax.Array, clip: float) -> jax.Array:
    """Whether a ratio lies outside of the range that counts, element by element."""
    return jnp.abs(jnp.exp(log_ratio) - 1) > clip


def k3(new: jax.Array, reference: jax.Array) -> jax.Array:
    """Estimate of the KL divergence to the reference, exp(d) - 1 - d with d = new - reference.

    Above d = 10 the exponential goes on as a straight line of the same value and slope: a token far
    off keeps a gradient but does not carry the whole loss (UMM-Reflection). A clamp would have no
    gradient where it is needed most.

    Args:
      new, reference: log-probabilities of the same tokens.
    """
    d = new - reference
    inner = jnp.minimum(d, LINEAR_FROM)
    return jnp.exp(inner) * (1 + (d - inner)) - 1 - d


def token_mean(values: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean over all tokens with mask 1: [..., T] -> scalar."""
    return jnp.sum(values * mask) / jnp.maximum(jnp.sum(mask), 1)


def sequence_mean(values: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean over sequences of their means over tokens, empty ones left out: [..., T] -> scalar."""
    lengths = jnp.sum(mask, axis=-1)
    means = jnp.sum(values * mask, axis=-1) / jnp.maximum(lengths, 1)
    return jnp.sum(means) / jnp.maximum(jnp.sum(lengths > 0), 1)
