"""Stochastic steps of rectified flow, and the probability of what they did.

The ODE step x' = x - (t - t') v of `flow` becomes a Gaussian transition with the same marginals:

    sigma(t) = a sqrt(t / (1 - t))        a: noise level; the root uses min(t, cap)
    mean     = (1 - t') x0 + (t' - sigma^2 h / (2 t)) noise,   x0 = x - t v, noise = x + (1 - t) v
    std      = sigma sqrt(h),   h = t - t' > 0

(Flow-GRPO, arXiv 2505.05470, in BAGEL's convention: t = 1 is noise, v = noise - x0.) a = 0 is the
Euler step. Log-probabilities are means over the numbers of a latent, in the dtype given, at least
float32. Steps of noise level 0 have log-probability 0 and no gradient through it.
"""

import jax
import jax.numpy as jnp

LATEST = 0.95  # R3's cap: the coefficient grows no further this close to pure noise


def noise_scale(t: jax.Array, level: jax.Array | float, cap: jax.Array | float) -> jax.Array:
    """sigma(t) of the SDE.

    Args:
      t: flow times in (0, 1].
      level: noise level a.
      cap: largest time under the root: the second point of the schedule (Flow-GRPO) or `LATEST`.
    """
    t = jnp.asarray(t)
    return level * jnp.sqrt(t / (1 - jnp.minimum(t, cap)))


def sde_step(
    x: jax.Array,
    velocity: jax.Array,
    t: jax.Array | float,
    t_next: jax.Array | float,
    *,
    level: jax.Array | float,
    cap: jax.Array | float = LATEST,
) -> tuple[jax.Array, jax.Array]:
    """(mean, standard deviation) of the next point; the deviation is shaped like `t`.

    Args:
      x, velocity: [..., P].
      t, t_next: [...] or scalars, t > t_next.
      level, cap: see `noise_scale`.
    """
    h = t - t_next
    sigma = noise_scale(t, level, cap)
    kept, pulled = (jnp.asarray(y)[..., None] for y in (1 - t_next, t_next - sigma**2 * h / 2 / t))
    data, noise = _ends(x, velocity, t)
    return kept * data + pulled * noise, sigma * jnp.sqrt(h)


def cps_step(
    x: jax.Array,
    velocity: jax.Array,
    t: jax.Array | float,
    t_next: jax.Array | float,
    *,
    level: jax.Array | float,
) -> tuple[jax.Array, jax.Array]:
    """`sde_step` that keeps the noise in x' at t' exactly (CPS, arXiv 2509.05952)."""
    std = t_next * jnp.sin(jnp.asarray(level) * jnp.pi / 2)
    left = jnp.sqrt(jnp.maximum(jnp.square(t_next) - std**2, 0))
    data, noise = _ends(x, velocity, t)
    return jnp.asarray(1 - t_next)[..., None] * data + left[..., None] * noise, std


def _ends(x: jax.Array, velocity: jax.Array, t: jax.Array | float) -> tuple[jax.Array, jax.Array]:
    """The data and the noise that the straight line through x leads to."""
    t = jnp.asarray(t)[..., None]
    return x - t * velocity, x + (1 - t) * velocity


def log_prob(x_next: jax.Array, mean: jax.Array, std: jax.Array) -> jax.Array:
    """Mean over the last axis of -(x' - mean)^2 / (2 std^2), constants left out: [...].

    The constants cancel in every ratio, so this is the form of BAGEL's trainers.
    """
    return -_mean_square(x_next - mean, std) / 2


def log_density(x_next: jax.Array, mean: jax.Array, std: jax.Array) -> jax.Array:
    """`log_prob` with its constants: the mean over the last axis of the log density."""
    return log_prob(x_next, mean, std) - jnp.log(std) - 0.5 * jnp.log(2 * jnp.pi)


def cps_log_prob(x_next: jax.Array, mean: jax.Array) -> jax.Array:
    """Log-probability of `cps_step` as its authors use it: -mean((x' - mean)^2), no variance."""
    return -jnp.mean(jnp.square(x_next - mean), axis=-1)


def centred_log_ratio(
    x_next: jax.Array, mean: jax.Array, old_mean: jax.Array, std: jax.Array
) -> jax.Array:
    """GRPO-Guard's log ratio (arXiv 2510.22319): its bias taken out, and scaled by `std`.

    Equal to the mean over the last axis of eps (mean - old_mean), eps the noise that was drawn.
    """
    new, old = log_prob(x_next, mean, std), log_prob(x_next, old_mean, std)
    return std * (new - old + transition_kl(mean, old_mean, std))


def transition_kl(mean: jax.Array, other: jax.Array, std: jax.Array) -> jax.Array:
    """KL divergence of two transitions of equal variance, a mean over the last axis: [...]."""
    return _mean_square(mean - other, std) / 2


def velocity_penalty(velocity: jax.Array, reference: jax.Array) -> jax.Array:
    """Mean square distance to the reference's velocity, not weighted by time (UniGRPO): [...]."""
    return jnp.mean(jnp.square(velocity - reference), axis=-1)


def _mean_square(gap: jax.Array, std: jax.Array) -> jax.Array:
    """Mean of (gap / std)^2 over the last axis; 0 where std is 0, without a NaN in its gradient."""
    std = jnp.asarray(std)
    is_random = std > 0
    variance = jnp.where(is_random, jnp.square(std), 1)
    return jnp.where(is_random, jnp.mean(jnp.square(gap), axis=-1) / variance, 0)
