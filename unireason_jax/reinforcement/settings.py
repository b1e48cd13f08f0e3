"""What `config.rl` says, as values that are checked when they are made."""

import dataclasses
from typing import Any

from ml_collections import ConfigDict

from unireason_jax.data.rows import Budgets
from unireason_jax.rules.advantages import SCALES
from unireason_jax.run import configuration
from unireason_jax.run.configuration import ConfigError

TEMPLATES = ("refine_t2i", "think_t2i", "t2i")


@dataclasses.dataclass(frozen=True)
class TextPolicy:
    """How text is reinforced.

    Attributes:
      weight: of its loss; 0 trains no text.
      clip: how far a token's ratio counts.
      kl: weight of k3, the distance to the reference.
    """

    weight: float = 1.0
    clip: float = 0.2
    kl: float = 1e-4


@dataclasses.dataclass(frozen=True)
class FlowPolicy:
    """How drawing is reinforced.

    Attributes:
      weight: of its loss; 0 trains no drawing.
      clip: how far an image's ratio counts; its log-probability is a mean over all numbers of the
        image, so this is far below that of text.
      penalty: weight of the square distance to the reference's velocity.
    """

    weight: float = 2.0
    clip: float = 1e-5
    penalty: float = 1.5e-5


@dataclasses.dataclass(frozen=True)
class RewardConfig:
    """Who judges.

    Attributes:
      url: of a reward service (`endpoints.reward_client`); empty for the world's exact judge.
      key: name of the environment variable that holds its key; empty for none.
      concurrency: most calls in flight, of each process.
      right: reward from which an image counts as right.
      wrong_stop: what stopping at a wrong picture costs. Where most pictures are wrong and the
        model does not see which, this alone teaches it never to stop.
    """

    url: str = ""
    key: str = ""
    concurrency: int = 8
    right: float = 1.0
    wrong_stop: float = 0.5


@dataclasses.dataclass(frozen=True)
class Policy:
    """All of `config.rl`.

    Attributes:
      template: "refine_t2i" reinforces whole trajectories (look, reflect, refine) behind a plan and
        a draft that siblings share; "think_t2i" a plan and a picture; "t2i" a picture.
      prompts, group: prompts of an iteration, and siblings of each.
      rounds: most refinements of a trajectory.
      tasks: the world's tasks that prompts are taken from, with their shares.
      prompts_from, held_out: files of prompts instead (as `generate --prompts` takes them), which
        are asked in turn; those of the examinations.
      temperature, max_text: of sampled texts.
      timesteps: points in flow time of a drawing; 0 as the checkpoint is sampled.
      window, within: stochastic steps of a drawing, and the first steps that they lie among.
      noise: level a of the stochastic steps.
      batch_rows: conversations that are rolled out together.
      updates: updates per iteration, all of the same rollouts.
      scale, advantage_clip: see `rules.advantages.group_advantages`.
      rows, budgets: packed rows of a microbatch, and the tokens of each by stream.
      eval_every, eval_prompts: iterations between examinations on held-out prompts (0: none), and
        how many prompts.
      show_every: iterations between pictures of trajectories; 0 shows none.
      text, flow: the two losses.
      reward: the judge.
    """

    template: str = "refine_t2i"
    prompts: int = 4
    group: int = 8
    rounds: int = 2
    tasks: tuple[tuple[str, float], ...] = (("t2i", 1.0),)
    prompts_from: str = ""
    held_out: str = ""
    temperature: float = 0.9
    max_text: int = 64
    timesteps: int = 0
    window: int = 2
    within: int = 6
    noise: float = 0.8
    batch_rows: int = 64
    updates: int = 1
    scale: str = "floored_std"
    advantage_clip: float = 1.0
    rows: int = 4
    budgets: Budgets = dataclasses.field(default_factory=lambda: Budgets(512, 256, 256))
    eval_every: int = 0
    eval_prompts: int = 128
    show_every: int = 0
    text: TextPolicy = TextPolicy()
    flow: FlowPolicy = FlowPolicy()
    reward: RewardConfig = RewardConfig()

    def __post_init__(self):
        """Raises ConfigError on values that cannot work."""
        _known("template", self.template, TEMPLATES)
        _known("scale", self.scale, SCALES)
        for name in (
            "prompts",
            "rounds",
            "max_text",
            "batch_rows",
            "updates",
            "rows",
            "window",
            "eval_prompts",
        ):
            if getattr(self, name) < 1:
                raise ConfigError(f"config.rl.{name} is {getattr(self, name)}; it must be >= 1.")
        if self.group < 2:
            raise ConfigError(
                f"config.rl.group is {self.group}; a sample is compared with its siblings: give "
                "at least 2."
            )
        if self.temperature <= 0:
            raise ConfigError(f"config.rl.temperature is {self.temperature}; it must be > 0.")
        if not 0 <= self.reward.wrong_stop < float("inf"):
            raise ConfigError(
                f"config.rl.reward.wrong_stop is {self.reward.wrong_stop}; it must be >= 0."
            )
        if self.noise < 0 or (self.noise == 0 and self.flow.weight):
            raise ConfigError(
                f"config.rl.noise is {self.noise}: drawing is reinforced on stochastic steps only; "
                "set it above 0, or rl.flow.weight=0."
            )
        if self.window > self.within:
            raise ConfigError(
                f"config.rl.window={self.window} stochastic steps do not fit among the first "
                f"within={self.within}."
            )
        if bool(self.prompts_from) != bool(self.reward.url):
            raise ConfigError(
                "config.rl: prompts of a file (prompts_from) need a reward service (reward.url), "
                "those of the world its own judge; set both or neither."
            )
        if self.prompts_from and self.eval_every and not self.held_out:
            raise ConfigError(
                "config.rl.held_out: name the held-out prompts, or set rl.eval_every=0."
            )
        if not (self.text.weight or self.flow.weight):
            raise ConfigError("config.rl: text.weight and flow.weight are 0: nothing is trained.")
        if self.template == "t2i" and self.text.weight:
            raise ConfigError(
                "config.rl.text.weight: the template t2i writes no text; set it to 0."
            )

    @property
    def has_reference(self) -> bool:
        """Whether the distance to the first weights counts."""
        text = self.text.weight and self.text.kl
        return bool(text or (self.flow.weight and self.flow.penalty))


def policy(config: ConfigDict) -> Policy:
    """The policy of `config.rl`. Raises ConfigError on unknown keys and impossible values."""
    if "rl" not in config:
        raise ConfigError(
            "config.rl is not there: this is a config of another verb; take configs/rl_reflect.py, "
            "or start from configs/rl_common.py."
        )
    values: dict[str, Any] = config.rl.to_dict()
    made: dict[str, Any] = {
        "text": configuration.build(TextPolicy, values.pop("text"), "rl.text"),
        "flow": configuration.build(FlowPolicy, values.pop("flow"), "rl.flow"),
        "reward": configuration.build(RewardConfig, values.pop("reward"), "rl.reward"),
    }
    tasks = tuple((name, share) for name, share in values.pop("tasks").items() if share > 0)
    try:
        budgets = Budgets(**values.pop("budgets"))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"config.rl.budgets: {error}") from None
    made |= {"tasks": tasks, "budgets": budgets}
    return configuration.build(Policy, {**values, **made}, "rl")


def _known(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"config.rl.{name} is {value!r}; use one of {', '.join(choices)}.")
