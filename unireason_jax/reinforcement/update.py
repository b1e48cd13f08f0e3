"""One update from an iteration's rollouts, in one compiled program."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from unireason_jax.models.config import ModelConfig
from unireason_jax.pods import batches
from unireason_jax.reinforcement import objective, rows
from unireason_jax.reinforcement.settings import Policy
from unireason_jax.run.run import Run
from unireason_jax.training.optim import Optimizer, Params, merge
from unireason_jax.training.state import TrainState

Stack = Mapping[str, jax.Array]


class Recorded(NamedTuple):
    """Log-probabilities that a first update leaves for later ones of the same rollouts.

    Attributes:
      text: [M, B, T] float32.
      moves: [M, B, S] float32.
    """

    text: jax.Array
    moves: jax.Array


def nothing_recorded(stack: Stack) -> Recorded:
    """What a first update is given; it is not read."""
    return Recorded(jnp.zeros_like(stack["text_weights"]), jnp.zeros_like(stack["move_weights"]))


def update(
    state: TrainState,
    reference: Params,
    stack: Stack,
    count: jax.Array,
    recorded: Recorded,
    is_first: jax.Array,
    *,
    model: ModelConfig,
    policy: Policy,
    optimizer: Optimizer,
    vocab: int,
    chunk: int,
) -> tuple[TrainState, Recorded, dict[str, jax.Array]]:
    """Forward and backward over the microbatches, then one guarded update. Pure; jit it.

    Args:
      state: of training.
      reference: trainable leaves that the policy is kept close to; {} where none are needed.
      stack: rows of `rows.Filler`, [M, B, ...].
      count: int32, microbatches of M that hold anything; the others cost nothing.
      recorded: what the first update of these rollouts left.
      is_first: bool, this is the first update of these rollouts.
      model, policy, optimizer: static.
      vocab, chunk: see `objective.say`.

    Returns:
      The next state, the log-probabilities to compare later updates with, and f32 scalars.
    """
    trainable, frozen = optimizer.split(state.params)
    speak = functools.partial(objective.say, model=model, policy=policy, vocab=vocab, chunk=chunk)

    def loss(trainable: Params, batch: objective.Rows, old: Recorded) -> tuple[jax.Array, Any]:
        said = speak(merge(trainable, frozen), batch)
        held = jax.lax.stop_gradient(said)
        old = Recorded(*(jnp.where(is_first, *pair) for pair in zip((held.text, held.moves), old)))
        distant = speak(merge(reference, frozen), batch) if policy.has_reference else None
        distant = jax.lax.stop_gradient(distant)
        total, told = objective.losses_of(said, old, distant, batch, policy)
        return total, (told, old)

    grad = jax.value_and_grad(loss, has_aux=True)

    def part(number: jax.Array, carry: Any) -> Any:
        grads, sums, recorded = carry
        batch, old = (jax.tree.map(lambda x: x[number], tree) for tree in (dict(stack), recorded))
        (_, (told, old)), more = grad(trainable, batch, old)
        recorded = jax.tree.map(lambda x, y: x.at[number].set(y), recorded, old)
        return jax.tree.map(jnp.add, grads, more), jax.tree.map(jnp.add, sums, told), recorded

    one = jax.tree.map(lambda x: x[0], dict(stack))
    told = jax.eval_shape(grad, trainable, one, jax.tree.map(lambda x: x[0], recorded))[0][1][0]
    nothing = {name: jnp.zeros((), leaf.dtype) for name, leaf in told.items()}
    start = jax.tree.map(jnp.zeros_like, trainable), nothing, recorded
    grads, sums, recorded = jax.lax.fori_loop(0, count, part, start)
    with jax.named_scope("update"):
        trainable, opt_state, ema, moved = optimizer.update(
            trainable=trainable,
            opt_state=state.opt_state,
            ema=state.ema,
            grads=grads,
            loss=sums["loss"],
        )
    params = merge(trainable, frozen)
    return TrainState(state.step + 1, params, opt_state, ema), recorded, sums | moved


def stack_sharding(mesh: Mesh) -> NamedSharding:
    """Rows of every microbatch over `data` and `fsdp`."""
    return NamedSharding(mesh, PartitionSpec(None, ("data", "fsdp")))


def stacked(
    mesh: Mesh, made: Mapping[int, Mapping[str, np.ndarray]], *, many: int, per: int
) -> dict[str, jax.Array]:
    """Rows as the global arrays [many, per, ...] of a stack, given those that `fed` says."""
    place, first = stack_sharding(mesh), next(iter(made.values()))

    def whole(name: str) -> jax.Array:
        def part(index: tuple[slice, ...]) -> np.ndarray:
            some, rows = range(many)[index[0]], range(per)[index[1]]
            return np.stack([[made[batch * per + row][name] for row in rows] for batch in some])

        return jax.make_array_from_callback((many, per, *first[name].shape), place, part)

    return {name: whole(name) for name in first}


def fed(mesh: Mesh, *, many: int, per: int) -> list[list[int]]:
    """By process, the numbers of the rows of a stack that its devices hold."""
    return [
        [batch * per + row for batch in range(many) for row in batches.local_rows(mesh, per, n)]
        for n in range(jax.process_count())
    ]


def jitted(run: Run, policy: Policy) -> Any:
    """`update` of a run, jitted; the state it is given is donated."""
    step = functools.partial(
        update,
        model=run.model,
        policy=policy,
        optimizer=run.optimizer,
        vocab=run.tokenizer.vocab_size,
        chunk=run.config.loss.ce_chunk,
    )
    return jax.jit(step, donate_argnums=0, out_shardings=(run.shardings, None, None))


def lower(run: Run, policy: Policy, image_tokens: int) -> jax.stages.Lowered:
    """`jitted`, traced for one microbatch of a run's mesh. Call it inside the mesh."""
    place = stack_sharding(run.mesh)
    spec = rows.stack_spec(
        policy.budgets, run.spec.patch_sizes, rows=policy.rows, image_tokens=image_tokens
    )
    stack = {name: jax.ShapeDtypeStruct(*leaf, sharding=place) for name, leaf in spec.items()}
    reference = run.optimizer.split(run.abstract.params)[0] if policy.has_reference else {}
    recorded = Recorded(stack["text_weights"], stack["move_weights"])
    count, first = jax.ShapeDtypeStruct((), jnp.int32), jax.ShapeDtypeStruct((), bool)
    program = jitted(run, policy)
    return program.lower(run.abstract, reference, stack, count, recorded, first)
