"""Rollouts: groups of sampled trajectories, by the sampler and the templates of everything else.

Siblings share the prompt and, where trajectories start from a draft, plan and draft too. What the
sampler emits of a draw (log-probabilities, latents between steps) is kept by the seed of the draw,
which the trace tells.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from unireason_jax.data.records import Record
from unireason_jax.data.templates import TEMPLATES
from unireason_jax.inference import sampler, stochastic
from unireason_jax.inference.cache import Cache
from unireason_jax.inference.context import Context, Written
from unireason_jax.inference.conversation import Request
from unireason_jax.inference.engine import Engine
from unireason_jax.inference.multihost import SharedReasoner
from unireason_jax.inference.reasoner import Reasoner
from unireason_jax.inference.settings import FlowSettings, Settings, TextSettings
from unireason_jax.inference.trace import Trace
from unireason_jax.reinforcement import crew
from unireason_jax.reinforcement.prompts import Asked
from unireason_jax.reinforcement.settings import Policy


@dataclasses.dataclass(frozen=True, eq=False)
class Drawing:
    """The stochastic steps of one image, K of them.

    Attributes:
      points: [K + 1, T, P] float32 latents before each step and after the last.
      times: [K + 1] float32 flow times of the points.
      logps: [K] float32 log-probabilities under the sampler.
      places: [T] int32 positions in the latent grid.
    """

    points: np.ndarray
    times: np.ndarray
    logps: np.ndarray
    places: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Trajectory:
    """One sibling.

    Attributes:
      asked: its prompt.
      record: the record that was filled; its segments are the steps of the trace.
      trace: what happened.
      texts, drawings: what the sampler emitted, by number of the step.
    """

    asked: Asked
    record: Record
    trace: Trace
    texts: Mapping[int, Written]
    drawings: Mapping[int, Drawing]


class Emitted:
    """What the sampler emits, by the seed of the draw; None where two draws share a seed."""

    def __init__(self):
        self.texts: dict[int, Written | None] = {}
        self.drawings: dict[int, Drawing | None] = {}

    def text(self, seed: int, text: Written) -> None:
        """Keeps a text."""
        self.texts[seed] = None if seed in self.texts else text

    def drawing(self, seed: int, drawing: Drawing) -> None:
        """Keeps an image's steps."""
        self.drawings[seed] = None if seed in self.drawings else drawing


class RolloutContext(Context):
    """A context whose draws are stochastic and kept.

    Args:
      engine, rows: as `Context`.
      emitted: where they are kept.
      policy: window and noise level.
      start: first stochastic step.
    """

    def __init__(self, engine: Engine, rows: int, *, emitted: Emitted, policy: Policy, start: int):
        super().__init__(engine, rows)
        self._emitted, self._policy, self._start = emitted, policy, start

    def write(
        self, seeds: Mapping[int, int], settings: TextSettings, limit: int
    ) -> dict[int, Written]:
        """See `Context`."""
        out = super().write(seeds, settings, limit)
        for row, text in out.items():
            self._emitted.text(seeds[row], text)
        return out

    def _integrate(
        self,
        branches: tuple[Cache, ...],
        seeds: jax.Array,
        noise: jax.Array,
        positions: jax.Array,
        counts: jax.Array,
        flow: FlowSettings,
    ) -> tuple[jax.Array, jax.Array]:
        """See `Context`."""
        engine, policy = self.engine, self._policy
        latents, moves = stochastic.draw_moves(
            engine.params,
            branches[0],
            seeds,
            noise,
            positions,
            counts,
            np.int32(self._start),
            np.float32(policy.noise),
            config=engine.config,
            markers=engine.markers,
            settings=flow.program,
            window=policy.window,
        )
        points, times, logps = (np.asarray(x) for x in moves)
        numbers, places, sizes = np.asarray(seeds), np.asarray(positions), np.asarray(counts)
        for row, count in enumerate(sizes.tolist()):
            if count:
                found = Drawing(points[:, row, :count], times, logps[:, row], places[row, :count])
                self._emitted.drawing(int(numbers[row, 0]), found)
        return latents, jnp.full(len(counts), flow.timesteps - 1)


def settings_of(policy: Policy, usual: Settings) -> Settings:
    """How rollouts are sampled: at the policy's temperature, without guidance.

    Raises:
      ValueError: the stochastic steps are among more steps than a drawing has.
    """
    plain = {"text_scale": 1.0, "image_scale": 1.0, "solver": "euler", "cache": None}
    flow = dataclasses.replace(usual.flow, **plain)
    if policy.timesteps:
        flow = dataclasses.replace(flow, timesteps=policy.timesteps)
    if policy.within > flow.timesteps - 1:
        raise ValueError(
            f"config.rl.within={policy.within}: a drawing of {flow.timesteps} points has "
            f"{flow.timesteps - 1} steps."
        )
    return dataclasses.replace(
        usual,
        text=TextSettings(policy.temperature),
        flow=flow,
        refine=None,
        max_text=policy.max_text,
        max_reflection=None,
        share_texts=1,
        batch_rows=policy.batch_rows,
    )


def roll(
    reasoner: Reasoner,
    policy: Policy,
    asked: Sequence[Asked],
    *,
    seed: int,
    folder: epath.Path | None = None,
) -> list[Trajectory | None]:
    """This process's share of the siblings of all prompts.

    What a sibling does follows from its prompt, its number and `seed`, whoever rolls it out.

    Args:
      reasoner: the model, with `settings_of`.
      policy: how many, and how.
      asked: a prompt for each group.
      seed: uint32 of all randomness.
      folder: that all processes see, for drafts; one process needs none.

    Returns:
      Siblings next to each other; None for one whose draws cannot be told apart from another's.
    """
    drawn = SharedReasoner(reasoner, folder) if jax.process_count() > 1 else reasoner
    reasoner.contexts = Context
    records = _records(drawn, policy, asked, seed)
    emitted = Emitted()
    start = sampler.seed(seed, "window") % (policy.within - policy.window + 1)
    reasoner.contexts = functools.partial(
        RolloutContext, emitted=emitted, policy=policy, start=start
    )
    requests = [Request(record, seed=seed) for record in records]
    for request in requests:
        reasoner.check(request)
    own = [divmod(n, policy.group) for n in crew.share(len(requests) * policy.group)]
    jobs = [(requests[prompt], sibling) for prompt, sibling in own]
    traces = dict(reasoner.stream(jobs, reasoner.settings))
    return [
        _trajectory(asked[prompt], records[prompt], traces[place], emitted)
        for place, (prompt, _) in enumerate(own)
    ]


def play_out(
    reasoner: Reasoner, policy: Policy, asked: Sequence[Asked], *, seed: int
) -> list[Trajectory]:
    """One trajectory of each prompt, sampled as the reasoner's settings say; nothing is emitted."""
    reasoner.contexts = Context
    records = _records(reasoner, policy, asked, seed)
    traces = reasoner.run([Request(record, seed=seed) for record in records])
    return [Trajectory(*parts, {}, {}) for parts in zip(asked, records, traces)]


def _records(
    reasoner: Reasoner | SharedReasoner, policy: Policy, asked: Sequence[Asked], seed: int
) -> list[Record]:
    """What siblings start from; where that is a draft which is not given, it is drawn here."""
    fields: list[dict[str, Any]] = [{"id": one.name, "prompt": one.prompt} for one in asked]
    if policy.template == "refine_t2i":
        for field, one in zip(fields, asked):
            field |= {"rounds": policy.rounds, **one.given}
        left = [field for field in fields if "draft" not in field]
        requests = [
            Request(TEMPLATES["think_t2i"](field, reasoner.style), seed=seed) for field in left
        ]
        for field, trace in zip(left, reasoner.run(requests) if requests else ()):
            field |= {"explanation": trace.text_of("plan"), "draft": trace.image}
    return [TEMPLATES[policy.template](field, reasoner.style) for field in fields]


def _trajectory(asked: Asked, record: Record, trace: Trace, emitted: Emitted) -> Trajectory | None:
    """A trace with what the sampler emitted."""
    made = [(number, step) for number, step in enumerate(trace.steps) if not step.given]
    texts = {n: emitted.texts[step.seed] for n, step in made if step.kind == "text"}
    drawings = {n: emitted.drawings[step.seed] for n, step in made if step.kind == "image"}
    if None in (*texts.values(), *drawings.values()):
        return None
    return Trajectory(asked, record, trace, texts, drawings)
