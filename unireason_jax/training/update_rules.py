"""The update rules: AdamW, Adafactor and Muon, all from Optax, with decay by name.

Muon (Jordan, 2024) takes the matrices of the layers; the others, and what is no matrix, get AdamW
at the same rate, as its updates are scaled to those of Adam (Liu et al., 2025: 0.2 of a row's
root). Adafactor (Shazeer and Stern, 2018) keeps a row and a column of second moments for a matrix,
and no first ones.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers, muon

from unireason_jax.training import low_bit_moments

NAMES = ("adamw", "adafactor", "muon")


def rule(
    config: Any, rate: optax.Schedule, decay: Any, sides: Mapping[str, Any]
) -> optax.GradientTransformation:
    """What turns clipped gradients into updates.

    Args:
      config: an `OptimConfig`.
      rate: learning rate by update.
      decay: tree of bools, where weight decay acts.
      sides: tree like it of `MuonDimensionNumbers`, None where a leaf is no matrix of a layer.
    """
    c = config
    shrink = optax.add_decayed_weights(c.weight_decay, decay)
    if c.name == "adafactor":
        factored = optax.scale_by_factored_rms(decay_rate=0.8, epsilon=1e-30)
        bounded = optax.clip_by_block_rms(1.0)
        return optax.chain(factored, bounded, shrink, optax.scale_by_learning_rate(rate))
    if c.name == "muon":
        return muon(
            rate,
            beta=0.95,
            weight_decay=c.weight_decay,
            weight_decay_mask=decay,
            mu_dtype=jnp.dtype(c.mu_dtype),
            adam_b1=c.b1,
            adam_b2=c.b2,
            adam_weight_decay=c.weight_decay,
            muon_weight_dimension_numbers=sides,
            consistent_rms=0.2,
        )
    if c.mu_dtype == "int8" or c.nu_dtype != "float32":
        adam = low_bit_moments.scale_by_adam(c.b1, c.b2, c.eps, c.mu_dtype, c.nu_dtype)
        return optax.chain(adam, shrink, optax.scale_by_learning_rate(rate))
    fixed = {"b1": c.b1, "b2": c.b2, "eps": c.eps, "weight_decay": c.weight_decay, "mask": decay}
    return optax.adamw(rate, mu_dtype=jnp.dtype(c.mu_dtype), **fixed)


def sides_of(path: str, axes: tuple[str | None, ...]) -> MuonDimensionNumbers | None:
    """Which axes of a leaf are a matrix's inputs and outputs; None where it is no layer's matrix.

    Args:
      path: of the parameter.
      axes: logical names of its axes.
    """
    if "/blocks/" not in path or not path.endswith(("/kernel", "/lora/a", "/lora/b")):
        return None
    lead = 1 if axes[0] == "layers" else 0
    inputs = 2 if axes[lead] == "heads" else 1
    reduced = tuple(range(lead, lead + inputs))
    return MuonDimensionNumbers(reduced, tuple(range(lead + inputs, len(axes))))
