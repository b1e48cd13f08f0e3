"""The formulas of reinforcement against recorded values (`rl_values.json`), in float64."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unireason_jax.proof.verdicts import Report
from unireason_jax.rules import advantages, policy_losses, rewards, stochastic_steps

MARK = "rl_values.json"
"""The file that makes a folder one of recorded formulas of reinforcement."""
LIMIT = 1e-9
Case = Mapping[str, Any]
Values = dict[str, Any]


def compare_policies(folder: Path) -> Report:
    """Every number of every recorded case.

    Raises:
      ValueError: the file is not laid out as the recordings are; the message names case and field.
    """
    recorded = json.loads((folder / MARK).read_text())
    if unknown := set(recorded) - set(CHECKS) - {"conventions"}:
        raise ValueError(f"{folder / MARK}: no check knows {', '.join(sorted(unknown))}.")
    report = Report(folder)
    with jax.enable_x64(True):
        for kind, check in CHECKS.items():
            for number, case in enumerate(recorded.get(kind, ())):
                where = f"{kind}[{number}]"
                try:
                    for name, found in check(case, recorded).items():
                        wanted = np.asarray(case[name], np.float64)
                        report.add(MARK, f"{where}.{name}", found, wanted, limit=LIMIT)
                except (KeyError, IndexError, TypeError) as error:
                    raise ValueError(f"{folder / MARK}: {where}: {error!r}") from error
    return report


def _arrays(case: Case, names: Sequence[str]) -> Iterator[jax.Array]:
    return (jnp.asarray(case[name], jnp.float64) for name in names)


def _moments(case: Case, velocity: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
    """Mean and deviation of a recorded step, with its own velocity or another."""
    x, recorded = _arrays(case, ("x", "v"))
    cap = case["t1"] if case["clamp"] == "next" else float(case["clamp"])
    return stochastic_steps.sde_step(
        x,
        recorded if velocity is None else velocity,
        case["t"],
        case["t_next"],
        level=case["a"],
        cap=cap,
    )


def _sde(case: Case, recorded: Case) -> Values:
    mean, std = _moments(case)
    x_next = mean + std * jnp.asarray(case["eps"])
    density = stochastic_steps.log_density(x_next, mean, std)
    cap = case["t1"] if case["clamp"] == "next" else float(case["clamp"])
    return {
        "sigma": stochastic_steps.noise_scale(jnp.asarray(case["t"]), case["a"], cap),
        "std": std,
        "mean": mean,
        "x_next": x_next,
        "logp_quad_mean": stochastic_steps.log_prob(x_next, mean, std),
        "logp_full_mean": density,
        "logp_full_sum": density * len(case["x"]),
    }


def _cps(case: Case, recorded: Case) -> Values:
    x, velocity = _arrays(case, ("x", "v"))
    times = case["t"], case["t_next"]
    mean, std = stochastic_steps.cps_step(x, velocity, *times, level=case["a"])
    x_next = mean + std * jnp.asarray(case["eps"])
    logp = stochastic_steps.cps_log_prob(x_next, mean)
    return {"std": std, "mean": mean, "x_next": x_next, "logp_cps_mean": logp}


def _replay(case: Case, recorded: Case) -> Values:
    step = recorded["sde"][case["sde_index"]]
    velocity = jnp.asarray(step["v"]) + jnp.asarray(case["dv"])
    old_mean, std = _moments(step)
    mean, _ = _moments(step, velocity)
    x_next = jnp.asarray(step["x_next"])
    old, new = (stochastic_steps.log_prob(x_next, m, std) for m in (old_mean, mean))
    return {
        "logp_old": old,
        "logp_new": new,
        "ratio": jnp.exp(new - old),
        "ratio_norm": jnp.exp(stochastic_steps.centred_log_ratio(x_next, mean, old_mean, std)),
        "kl_transition_mean": stochastic_steps.transition_kl(mean, old_mean, std),
        "velocity_mse": stochastic_steps.velocity_penalty(velocity, jnp.asarray(step["v"])),
    }


def _groups(case: Case, recorded: Case) -> Values:
    given, log_ratio = _arrays(case, ("rewards", "log_ratio"))
    raw = {
        name: advantages.group_advantages(given, scale=scale, clip=clip)
        for name, scale, clip in (
            ("adv_std1e_4", "std", np.inf),
            ("adv_mean", "none", np.inf),
            ("adv_umm", "floored_std", 1.0),
        )
    }
    clipped = advantages.group_advantages(given, scale="std", clip=case["adv_clip"])
    loss = jnp.mean(policy_losses.clipped_ratio(log_ratio, clipped, case["clip"]))
    return raw | {"loss": loss}


def _text(case: Case, recorded: Case) -> Values:
    new, old, reference, mask = _arrays(case, ("new", "old", "ref", "mask"))
    advantage = jnp.asarray(case["adv"])[:, None]
    terms = policy_losses.clipped_ratio(new - old, advantage, case["clip"])
    apart = policy_losses.k3(new, reference)
    return {
        "token_mean": policy_losses.token_mean(terms, mask),
        "seq_mean": policy_losses.sequence_mean(terms, mask),
        "k3_token_mean": policy_losses.token_mean(apart, mask),
        "k3_seq_mean": policy_losses.sequence_mean(apart, mask),
    }


def _umm(case: Case, recorded: Case) -> Values:
    premature = bool(case["premature_done"])
    return {"R": rewards.trajectory_reward(case["q"], premature=premature)}


CHECKS: dict[str, Callable[[Case, Case], Values]] = {
    "sde": _sde,
    "cps": _cps,
    "replay": _replay,
    "groups": _groups,
    "text": _text,
    "umm": _umm,
}
