"""The autoencoder, the vision tower, the training forward pass, gradients and optimiser steps."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unireason_jax.models import functional, official_names, vae
from unireason_jax.proof.golden import Golden, columns, read, rows, truncated
from unireason_jax.proof.verdicts import GRADIENT, Report
from unireason_jax.training import objective, optim

# The bias of the ViT's keys shifts all scores of a query alike: the softmax does not see it.
DEAD = "self_attn.k_proj.bias"
VIT = "vit_model."

_gradients = jax.jit(objective.loss_and_grads, static_argnames=("model", "loss"))


def compare_autoencoder(golden: Golden, report: Report) -> None:
    """Moments, posterior sample and decoded images of `vae.safetensors`."""
    t, _ = read(golden.folder / "vae.safetensors")
    config, params = golden.autoencoder
    mean, logvar = jax.jit(vae.moments, static_argnums=1)(params, config, rows(t["in.image"]))
    z = functools.partial(_unscaled, config)
    report.add("vae", "out.mean", z(columns(mean)), t["out.mean"])
    report.add("vae", "out.logvar", columns(logvar) - 2 * np.log(config.scale), t["out.logvar"])
    latent = columns(vae.sample(mean, logvar, rows(t["in.noise"])))
    report.add("vae", "out.posterior_sample", z(latent), t["out.posterior_sample"])
    report.add("vae", "out.latent_scaled", latent, t["out.latent_scaled"])
    decode = jax.jit(vae.decode, static_argnums=1)
    for name, source in (
        ("out.decoded", t["out.latent_scaled"]),
        ("out.decoded_from_in_latent", t["in.latent_for_decode"]),
    ):
        report.add("vae", name, columns(decode(params, config, rows(source))), t[name])
    report.exclude(
        "vae", "out.enc_*, out.dec_*", "layers inside the autoencoder; its outputs are compared"
    )


def _unscaled(config: Any, latent: np.ndarray) -> np.ndarray:
    """From the latent's scale to the encoder's."""
    return latent / config.scale + config.shift


def compare_vit(golden: Golden, report: Report) -> None:
    """Packed images of `vit.safetensors`; hidden states of every layer under the final norm."""
    t, _ = read(golden.folder / "vit.safetensors")
    lengths = t["in.vit_token_seqlens"]
    images = jnp.asarray(np.repeat(np.arange(len(lengths)), lengths), jnp.int32)[None]
    places = jnp.asarray(t["in.packed_vit_position_ids"], jnp.int32)[None]
    patches = jnp.asarray(t["in.packed_vit_tokens"])[None]
    norm = golden.params["vit"]["norm"]
    for count in range(1, golden.config.vit.layers + 1):
        config, params = truncated(golden, vit=count)
        states = jax.jit(lambda p, c=config: functional.bind(c, p).vit(patches, places, images))
        name = f"out.layer_{count - 1}"
        found = states(params)[0]
        wanted = _layer_norm(t[name], norm, config.vit.norm_eps)
        report.add("vit", name, found, wanted, label=f"{name} (normed)")
    report.add("vit", "out.vit_last_hidden", found, t["out.vit_last_hidden"])
    model = functional.bind(golden.config, golden.params)
    tokens = jax.jit(model.embed_vit)(patches, places, images)[0]
    report.add("vit", "out.connector_plus_pos", tokens, t["out.connector_plus_pos"])
    report.add("vit", "out.connector", tokens - t["out.pos_embed"], t["out.connector"])
    report.add("vit", "out.pos_embed", tokens - t["out.connector"], t["out.pos_embed"])
    report.exclude("vit", "out.embeddings, out.attn_*", "summands of out.layer_*, compared there")


def _layer_norm(x: np.ndarray, norm: Any, eps: float) -> np.ndarray:
    """Layer norm in float64."""
    x = x.astype(np.float64)
    x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + eps)
    return x * np.asarray(norm["scale"]) + np.asarray(norm["bias"])


def compare_forward(golden: Golden, report: Report) -> None:
    """Every output of the training forward pass, hidden states of every layer included."""
    step = golden.step

    def forward(config: Any, params: Any) -> dict[str, jax.Array]:
        return step.forward(functional.bind(config, params), golden.shift)

    run = jax.jit(forward, static_argnums=0)
    for name, found in run(golden.config, golden.params).items():
        report.add("train_step", f"out.{name}", found, step.tensors[f"out.{name}"])
    stack = golden.params["stack"]
    gen = np.isin(np.arange(len(step.order)), step.tensors["in.packed_vae_token_indexes"])
    scales = [np.asarray(stack[norm]["scale"]) for norm in ("und_norm", "gen_norm")]
    scale = np.where(gen[:, None], scales[1], scales[0])
    for layer in range(golden.config.llm.layers):
        name = f"out.hidden_layer_{layer}"
        if not report.wants("train_step", name):
            continue
        x = step.tensors[name].astype(np.float64)
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + golden.config.llm.norm_eps)
        found = run(*truncated(golden, llm=layer + 1))["last_hidden"]
        report.add("train_step", name, found, x * scale, label=f"{name} (normed)")
    if "in.padded_images" in step.tensors:
        canvas = golden.latent(step.tensors["in.padded_images"], step.tensors["in.vae_noise"])
        report.add("train_step", "in.padded_latent", canvas, step.tensors["in.padded_latent"])
    report.exclude("train_step", "out.connector", "part of out.packed_sequence_in and of vit")
    report.exclude(
        "train_step", "out.attn_out_layer_*", "a summand of out.hidden_layer_*, which is compared"
    )


def compare_gradients(golden: Golden, report: Report) -> None:
    """Gradients of the joint loss, everything trainable and with the und expert detached."""
    step = golden.step
    for prefix, detach in (("grad.", False), ("grad_freeze_und.", True)):
        if not any(name.startswith(prefix) for name in step.tensors):
            continue
        loss = objective.LossConfig(timestep_shift=golden.shift, detach_und=detach)
        _, grads = _gradients(golden.params, {}, step.batch(), model=golden.config, loss=loss)
        found = official_names.official_tensors(golden.config, grads)
        for name in sorted(found):
            if not _dead(name):
                recorded = step.tensors.get(prefix + name, np.zeros_like(found[name]))
                report.add("train_step", prefix + name, found[name], recorded, limit=GRADIENT)
    report.exclude("train_step", f"grad.{VIT}*{DEAD}", "zero by symmetry; recorded rounding noise")
    report.exclude("train_step", "raw.*", "images before they are packed")


def _dead(name: str) -> bool:
    """Whether a parameter has no effect, so that its gradient is rounding noise."""
    return name.startswith(VIT) and name.endswith(DEAD)


def compare_optimiser(golden: Golden, report: Report) -> None:
    """Three steps of AdamW with clipping, schedule and moving average, per recorded recipe."""
    for path in sorted(golden.folder.glob("adamw_*.safetensors")):
        file = path.stem
        wanted, meta = read(path)
        recipe = meta["variant"]
        settings = optim.OptimConfig(
            lr=recipe["lr"],
            schedule=recipe["sched"],
            warmup_steps=recipe["warmup"],
            total_steps=recipe["total"],
            min_lr=recipe["min_lr"],
            b1=recipe["beta1"],
            b2=recipe["beta2"],
            eps=recipe["eps"],
            clip_norm=recipe["clip"],
            ema=recipe["ema"],
        )
        optimizer = optim.make_optimizer(settings, functional.logical_axes(golden.config))
        loss = objective.LossConfig(
            ce_weight=recipe["ce_weight"],
            flow_weight=recipe["mse_weight"],
            timestep_shift=golden.shift,
        )
        update = jax.jit(optimizer.update)
        batch = golden.step.batch(reweighted=recipe["ce_loss_reweighting"])
        params = golden.params
        opt_state, ema, metrics = optimizer.init(params), optimizer.init_ema(params), []
        for number in (1, 2, 3):
            measured, grads = _gradients(params, {}, batch, model=golden.config, loss=loss)
            state = {"trainable": params, "opt_state": opt_state, "ema": ema}
            params, opt_state, ema, moved = update(**state, grads=grads, loss=measured["loss"])
            metrics.append(measured | moved)
            for tree, kind in ((params, "param"), (ema, "ema")):
                tensors = official_names.official_tensors(golden.config, tree)
                _sums(report, file, f"out.{kind}_checksum_step{number}", tensors, wanted, meta)
        for ours, theirs in (
            ("loss", "loss"),
            ("loss/ce", "ce"),
            ("loss/flow", "mse"),
            ("grad_norm", "grad_norm"),
            ("lr", "lr"),
        ):
            values = [float(m[ours]) for m in metrics]
            report.add(file, f"out.{theirs}", values, wanted[f"out.{theirs}"], limit=GRADIENT)
        for tree, kind in ((params, "param"), (ema, "ema")):
            for name, found in official_names.official_tensors(golden.config, tree).items():
                key = f"out.{kind}_step3.{name}"
                if key in wanted:
                    report.add(file, key, found, wanted[key], limit=GRADIENT)
        report.exclude(
            file, f"checksum rows {DEAD} of the ViT", "rounding noise, which AdamW turns into +-lr"
        )


def _sums(
    report: Report, file: str, name: str, tensors: Any, wanted: Any, meta: dict[str, Any]
) -> None:
    """Per parameter: sum, sum of magnitudes and L2 norm, as recorded."""
    names = meta["checksum_row_names"]
    kept = [i for i, n in enumerate(names) if n in tensors and not _dead(n)]
    values = (np.asarray(tensors[names[i]], np.float64) for i in kept)
    found = np.array([[x.sum(), np.abs(x).sum(), np.linalg.norm(x)] for x in values])
    report.add(file, name, found, wanted[name][kept], limit=GRADIENT)
