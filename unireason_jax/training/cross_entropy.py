"""Cross entropy of text without all its logits: a few tokens of a row at a time."""

import functools

import jax
import jax.numpy as jnp

from unireason_jax.pods.reductions import pieces_of, summed
from unireason_jax.pods.sharding import constrain


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def cross_entropy_sums(
    hidden: jax.Array,
    kernel: jax.Array,
    labels: jax.Array,
    weights: jax.Array,
    chunk: int,
    dtype: str,
    bias: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Weighted sums of next-token cross entropy, `chunk` tokens of logits at a time.

    The gradient is computed together with the value, chunk by chunk, so logits are neither kept
    nor computed twice, and memory is rows x chunk x vocabulary instead of rows x tokens x
    vocabulary. Only `hidden`, `kernel` and `bias` receive gradients, only from the first output.

    Args:
      hidden: [B, T, D], final hidden states of the text tokens.
      kernel: f32 [D, V], the language head.
      labels: i32 [B, T]; anything where the weight is 0 (-1 by convention).
      weights: f32 [B, T].
      chunk: tokens per chunk.
      dtype: dtype of the matmuls; sums, softmax and the kernel's gradient are float32.
      bias: f32 [V], of heads that have one.

    Returns:
      (sum of weight * cross entropy, sum of weight where the largest logit is the label), f32.
    """
    inputs = (hidden, kernel, labels, weights, chunk, dtype, bias)
    loss, hits, _ = _chunked(*inputs, gradient=False)
    return loss, hits


def _cross_entropy_forward(hidden, kernel, labels, weights, chunk, dtype, bias=None):
    inputs = (hidden, kernel, labels, weights, chunk, dtype, bias)
    loss, hits, grads = _chunked(*inputs, gradient=True)
    return (loss, hits), grads


def _cross_entropy_backward(chunk, dtype, grads, cotangents):
    d_hidden, d_kernel, d_bias = grads
    scale = cotangents[0]
    d_bias = None if d_bias is None else d_bias * scale
    return (d_hidden * scale).astype(d_hidden.dtype), d_kernel * scale, None, None, d_bias


cross_entropy_sums.defvjp(_cross_entropy_forward, _cross_entropy_backward)


def _chunked(hidden, kernel, labels, weights, chunk, dtype, bias, *, gradient):
    """Scan over chunks of the token axis; see `cross_entropy_sums`.

    Gradients of the head are summed over the rows of each device on its own, [parts, ...], and over
    devices once behind the scan; a sum over devices in every chunk would send as much each time.
    """
    rows, tokens, width = hidden.shape
    parts = pieces_of(rows, "batch")
    chunk = max(min(chunk, tokens), 1)
    padding = -tokens % chunk
    padded = [
        jnp.pad(x, [(0, 0), (0, padding)] + [(0, 0)] * (x.ndim - 2))
        for x in (hidden, labels, weights)
    ]
    pieces = [jnp.moveaxis(x.reshape(rows, -1, chunk, *x.shape[2:]), 1, 0) for x in padded]
    matrix = constrain(kernel.astype(dtype), None, "vocab")

    def body(carry, piece):
        loss, hits, d_kernel, d_bias = carry
        h, label, weight = piece
        h = h.astype(dtype)
        logits = jnp.einsum("BTD,DV->BTV", h, matrix, preferred_element_type=jnp.float32)
        logits = logits if bias is None else logits + bias
        logits = constrain(logits, "batch", None, "vocab")
        peak = jnp.max(logits, axis=-1, keepdims=True)
        exponents = jnp.exp(logits - peak)
        total = jnp.sum(exponents, axis=-1, keepdims=True)
        target = jnp.take_along_axis(logits, jnp.maximum(label, 0)[..., None], axis=-1)
        ce = (jnp.log(total) + peak - target)[..., 0]
        loss = loss + jnp.sum(weight * ce)
        hits = hits + jnp.sum(jnp.where(target[..., 0] >= peak[..., 0], weight, 0.0))
        if not gradient:
            return (loss, hits, d_kernel, d_bias), None
        is_label = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 2) == label[..., None]
        d_logits = (exponents / total - is_label) * weight[..., None]
        own = d_logits.reshape(parts, -1, *d_logits.shape[1:])
        d_bias = None if bias is None else d_bias + jnp.sum(own, axis=(1, 2))
        d_logits = d_logits.astype(dtype)
        d_h = jnp.einsum("BTV,DV->BTD", d_logits, matrix, preferred_element_type=jnp.float32)
        h, own = (x.reshape(parts, -1, *x.shape[1:]) for x in (h, d_logits))
        d_kernel = d_kernel + jnp.einsum(
            "PBTD,PBTV->PDV", h, own, preferred_element_type=jnp.float32
        )
        d_kernel = constrain(d_kernel, "batch", None, "vocab")
        return (loss, hits, d_kernel, d_bias), d_h.astype(hidden.dtype)

    zero = jnp.zeros((), jnp.float32)
    d_bias = None if bias is None else jnp.zeros((parts, *bias.shape), jnp.float32)
    d_kernel = jnp.zeros((parts, *kernel.shape) if gradient else (), jnp.float32)
    carry = (zero, zero, d_kernel, d_bias)
    (loss, hits, d_kernel, d_bias), d_pieces = jax.lax.scan(body, carry, tuple(pieces))
    if not gradient:
        return loss, hits, None
    d_hidden = jnp.moveaxis(d_pieces, 0, 1).reshape(rows, tokens + padding, width)[:, :tokens]
    d_kernel = summed(d_kernel, "embed", "vocab").astype(kernel.dtype)
    return loss, hits, (d_hidden, d_kernel, None if bias is None else jnp.sum(d_bias, axis=0))
