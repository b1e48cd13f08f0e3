"""Rollouts of the random dwarf of `tests.inference.toy`, packed."""

import dataclasses
import functools

import jax
import numpy as np

from tests.inference import toy
from unireason_jax.data.rows import Budgets
from unireason_jax.pods import sharding
from unireason_jax.reinforcement import rollouts, rows, update
from unireason_jax.reinforcement.prompts import WorldPrompts
from unireason_jax.reinforcement.rows import Outline
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
    """Siblings of each prompt."""
    policy = dataclasses.replace(POLICY, **changes)
    reasoner = toy.reasoner()
    reasoner.settings = rollouts.settings_of(policy, reasoner.settings)
    asked = WorldPrompts(0, policy, toy.SIDE)(0, policy.prompts)
    found = rollouts.roll(reasoner, policy, asked, seed=7)
    return [found[n : n + policy.group] for n in range(0, len(found), policy.group)]


@functools.cache
def played():
    """All trajectories as tokens."""
    return tuple(rows.play(one, toy.spec()) for group in groups() for one in group)


ADVANTAGES = np.array([0.5, -1.0, 0.25, 1.0, -0.5, -0.25], np.float32)


def pack(order=None, budgets=POLICY.budgets, advantages=ADVANTAGES, per=POLICY.rows, devices=1):
    """(stack, count) of the trajectories in some order, on the first devices."""
    order = range(len(played())) if order is None else order
    chosen = {place: played()[n] for place, n in enumerate(order)}
    credit = [True] * len(order)
    plan = rows.plan([Outline.of(one) for one in chosen.values()], credit, budgets, per=per)
    worth = [advantages[n] for n in order]
    fill = rows.Filler(plan, worth, credit, toy.spec(), budgets, image_tokens=IMAGE_TOKENS)
    mesh = sharding.make_mesh({"data": devices}, devices=jax.devices()[:devices])
    (numbers,) = update.fed(mesh, many=plan.many, per=per)
    made = {number: fill(number, chosen) for number in numbers}
    return update.stacked(mesh, made, many=plan.many, per=per), plan.count
