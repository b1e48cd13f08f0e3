"""Rollouts of the random dwarf of `tests.inference.toy`, packed."""

import dataclasses
import functools

import numpy as np

from tests.inference import toy
from unireason_jax.data.rows import Budgets
from unireason_jax.reinforcement import rollouts, rows
from unireason_jax.reinforcement.prompts import WorldPrompts
from unireason_jax.reinforcement.settings import FlowPolicy, Policy, TextPolicy

POLICY = Policy(
    prompts=2,
    group=3,
    rounds=2,
    max_text=8,
    timesteps=5,
    window=2,
    within=3,
    rows=2,
    budgets=Budgets(160, 60, 130),
    text=TextPolicy(kl=0.1),
    flow=FlowPolicy(penalty=0.1),
)
VOCAB = toy.spec().tokenizer.vocab_size
IMAGE_TOKENS = toy.SIDE**2


@functools.cache
def groups(**changes):
    """Groups of trajectories."""
    policy = dataclasses.replace(POLICY, **changes)
    reasoner = toy.reasoner()
    reasoner.settings = rollouts.settings_of(policy, reasoner.settings)
    asked = WorldPrompts(0, policy, toy.SIDE)(0, policy.prompts)
    return rollouts.roll(reasoner, policy, asked, seed=7)


@functools.cache
def played():
    """All trajectories as tokens."""
    return tuple(rows.play(one, toy.spec()) for group in groups() for one in group)


ADVANTAGES = np.array([0.5, -1.0, 0.25, 1.0, -0.5, -0.25], np.float32)


def pack(order=None, budgets=POLICY.budgets, advantages=ADVANTAGES, per=POLICY.rows):
    """Packed rows, of the trajectories in some order."""
    order = range(len(played())) if order is None else order
    return rows.pack(
        [played()[n] for n in order],
        [advantages[n] for n in order],
        toy.spec(),
        budgets,
        rows=per,
        image_tokens=IMAGE_TOKENS,
        credit=[True] * len(order),
    )
