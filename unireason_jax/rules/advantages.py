"""From rewards to advantages: what a sample of a group is worth beside its siblings."""

import jax
import jax.numpy as jnp

SCALES = ("std", "floored_std", "none")
STD_EPSILON, STD_FLOOR = 1e-4, 0.1
MALFORMED = 0.5


def group_advantages(rewards: jax.Array, *, scale: str, clip: float) -> jax.Array:
    """(reward - mean of its group) over a scale, clipped to +-clip; 0 in a group of equal rewards.

    Args:
      rewards: [..., G] of groups that share prompt and start.
      scale: "std" divides by the population standard deviation + 1e-4 (Flow-GRPO), "floored_std"
        by that deviation but at least 0.1 (UMM-Reflection), "none" by nothing (R3).
      clip: largest magnitude; 5 for Flow-GRPO, 1 for UMM-Reflection.

    Returns:
      [..., G].

    Raises:
      ValueError: unknown scale.
    """
    if scale not in SCALES:
        raise ValueError(f"advantage scale {scale!r} is not one of {', '.join(SCALES)}.")
    centred = rewards - jnp.mean(rewards, axis=-1, keepdims=True)
    std = jnp.std(rewards, axis=-1, keepdims=True)
    divisors = {"std": std + STD_EPSILON, "floored_std": jnp.maximum(std, STD_FLOOR), "none": 1.0}
    return jnp.clip(centred / divisors[scale], -clip, clip)


def penalise_malformed(advantages: jax.Array, malformed: jax.Array) -> jax.Array:
    """Advantages in which a malformed trajectory is never positive (UMM-Reflection).

    It is done after the normalisation: as part of the reward, the mean of a group in which all are
    malformed would take it out again.
    """
    worse = jnp.maximum(jnp.minimum(advantages, 0) - MALFORMED, -1)
    return jnp.where(malformed, worse, advantages)
