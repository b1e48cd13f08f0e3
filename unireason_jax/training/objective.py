"""What is minimised: cross entropy of text plus the error of pictures, in one compiled step.

    loss = ce_weight * sum(w * ce) / sum(w)  +  flow_weight * sum(w * mean_P((v - v*)^2)) / sum(w)

with v* = noise - x0 where pictures are latents (BAGEL). Where they are codes (Janus), the second
term is code_weight * the cross entropy of codes. All denominators are counted over the *global*
batch before any forward pass, so ragged packs and gradient accumulation leave the gradient
unbiased (BAGEL training loop: per-token means over all ranks; there each micro-step is normalised
on its own).
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax

from unireason_jax.models import functional
from unireason_jax.models.bagel import Bagel
from unireason_jax.models.config import ModelConfig
from unireason_jax.models.janus.config import JanusConfig
from unireason_jax.rules import flow
from unireason_jax.rules.visibility import Visibility
from unireason_jax.training.cross_entropy import cross_entropy_sums
from unireason_jax.training.optim import Optimizer, Params, merge
from unireason_jax.training.state import TrainState

Batch = Mapping[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """Weights and options of the joint loss.

    Attributes:
      ce_weight: weight of the text loss.
      flow_weight: weight of the velocity loss.
      code_weight: weight of the cross entropy of codes.
      pooled: text and codes are one mean over the tokens of both (each counted by its weight),
        instead of the sum of two means.
      timestep_shift: s in t -> s t / (1 + (s - 1) t); above 1 moves training towards noise.
      ce_chunk: text tokens of a row whose logits exist at the same time.
      detach_und: cut the gradient of the understanding expert's stream (BAGEL's freeze_und);
        usually together with optim.freeze of that expert.
      ce_until, flow_until: updates after which the loss is switched off (IRG's
        text_loss_disable_step and image_loss_disable_step); 0: never.
    """

    ce_weight: float = 1.0
    flow_weight: float = 1.0
    code_weight: float = 1.0
    pooled: bool = False
    timestep_shift: float = 1.0
    ce_chunk: int = 1024
    detach_und: bool = False
    ce_until: int = 0
    flow_until: int = 0

    def weights(self, updates: jax.Array | None) -> tuple[jax.Array | float, jax.Array | float]:
        """Weights of text and velocity loss after so many updates; None: without switches."""

        def at(weight: float, until: int) -> jax.Array | float:
            if updates is None or not until:
                return weight
            return jnp.where(updates < until, jnp.float32(weight), 0.0)

        return at(self.ce_weight, self.ce_until), at(self.flow_weight, self.flow_until)


def denominators(batch: Batch) -> dict[str, jax.Array]:
    """Sums of the loss weights over the whole batch: {"ce", "flow" or "code"}, f32 scalars."""
    kind, name = ("code", "code_weights") if "code_weights" in batch else ("flow", "latent_weights")
    return {
        "ce": jnp.sum(batch["text_weights"], dtype=jnp.float32),
        kind: jnp.sum(batch[name], dtype=jnp.float32),
    }


def loss_sums(
    params: Params,
    batch: Batch,
    *,
    model: ModelConfig,
    loss: LossConfig,
    dropout: jax.Array | None = None,
) -> dict[str, jax.Array]:
    """One forward pass; weighted sums only, so that sums of microbatches add up.

    Args:
      params: all parameters.
      batch: a packed batch (see `unireason_jax.data.rows`); a "noise" [B, T, P] in it is used
        instead of noise drawn from the seeds (a recording), "times" [B, T] instead of those of the
        logits, and a "target" [B, T, P] instead of noise - x0 (a teacher's, see `distillation`).
      model: the model's shape.
      loss: the loss's options.
      dropout: key of the adapters' dropout; None for none.

    Returns:
      {"ce", "hits", "flow"}: sums of weight * cross entropy, of weight * (argmax is right) and
      of weight * mean squared velocity error; for Janus "code" and "code_hits" of the codes
      instead of "flow". f32 scalars.
    """
    if isinstance(model, JanusConfig):
        return _code_sums(params, batch, model, loss, dropout)
    bagel = functional.bind(model, params, dropout)
    with jax.named_scope("embed"):
        und, x0 = embed_und(bagel, batch), batch["latents"]
        t = batch.get("times", flow.timesteps(batch["latent_logits"], loss.timestep_shift))
        noise = noise_of(batch)
        x_t = flow.interpolate(x0, noise, t)
        gen = bagel.embed_latents(x_t, t, batch["latent_positions"])
    flags = {"detach_und": loss.detach_und, "keep_kv": False}
    und_h, gen_h, _ = bagel.decode(und, gen, batch["positions"], seen_by(batch), **flags)
    with jax.named_scope("cross_entropy"):
        ce, hits = cross_entropy_sums(
            und_h[:, : batch["text_ids"].shape[1]],
            bagel.head_kernel,
            batch["text_labels"],
            batch["text_weights"],
            loss.ce_chunk,
            model.dtype,
        )
    with jax.named_scope("flow"):
        target = batch.get("target", flow.velocity(x0, noise))
        error = bagel.velocity(gen_h).astype(jnp.float32) - target
        weights = batch["latent_weights"]
        mse = jnp.mean(jnp.square(error), axis=-1)
        flow_sum = jnp.sum(jnp.where(weights > 0, weights * mse, 0.0))
    return {"ce": ce, "hits": hits, "flow": flow_sum}


def seen_by(batch: Batch) -> Visibility:
    """Who may see whom in the rows of a batch."""
    return Visibility(batch["vis_key"], batch["vis_lo"], batch["vis_hi"], batch["vis_own"])


def noise_of(batch: Batch) -> jax.Array:
    """Noise [B, T, P] of the latents: the batch's own, or that of its seeds."""
    if "noise" in batch:
        return batch["noise"]
    width = batch["latents"].shape[-1]
    return flow.token_noise(batch["noise_seeds"], batch["latent_positions"], width)


def embed_und(bagel: Bagel, batch: Batch) -> jax.Array:
    """The embedded text and ViT tokens [B, text + vit, D]."""
    streams = [bagel.embed_text(batch["text_ids"])]
    if batch["vit_patches"].shape[1]:
        vit = batch["vit_patches"], batch["vit_positions"], batch["vit_images"]
        streams.append(bagel.embed_vit(*vit))
    return jnp.concatenate(streams, axis=1)


def _code_sums(
    params: Params,
    batch: Batch,
    model: JanusConfig,
    loss: LossConfig,
    dropout: jax.Array | None,
) -> dict[str, jax.Array]:
    """`loss_sums` of a row [text | vit | codes], where pictures are drawn with codes.

    "code_ids" [B, T] are the codes, "code_weights" [B, T] their weights as targets, and
    "code_from" [B, T] the place in the row of the token that predicts each: the code before it, or
    the start of the image.
    """
    janus = functional.bind(model, params, dropout)
    with jax.named_scope("embed"):
        streams = [janus.embed_text(batch["text_ids"])]
        if batch["vit_patches"].shape[1]:
            vit = batch["vit_patches"], batch["vit_positions"], batch["vit_images"]
            streams.append(janus.embed_vit(*vit))
        streams.append(janus.embed_codes(batch["code_ids"]))
        row = jnp.concatenate(streams, axis=1)
    seen = seen_by(batch)
    hidden, _, _ = janus.decode(row, row[:, :0], batch["positions"], seen, keep_kv=False)
    fixed = (loss.ce_chunk, model.dtype)
    with jax.named_scope("cross_entropy"):
        text = hidden[:, : batch["text_ids"].shape[1]]
        targets = batch["text_labels"], batch["text_weights"]
        ce, hits = cross_entropy_sums(text, janus.head_kernel, *targets, *fixed)
    with jax.named_scope("codes"):
        before = jnp.take_along_axis(hidden, batch["code_from"][..., None], axis=1)
        features = janus.gen_head.features(before)
        head, targets = janus.gen_head.out, (batch["code_ids"], batch["code_weights"])
        kernel, bias = head.weight, head.bias[...]
        code, code_hits = cross_entropy_sums(features, kernel, *targets, *fixed, bias)
    return {"ce": ce, "hits": hits, "code": code, "code_hits": code_hits}


def _ratio(total: jax.Array, count: jax.Array) -> jax.Array:
    """total / count, and 0 where nothing was counted."""
    return jnp.where(count > 0, total / jnp.where(count > 0, count, 1.0), 0.0)


def combine(
    sums: Mapping[str, jax.Array],
    counts: Mapping[str, jax.Array],
    loss: LossConfig,
    updates: jax.Array | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The joint loss and its parts from sums and denominators; f32 scalars."""
    ce_weight, flow_weight = loss.weights(updates)
    ce, stop = _ratio(sums["ce"], counts["ce"]), jax.lax.stop_gradient
    found = {"loss/ce": ce, "accuracy/text": _ratio(stop(sums["hits"]), counts["ce"])}
    if "code" in counts:
        code = _ratio(sums["code"], counts["code"])
        found["accuracy/code"] = _ratio(stop(sums["code_hits"]), counts["code"])
        weights = (ce_weight, loss.code_weight)
        shares = (counts["ce"], counts["code"]) if loss.pooled else (1.0, 1.0)
        parts = [w * n for w, n in zip(weights, shares)]
        total = parts[0] * ce + parts[1] * code
        total = _ratio(total, sum(parts)) if loss.pooled else total
        return total, {"loss": total, "loss/code": code, **found}
    mse = _ratio(sums["flow"], counts["flow"])
    total = ce_weight * ce + flow_weight * mse
    return total, {"loss": total, "loss/flow": mse, **found}


def loss_fn(
    params: Params,
    batch: Batch,
    *,
    model: ModelConfig,
    loss: LossConfig,
    counts: Mapping[str, jax.Array] | None = None,
    updates: jax.Array | None = None,
    dropout: jax.Array | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The joint loss of a batch and its parts.

    Args:
      params: all parameters.
      batch: a packed batch, or a microbatch of one.
      model: the model's shape.
      loss: the loss's options.
      counts: denominators of the whole batch when `batch` is a part of it; by default those of
        `batch` itself.
      updates: applied so far, for losses that are switched off; None ignores the switches.
      dropout: key of the adapters' dropout; None for none.
    """
    sums = loss_sums(params, batch, model=model, loss=loss, dropout=dropout)
    return combine(sums, denominators(batch) if counts is None else counts, loss, updates)


def loss_and_grads(
    trainable: Params,
    frozen: Params,
    batch: Batch,
    *,
    model: ModelConfig,
    loss: LossConfig,
    microbatches: int = 1,
    updates: jax.Array | None = None,
) -> tuple[dict[str, jax.Array], Params]:
    """Metrics of the batch and the gradient with respect to the trainable leaves.

    With `microbatches` > 1 the rows are walked in that many strided parts (no row changes its
    device) and gradients are summed; since the denominators belong to the whole batch, the result
    is the gradient of the big batch.

    Raises:
      ValueError: the rows are not a multiple of `microbatches`.
    """
    counts = denominators(batch)
    rows = batch["text_ids"].shape[0]
    if rows % microbatches:
        raise ValueError(
            f"train.microbatches={microbatches} must divide the batch's {rows} rows (data.rows)."
        )

    def part(trainable, rows_of_batch):
        params, key = merge(trainable, frozen), _dropout_key(model, rows_of_batch, updates)
        fixed = {"model": model, "loss": loss, "counts": counts}
        return loss_fn(params, rows_of_batch, **fixed, updates=updates, dropout=key)

    grad = jax.value_and_grad(part, has_aux=True)
    if microbatches > 1:
        grad = optax.microbatching.microbatch(grad, argnums=1, microbatch_size=rows // microbatches)
    (_, metrics), grads = grad(trainable, dict(batch))
    return metrics, grads


def _dropout_key(model: ModelConfig, batch: Batch, updates: jax.Array | None) -> jax.Array | None:
    """Key of the adapters' dropout: of the update and of what its rows say, not of where."""
    if not model.lora or not model.lora.dropout:
        return None
    said = jnp.sum(batch["text_ids"], dtype=jnp.uint32)
    key = jax.random.fold_in(jax.random.key(0), 0 if updates is None else updates)
    return jax.random.fold_in(key, said)


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    model: ModelConfig,
    loss: LossConfig,
    optimizer: Optimizer,
    microbatches: int = 1,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One step: forward, backward, guarded update. Pure; compile it with `state` donated.

    Returns:
      The next state and f32 scalar metrics: losses, the optimizer's (see `Optimizer.update`) and
      the numbers of supervised text and latent tokens.
    """
    trainable, frozen = optimizer.split(state.params)
    metrics, grads = loss_and_grads(
        trainable,
        frozen,
        batch,
        model=model,
        loss=loss,
        microbatches=microbatches,
        updates=state.opt_state.accepted,
    )
    with jax.named_scope("update"):
        trainable, opt_state, ema, moved = optimizer.update(
            trainable=trainable,
            opt_state=state.opt_state,
            ema=state.ema,
            grads=grads,
            loss=metrics["loss"],
        )
    metrics |= moved
    metrics["tokens/text_loss"] = jnp.sum(batch["text_weights"] > 0, dtype=jnp.float32)
    kind = "code" if "code_weights" in batch else "latent"
    metrics[f"tokens/{kind}_loss"] = jnp.sum(batch[f"{kind}_weights"] > 0, dtype=jnp.float32)
    params = merge(trainable, frozen)
    return TrainState(state.step + 1, params, opt_state, ema), metrics
