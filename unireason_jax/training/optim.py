"""How weights move: schedule, clipping, the rule, freezing, moving average and the skip guard.

Optax does the arithmetic. Two decisions are made here. Frozen leaves are not masked but *taken
out*: gradients, moments and averages exist only for the trainable part of the parameter tree, so
a frozen expert costs neither memory nor a backward pass. And whether an update is applied is
decided inside the compiled step from global values, so all hosts decide alike.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from unireason_jax.models.functional import is_matrix
from unireason_jax.training import low_bit_moments, update_rules

Params = dict[str, Any]
DECAYED = ("kernel", "embed", "lora/a", "lora/b")  # how paths end that weight decay acts on


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """Everything the update depends on; the defaults are BAGEL's fine-tuning recipe.

    Attributes:
      name: "adamw", "adafactor" or "muon" (see `update_rules`).
      lr: peak learning rate.
      schedule: "constant" or "cosine", both after a linear warm-up from 0; cosine ends at
        `min_lr` at `total_steps` and stays there.
      warmup_steps: the first update (step 0) runs at lr 0 when this is > 0.
      total_steps: where the cosine ends.
      min_lr: end of the cosine.
      b1, b2, eps, weight_decay: AdamW; decay acts on matrices and embeddings only
        (BAGEL and UniReason train without).
      mu_dtype, nu_dtype: how the first and second moments are kept: "float32", "bfloat16", or
        "int8" (a byte each, `low_bit_moments`). Adafactor has no first moment and factors the
        second; of Muon only the first of its matrices follows.
      clip_norm: global L2 norm the gradient is clipped to; 0 switches clipping off.
      ema: decay of the moving average of the trainable weights; 0 keeps none.
      freeze: regular expressions; a parameter whose path ("a/b/c") one of them matches is frozen.
      frozen_dtype: of the matrices among them, as they are kept; norms and biases stay float32.
      freeze_from: (regular expression, n) pairs; what it matches stands still from update n on
        (IRG's freeze steps). Its moments and its gradient still cost what they did; to save
        them, start a new run with `freeze`.
      spike_factor: skip an update whose gradient norm exceeds this many medians; 0: never.
      spike_window: number of accepted norms the median is taken over; the rule starts when the
        window is full.
      max_skips: consecutive skipped updates after which the loop gives up.
    """

    name: str = "adamw"
    lr: float = 2e-5
    schedule: str = "constant"
    warmup_steps: int = 0
    total_steps: int = 1
    min_lr: float = 1e-7
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-15
    weight_decay: float = 0.0
    mu_dtype: str = "float32"
    nu_dtype: str = "float32"
    clip_norm: float = 1.0
    ema: float = 0.9999
    freeze: tuple[str, ...] = ()
    frozen_dtype: str = "float32"
    freeze_from: tuple[tuple[str, int], ...] = ()
    spike_factor: float = 0.0
    spike_window: int = 64
    max_skips: int = 20

    def __post_init__(self):
        if self.schedule not in ("constant", "cosine"):
            raise ValueError(
                f"optim.schedule is {self.schedule!r}; it must be 'constant' or 'cosine'."
            )
        if self.name not in update_rules.NAMES:
            raise ValueError(
                f"optim.name is {self.name!r}; choose {', '.join(update_rules.NAMES)}."
            )
        for key in ("mu_dtype", "nu_dtype"):
            if (kind := getattr(self, key)) not in low_bit_moments.DTYPES:
                raise ValueError(
                    f"optim.{key} is {kind!r}; choose {', '.join(low_bit_moments.DTYPES)}."
                )
            if self.name != "adamw" and kind == "int8":
                raise ValueError(f"optim.{key}=int8 is for optim.name=adamw, not {self.name}.")
        if not 0 <= self.ema < 1:
            raise ValueError(f"optim.ema is {self.ema}; it must be in [0, 1), 0 keeps no average.")


class OptState(NamedTuple):
    """Optax's state and the guard's memory.

    Attributes:
      inner: the Optax chain's state (moments of the trainable leaves only).
      norms: f32 [spike_window], gradient norms of accepted updates, NaN where none yet.
      accepted: i32, updates applied so far; the schedule runs on it.
      skipped: i32, updates skipped so far.
      consecutive: i32, skipped updates since the last accepted one.
    """

    inner: optax.OptState
    norms: jax.Array
    accepted: jax.Array
    skipped: jax.Array
    consecutive: jax.Array


def flatten(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Leaves of a nested dict by path "a/b/c"; a tuple counts as a leaf."""
    flat = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat.update({f"{key}/{rest}": leaf for rest, leaf in flatten(value).items()})
        else:
            flat[key] = value
    return flat


def unflatten(flat: Mapping[str, Any]) -> Params:
    """Nested dict of leaves given by path; the inverse of `flatten`."""
    tree: Params = {}
    for path, leaf in flat.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = leaf
    return tree


def frozen_paths(paths: Iterable[str], patterns: Iterable[str]) -> set[str]:
    """Paths that one of the regular expressions matches (`re.search`).

    Raises:
      ValueError: a pattern that matches nothing, or patterns that freeze everything.
    """
    paths, frozen = list(paths), set()
    for pattern in patterns:
        hits = {path for path in paths if re.search(pattern, path)}
        if not hits:
            raise ValueError(
                f"optim.freeze: {pattern!r} matches no parameter; paths look like "
                f"{', '.join(sorted(paths)[:3])} (--dry_run prints them all)."
            )
        frozen |= hits
    if frozen and len(frozen) == len(paths):
        raise ValueError("optim.freeze: every parameter is frozen, nothing is left to train.")
    return frozen


def split(params: Params, patterns: Iterable[str]) -> tuple[Params, Params]:
    """Cuts a parameter tree into (trainable, frozen) trees that share no leaf."""
    flat = flatten(params)
    frozen = frozen_paths(flat, patterns)
    keep = unflatten({path: leaf for path, leaf in flat.items() if path not in frozen})
    return keep, unflatten({path: leaf for path, leaf in flat.items() if path in frozen})


def merge(trainable: Params, frozen: Params) -> Params:
    """Puts the two trees of `split` together again; leaves of `trainable` win."""
    return unflatten({**flatten(frozen), **flatten(trainable)})


def learning_rate(config: OptimConfig) -> Callable[[Any], jax.Array]:
    """Learning rate of update n (0-based): n / warmup_steps, then constant or cosine.

    BAGEL's schedules, except that the cosine stays at `min_lr` after `total_steps` (the original
    rises again).
    """
    if config.schedule == "cosine":
        steps = max(config.total_steps - config.warmup_steps, 1)
        after = optax.cosine_decay_schedule(config.lr, steps, alpha=config.min_lr / config.lr)
    else:
        after = optax.constant_schedule(config.lr)
    if not config.warmup_steps:
        return after
    warmup = optax.linear_schedule(0.0, config.lr, config.warmup_steps)
    return optax.join_schedules([warmup, after], [config.warmup_steps])


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """The update rule of one run.

    Attributes:
      config: the recipe.
      decay: nested dict of bools over *all* parameters, True where weight decay acts.
      sides: like it, which axes of a matrix Muon takes for its inputs and outputs, or None.
    """

    config: OptimConfig
    decay: Params
    sides: Params

    def split(self, params: Params) -> tuple[Params, Params]:
        """(trainable, frozen) parts of the parameters."""
        return split(params, self.config.freeze)

    def stored(self, params: Params) -> Params:
        """All parameters (or their shapes) with the dtype that those have which never move."""
        flat, dtype = flatten(params), jnp.dtype(self.config.frozen_dtype)
        for path in frozen_paths(flat, self.config.freeze):
            if is_matrix(path.split("/")):
                flat[path] = _cast(flat[path], dtype)
        return unflatten(flat)

    def chain(self) -> optax.GradientTransformation:
        """Clip, then the rule at the scheduled rate."""
        c = self.config
        trees = [self.split(tree)[0] for tree in (self.decay, self.sides)]
        moved = update_rules.rule(c, learning_rate(c), *trees)
        clip = optax.clip_by_global_norm(c.clip_norm) if c.clip_norm else optax.identity()
        return optax.chain(clip, moved)

    def still(self, tree: Params, updates: jax.Array) -> Params:
        """Gradients or updates, 0 where `freeze_from` holds after so many applied updates."""
        flat = flatten(tree)
        for pattern, start in self.config.freeze_from:
            for path in frozen_paths(flat, (pattern,)):
                flat[path] = jnp.where(updates < start, flat[path], 0)
        return unflatten(flat)

    def init(self, params: Params) -> OptState:
        """State before the first update; moments for the trainable leaves of `params` only."""
        # Distinct buffers: a donated state must not hold the same array twice.
        zeros = [jnp.zeros((), jnp.int32) for _ in range(3)]
        norms = jnp.full((self.config.spike_window,), jnp.nan, jnp.float32)
        return OptState(self.chain().init(self.split(params)[0]), norms, *zeros)

    def init_ema(self, params: Params) -> Params:
        """The moving average before the first update: a copy of the trainable leaves, or {}."""
        return jax.tree.map(jnp.copy, self.split(params)[0]) if self.config.ema else {}

    def update(
        self,
        *,
        trainable: Params,
        opt_state: OptState,
        ema: Params,
        grads: Params,
        loss: jax.Array,
    ) -> tuple[Params, OptState, Params, dict[str, jax.Array]]:
        """One guarded update.

        It is skipped, leaving weights, moments and average as they were, when the loss or the
        gradient norm is not finite or the norm is a spike (see `OptimConfig.spike_factor`).

        Args:
          trainable: trainable leaves.
          opt_state: state of `init` or of the last update.
          ema: moving average of the trainable leaves, or {}.
          grads: gradient of the loss over the global batch, like `trainable`.
          loss: f32 scalar.

        Returns:
          (trainable, opt_state, ema, metrics); metrics are f32 scalars: the norm before clipping,
          norms of the applied update and of the weights, the learning rate and skip counts.
        """
        config, old = self.config, opt_state
        grads = self.still(grads, old.accepted)
        norm = optax.tree.norm(grads).astype(jnp.float32)
        ok = jnp.isfinite(loss) & jnp.isfinite(norm)
        if config.spike_factor:
            full = old.accepted >= config.spike_window
            ok &= ~(full & (norm > config.spike_factor * jnp.median(old.norms)))
        updates, inner = self.chain().update(grads, old.inner, trainable)
        updates = self.still(updates, old.accepted)
        updates = jax.tree.map(lambda u: jnp.where(ok, u, jnp.zeros_like(u)), updates)
        moved = optax.apply_updates(trainable, updates)
        slot = old.accepted % config.spike_window
        new_state = OptState(
            inner=_choose(ok, inner, old.inner),
            norms=old.norms.at[slot].set(jnp.where(ok, norm, old.norms[slot])),
            accepted=old.accepted + ok,
            skipped=old.skipped + ~ok,
            consecutive=jnp.where(ok, 0, old.consecutive + 1),
        )
        if ema:
            ema = _choose(ok, optax.incremental_update(moved, ema, 1 - config.ema), ema)
        metrics = {
            "grad_norm": norm,
            "update_norm": optax.tree.norm(updates).astype(jnp.float32),
            "param_norm": optax.tree.norm(trainable).astype(jnp.float32),
            "lr": jnp.asarray(learning_rate(config)(old.accepted), jnp.float32),
            "skipped": new_state.skipped.astype(jnp.float32),
            "consecutive_skips": new_state.consecutive.astype(jnp.float32),
        }
        return moved, new_state, ema, metrics


def make_optimizer(config: OptimConfig, logical: Params) -> Optimizer:
    """The optimizer of a model, given its tree of logical axes.

    Weight decay goes by name (see `DECAYED`): it acts on matrices and embeddings of tokens, not on
    norms, biases (those of query, key and value have as many axes as a matrix) and position tables.
    """
    flat = flatten(logical)
    frozen_paths(flat, config.freeze)  # fail early on a pattern that matches nothing
    trained = set(flat) - frozen_paths(flat, config.freeze)
    for pattern, _ in config.freeze_from:
        frozen_paths(trained, (pattern,))
    decay = {path: decays(path) for path in flat}
    sides = {path: update_rules.sides_of(path, axes) for path, axes in flat.items()}
    return Optimizer(config, unflatten(decay), unflatten(sides))


def decays(path: str) -> bool:
    """Whether weight decay acts on the leaf of this path."""
    return f"/{path}".endswith(tuple(f"/{end}" for end in DECAYED))


def _cast(leaf: Any, dtype: jnp.dtype) -> Any:
    """An array, or the shape of one, in a dtype."""
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(leaf.shape, dtype)
    return leaf.astype(dtype)


def _choose(ok: jax.Array, new: Any, old: Any) -> Any:
    """`new` where ok, else `old`, leaf by leaf."""
    return jax.tree.map(lambda a, b: jnp.where(ok, a, b), new, old)
