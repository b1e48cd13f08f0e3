"""Rectified flow between data (t = 0) and noise (t = 1), as BAGEL trains and samples it.

    x_t = (1 - t) x0 + t noise        velocity = d x_t / d t = noise - x0

Training takes t = sigmoid(z), z ~ N(0, 1) (drawn in `data.timesteps`), and shifts it; sampling
walks a shifted grid from 1 to 0 with Euler steps x <- x - velocity * (t_i - t_{i+1}), guided by
velocities of poorer contexts, or with a multistep solver, which also looks back at the step before.
Everything here is float32.
"""

import jax
import jax.numpy as jnp
import numpy as np

RENORMS = ("none", "global", "channel", "text_channel")
SOLVERS = ("euler", "ab2", "dpmpp_2m")
"""Euler as BAGEL samples; Adams-Bashforth of order 2; DPM-Solver++(2M) of Lu et al. (2022)."""
EPSILON = 1e-8


def shift(t: jax.Array | np.ndarray, s: float) -> jax.Array | np.ndarray:
    """s t / (1 + (s - 1) t): moves times in [0, 1] towards noise for s > 1, keeping 0 and 1."""
    return s * t / (1 + (s - 1) * t)


def timesteps(logits: jax.Array, s: float) -> jax.Array:
    """Flow times of training from normal draws before the sigmoid; -inf gives exactly 0 (clean)."""
    return shift(jax.nn.sigmoid(logits), s)


def interpolate(x0: jax.Array, noise: jax.Array, t: jax.Array) -> jax.Array:
    """Points on the straight path: x0 and noise [..., P], t [...] -> [..., P]."""
    t = t[..., None]
    return (1 - t) * x0 + t * noise


def velocity(x0: jax.Array, noise: jax.Array) -> jax.Array:
    """The target of training, noise - x0; constant along the path."""
    return noise - x0


def token_noise(seeds: jax.Array, positions: jax.Array, features: int) -> jax.Array:
    """Standard normal noise that depends on the image's seed and the token's place only.

    So an image is noised alike in any row, batch, or number of hosts.

    Args:
      seeds: [...] uint32, one per image, repeated over its tokens.
      positions: [...] int32 places in the latent grid.
      features: numbers per token P.

    Returns:
      [..., P] float32.
    """

    def draw(seed: jax.Array, position: jax.Array) -> jax.Array:
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), seed), position)
        return jax.random.normal(key, (features,), jnp.float32)

    with jax.named_scope("token_noise"):
        drawn = jax.vmap(draw)(seeds.reshape(-1), positions.reshape(-1))
        return drawn.reshape(*seeds.shape, features)


def euler_grid(count: int, s: float) -> np.ndarray:
    """`count` shifted times from 1 down to 0, float32 on the host; count - 1 Euler steps."""
    return shift(np.linspace(1.0, 0.0, count, dtype=np.float32), np.float32(s))


def look_back(solver: str, times: np.ndarray) -> np.ndarray:
    """How much of the last change a step of a multistep solver adds to its velocity.

    A step is x <- x - (v + w (m - m_before)) (t - t_next), with w from here and m what
    `remembered` gives. Steps may differ in length:

        ab2       m = v            w = r / 2, r the length of the step over that of the one before
        dpmpp_2m  m = x - t v      w = -c / t, c = r / 2 in log((1 - t) / t) instead of t

    Both are of second order. A first step has nothing to look back on and is Euler's, and so are
    dpmpp_2m's next to t = 1 and to t = 0, where the logarithm is infinite (it falls a little short
    of its order there).

    Args:
      solver: one of `SOLVERS`.
      times: [N] decreasing times.

    Returns:
      [N - 1] float32.
    """
    times = np.asarray(times, np.float64)
    weights = np.zeros(len(times) - 1)
    if solver == "euler" or len(weights) < 2:
        return weights.astype(np.float32)
    if solver == "ab2":
        lengths = -np.diff(times)
        weights[1:] = lengths[1:] / lengths[:-1] / 2
    else:
        with np.errstate(divide="ignore"):
            lengths = np.diff(np.log(1 - times) - np.log(times))
        inner = np.isfinite(lengths[1:])
        weights[1:][inner] = -(lengths[1:] / lengths[:-1] / 2 / times[1:-1])[inner]
    return weights.astype(np.float32)


def remembered(solver: str, x: jax.Array, velocity: jax.Array, t: jax.Array) -> jax.Array:
    """What a multistep solver looks back at: the velocity, or (dpmpp_2m) the data it leads to."""
    return x - t * velocity if solver == "dpmpp_2m" else velocity


def guide(
    full: jax.Array,
    without_text: jax.Array,
    without_images: jax.Array | None = None,
    *,
    text_scale: jax.Array | float,
    image_scale: jax.Array | float = 1.0,
    renorm: str = "global",
    renorm_min: float = 0.0,
    samples: jax.Array | None = None,
) -> jax.Array:
    """Classifier-free guidance along text and images, with the norm pulled back (BAGEL).

        r  = u + text_scale (v - u)          v full, u without text
        r2 = w + image_scale (r - w)         w without images; r where image_scale <= 1
        out = c r2,  c = clip(|v| / (|r2| + 1e-8), renorm_min, 1)

    The norms are over one sample ("global") or one token ("channel"); "text_channel" renormalises
    r per token, before the image guidance, and not after; "none" leaves r2. Norms never span
    samples, so a sample does not depend on its batch.

    Args:
      full: [B, T, P] velocity in the whole context; zero on padding tokens.
      without_text: [B, T, P].
      without_images: [B, T, P], or None where there is no image guidance.
      text_scale: scalar, [B] or [B, T]; 1 or less gives `full`, image guidance included (as BAGEL).
      image_scale: scalar, [B] or [B, T]; 1 or less leaves image guidance out.
      renorm: one of `RENORMS`.
      renorm_min: smallest factor c.
      samples: [B, T] int32 in [0, T), which sample of its row a token belongs to; None: a row is
        one sample.

    Returns:
      [B, T, P] float32.

    Raises:
      ValueError: unknown renorm.
    """
    if renorm not in RENORMS:
        raise ValueError(f"flow: renorm {renorm!r} is not one of {', '.join(RENORMS)}.")
    a, b = (_per_row(scale) for scale in (text_scale, image_scale))
    guided = without_text + a * (full - without_text)
    if renorm == "text_channel":
        guided = guided * _pull(full, guided, (-1,), renorm_min)
    if without_images is not None:
        along = without_images + b * (guided - without_images)
        guided = jnp.where(b > 1, along, guided)
    if renorm in ("global", "channel"):
        whole = renorm == "global"
        axes = (-2, -1) if whole and samples is None else (-1,)
        guided = guided * _pull(full, guided, axes, renorm_min, samples if whole else None)
    return jnp.where(a > 1, guided, full)


def _pull(
    full: jax.Array,
    guided: jax.Array,
    axes: tuple[int, ...],
    lowest: float,
    samples: jax.Array | None = None,
) -> jax.Array:
    """Factor that brings the norm of `guided` down to that of `full`, at least `lowest`."""
    squares = [jnp.sum(jnp.square(x), axis=axes, keepdims=True) for x in (full, guided)]
    if samples is not None:
        squares = [_over_samples(x[..., 0], samples)[..., None] for x in squares]
    norms = [jnp.sqrt(x) for x in squares]
    return jnp.clip(norms[0] / (norms[1] + EPSILON), lowest, 1.0)


@jax.vmap
def _over_samples(x: jax.Array, samples: jax.Array) -> jax.Array:
    """[B, T] values -> their sums over the tokens of the same sample."""
    return jax.ops.segment_sum(x, samples, num_segments=len(x))[samples]


def _per_row(scale: jax.Array | float) -> jax.Array:
    """A scalar, [B] or [B, T] as something that broadcasts over [B, T, P]."""
    scale = jnp.asarray(scale, jnp.float32)
    return scale.reshape(*scale.shape, *(1,) * (3 - scale.ndim)) if scale.ndim else scale
