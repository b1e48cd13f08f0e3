"""Trajectories -> packed rows: one forward pass says again what the sampler did.

A trajectory is laid out as its record is in training. A stochastic step of an image is a noised
split, as a flow target is; the K steps of an image lie side by side at one position, invisible to
each other and to everything else, before the clean copy that what follows sees.
"""

import dataclasses
import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from unireason_jax.data.bagel.tokens import (
    SampleSpec,
    copies,
    latent_tokens,
    text_tokens,
    vit_tokens,
)
from unireason_jax.data.rows import Budgets, assemble, row_spec
from unireason_jax.data.samples import LATENT, TEXT, VIT, Builder, Sample
from unireason_jax.inference.engine import bucket
from unireason_jax.reinforcement.rollouts import Drawing, Trajectory
from unireason_jax.rules import visibility
from unireason_jax.run.configuration import ConfigError

_SAMPLE = "sample."  # what a name in a file of a trajectory begins with
_UNUSED = ("text_weights", "latent_weights", "latent_logits", "noise_seeds")


@dataclasses.dataclass(frozen=True, eq=False)
class Played:
    """A trajectory as tokens, with what the sampler did; n text and m latent tokens, S steps.

    Attributes:
      sample: its tokens; label -1 where nothing is reinforced.
      text_weights: [n] float32; 1 in all over the tokens of each turn, and over the turns.
      text_logps: [n] float32 log-probabilities under the sampler.
      next_latents: [m, P] float32 where a step led.
      times, next_times: [m] float32 flow times of a step; 0 for clean tokens.
      moves: [m] int32 number of the step, -1 for clean tokens.
      move_logps: [S] float32 log-probabilities under the sampler.
    """

    sample: Sample
    text_weights: np.ndarray
    text_logps: np.ndarray
    next_latents: np.ndarray
    times: np.ndarray
    next_times: np.ndarray
    moves: np.ndarray
    move_logps: np.ndarray


class _Writer:
    """Collects a trajectory's tokens and what belongs to them, in one order."""

    def __init__(self, spec: SampleSpec):
        self.spec = spec
        self.build = Builder(spec.tokenizer, spec.patch_sizes)
        self.weights, self.logps = [], []
        self.following, self.times, self.moves = [], [], []
        self.move_logps: list[float] = []

    def given(self, ids: Sequence[int]) -> None:
        """A text that was not written by the model."""
        self.build.text(list(ids), 0.0, "none")
        self._plain(len(ids))

    def written(self, ids: Sequence[int], logps: Sequence[float], forced: bool) -> None:
        """A text of the model: bos and what it wrote; a forced eos earns nothing."""
        markers = self.spec.tokenizer
        self.build.text([markers.bos, *ids, markers.eos], 1.0, "none")
        credit = np.ones(len(ids) + 1, np.float32)
        credit[-1] = not forced
        share = credit / max(credit.sum(), 1)
        self.weights += [*share.tolist(), 0.0]
        self.logps += [*logps, 0.0]

    def drawn(self, drawing: Drawing) -> None:
        """The stochastic steps of an image."""
        steps = zip(drawing.points, drawing.points[1:], drawing.times, drawing.times[1:])
        for number, (point, following, t, t_next) in enumerate(steps):
            self.build.target(point, drawing.places, "none", weight=1.0, logit=0.0, seed=0)
            self._plain(2)
            count, move = len(point), len(self.move_logps)
            self.following.append(following)
            self.times.append(np.tile(np.array([[t, t_next]], np.float32), (count, 1)))
            self.moves.append(np.full(count, move, np.int32))
            self.move_logps.append(float(drawing.logps[number]))

    def shown(self, segment: Any, image: np.ndarray) -> None:
        """The copies of an image that what follows sees."""
        for stream, mode in copies(segment, self.spec):
            if stream == VIT:
                self.build.vit(*vit_tokens(image, self.spec), "none")
                self._plain(2)
            elif mode == visibility.FULL:
                latents, places = latent_tokens(image, self.spec)
                self.build.clean(latents, places, "none")
                self._plain(2)
                self.following.append(latents)
                self.times.append(np.zeros((len(latents), 2), np.float32))
                self.moves.append(np.full(len(latents), -1, np.int32))

    def _plain(self, tokens: int) -> None:
        self.weights += [0.0] * tokens
        self.logps += [0.0] * tokens

    def finish(self, name: str, turns: int) -> Played:
        """All of it."""
        features = self.spec.patch_sizes[1]
        times = np.concatenate([*self.times, np.zeros((0, 2), np.float32)])
        return Played(
            sample=self.build.finish(name),
            text_weights=np.array(self.weights, np.float32) / max(turns, 1),
            text_logps=np.array(self.logps, np.float32),
            next_latents=np.concatenate([*self.following, np.zeros((0, features), np.float32)]),
            times=times[:, 0],
            next_times=times[:, 1],
            moves=np.concatenate([*self.moves, np.zeros(0, np.int32)]),
            move_logps=np.array(self.move_logps, np.float32),
        )


def play(trajectory: Trajectory, spec: SampleSpec, *, moves: bool = True) -> Played:
    """A trajectory as tokens; without `moves`, its drawings are context only."""
    writer, trace = _Writer(spec), trajectory.trace
    last = len(trace.steps) - 1
    for number, (segment, step) in enumerate(zip(trajectory.record.segments, trace.steps)):
        if number in trajectory.texts:
            text = trajectory.texts[number]
            writer.written(text.ids, text.logps, text.forced)
        elif step.kind == "text":
            writer.given(text_tokens(segment, spec))
        if moves and number in trajectory.drawings:
            writer.drawn(trajectory.drawings[number])
        if step.kind == "image" and number < last:
            writer.shown(segment, step.image)
    return writer.finish(f"{trace.id} sample {trace.sample}", len(trajectory.texts))


class Outline(NamedTuple):
    """What has to be known of a trajectory to place it, JSON-able.

    Attributes:
      name: in messages.
      lengths: tokens of the text, ViT and latent streams.
      talks: whether a text of it is reinforced.
      steps: stochastic steps.
    """

    name: str
    lengths: tuple[int, int, int]
    talks: bool
    steps: int

    @classmethod
    def of(cls, one: Played) -> "Outline":
        """That of a trajectory."""
        talks = bool(one.text_weights.any())
        return cls(one.sample.record_id, one.sample.lengths, talks, len(one.move_logps))


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """Where the trajectories of an iteration go, and what they count.

    Attributes:
      members: of every row, the numbers of its trajectories; some rows hold none.
      per: rows of a microbatch.
      count: microbatches that hold anything, of a power of two.
      talks: trajectories whose texts are reinforced.
      drawn: steps that are reinforced.
    """

    members: Sequence[Sequence[int]]
    per: int
    count: int
    talks: int
    drawn: int

    @property
    def many(self) -> int:
        """Microbatches, empty ones too."""
        return len(self.members) // self.per


def plan(
    outlines: Sequence[Outline], credit: Sequence[bool], budgets: Budgets, *, per: int
) -> Plan:
    """Places all trajectories of an iteration; which process holds them does not matter.

    Args:
      outlines: of the trajectories.
      credit: of each, whether its drawing is reinforced (not that of a malformed one).
      budgets: tokens of a row by stream.
      per: rows of a microbatch.

    Raises:
      ConfigError: a trajectory is longer than a row; the message says which budget to raise.
    """
    placed = _place(outlines, budgets)
    count = max(-(-len(placed) // per), 1)
    placed += [[] for _ in range(bucket(count, 1) * per - len(placed))]
    talks = sum(one.talks for one in outlines)
    drawn = sum(one.steps for one, counts in zip(outlines, credit) if counts)
    return Plan(placed, per, count, talks, drawn)


class Filler:
    """Makes rows of a plan.

    Weights are made such that sums over everything are means: of text over tokens of a turn, turns
    and trajectories that wrote anything; of drawing over all steps of the trajectories that count.

    Args:
      plan: see `plan`.
      advantages, credit: of each trajectory.
      spec: sizes.
      budgets: tokens of a row by stream.
      image_tokens: latent tokens of an image, which say how many steps a row has room for.
    """

    def __init__(
        self,
        plan: Plan,
        advantages: Sequence[float],
        credit: Sequence[bool],
        spec: SampleSpec,
        budgets: Budgets,
        *,
        image_tokens: int,
    ):
        self._plan, self._advantages, self._credit = plan, advantages, credit
        self._spec, self._budgets = spec, budgets
        self._slots = max(budgets.latent // image_tokens, 1)

    def __call__(self, number: int, played: Mapping[int, Played]) -> dict[str, np.ndarray]:
        """The arrays of a row, given at least its own trajectories by number."""
        budgets, plan = self._budgets, self._plan
        members = plan.members[number]
        row = assemble([played[n].sample for n in members], budgets, self._spec.patch_sizes)
        row = {name: array for name, array in row.items() if name not in _UNUSED}
        blank = np.zeros(budgets.text, np.float32), np.zeros(budgets.latent, np.float32)
        row |= {name: blank[0].copy() for name in ("text_weights", "text_logps", "text_worth")}
        row |= {name: blank[1].copy() for name in ("times", "next_times")}
        row["next_latents"] = np.zeros_like(row["latents"])
        row["moves"] = np.full(budgets.latent, -1, np.int32)
        row |= {
            f"move_{name}": np.zeros(self._slots, np.float32)
            for name in ("weights", "logps", "worth")
        }
        used = np.zeros(3, np.int64)
        moves = 0
        for n in members:
            one = played[n]
            end = used + one.sample.lengths
            text, latent = slice(used[TEXT], end[TEXT]), slice(used[LATENT], end[LATENT])
            row["text_weights"][text] = one.text_weights / max(plan.talks, 1)
            row["text_logps"][text] = one.text_logps
            row["text_worth"][text] = self._advantages[n]
            row["next_latents"][latent] = one.next_latents
            row["times"][latent], row["next_times"][latent] = one.times, one.next_times
            row["moves"][latent] = np.where(one.moves < 0, -1, one.moves + moves)
            own = slice(moves, moves + len(one.move_logps))
            row["move_weights"][own] = self._credit[n] / max(plan.drawn, 1)
            row["move_logps"][own], row["move_worth"][own] = one.move_logps, self._advantages[n]
            used, moves = end, own.stop
        return row


def to_bytes(one: Played) -> bytes:
    """A trajectory as an npz file; see `from_bytes`."""
    values = {field.name: getattr(one, field.name) for field in dataclasses.fields(Played)}
    sample = values.pop("sample")
    values |= {
        f"{_SAMPLE}{field.name}": value
        for field in dataclasses.fields(Sample)
        if (value := getattr(sample, field.name)) is not None
    }
    buffer = io.BytesIO()
    np.savez(buffer, **values)
    return buffer.getvalue()


def from_bytes(data: bytes) -> Played:
    """The trajectory of `to_bytes`, the same to the bit."""
    with np.load(io.BytesIO(data)) as file:
        values: dict[str, Any] = dict(file)
    sample = {n.removeprefix(_SAMPLE): values.pop(n) for n in [*values] if n.startswith(_SAMPLE)}
    sample["record_id"] = str(sample["record_id"])
    sample["vit_count"] = int(sample["vit_count"])
    sample["visibility"] = visibility.Visibility(*sample["visibility"])
    return Played(sample=Sample(**sample), **values)


def stack_spec(
    budgets: Budgets, patch_sizes: tuple[int, int], *, rows: int, image_tokens: int
) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Shape and dtype of every array of a stack of one microbatch, by name."""
    spec = row_spec(budgets, patch_sizes)
    found = {name: leaf for name, leaf in spec.items() if name not in _UNUSED}
    wide, slots = np.dtype(np.float32), max(budgets.latent // image_tokens, 1)
    text, latent = (budgets.text,), (budgets.latent,)
    found |= {f"text_{name}": (text, wide) for name in ("weights", "logps", "worth")}
    found |= {f"move_{name}": ((slots,), wide) for name in ("weights", "logps", "worth")}
    found |= {"times": (latent, wide), "next_times": (latent, wide)}
    found |= {"next_latents": spec["latents"], "moves": (latent, np.dtype(np.int32))}
    return {name: ((1, rows, *shape), dtype) for name, (shape, dtype) in found.items()}


def _place(outlines: Sequence[Outline], budgets: Budgets) -> list[list[int]]:
    """Members of each row: the longest first, each into the first row that has room."""
    lengths = np.array([one.lengths for one in outlines]).reshape(-1, 3)
    limit = budgets.array()
    for one, length in zip(outlines, lengths):
        if (length > limit).any():
            stream = int((length > limit).argmax())
            name = ("text", "vit", "latent")[stream]
            raise ConfigError(
                f"config.rl.budgets.{name} is {limit[stream]}, but the trajectory of "
                f"'{one.name}' has {length[stream]} tokens; raise it."
            )
    share = (lengths / np.maximum(limit, 1)).max(axis=1, initial=0)
    rows: list[list[int]] = []
    left: list[np.ndarray] = []
    for n in np.argsort(-share, kind="stable").tolist():
        fits = next((i for i, room in enumerate(left) if (lengths[n] <= room).all()), None)
        if fits is None:
            rows.append([])
            left.append(limit.copy())
            fits = len(rows) - 1
        rows[fits].append(n)
        left[fits] = left[fits] - lengths[n]
    return rows
