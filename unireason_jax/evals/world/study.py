"""A study: runs that differ by their data, rows that compare them, and what it costs.

Read from the `study()` of a config file, e.g. configs/world_ablation.py; `unireason ablation` runs
it.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from unireason_jax.run import configuration
from unireason_jax.run.configuration import ConfigError
from unireason_jax.run.run import Run

SECONDS_PER_CRITIQUE = 0.05
_MEASURED_EXAMPLES, _MEASURED_BATCHES = 1024, 16


@dataclasses.dataclass(frozen=True)
class Study:
    """What is run and compared; see `study()` of configs/world_ablation.py.

    Attributes:
      runs: by name {mixture, share of the images (or steps, for a run that draws none), after
        (another run), own_critiques (a share)}.
      rows: (name, run, mode of asking).
      claims: (measure, smaller row, larger row).
      controls: the run whose controls are reported.
      images: supervised images that a whole row draws.
      seconds_per_step, seconds_per_report: for the plan's clock.
      sizes, sizes_of: flags of `evaluate`, for all runs and by run.
      critiques: drafts to be criticised for a run that learns from its own.
      title, note: of the report; what holds for all rows.
      measures: columns of the report, the one to read first last.
    """

    runs: Mapping[str, Mapping[str, Any]]
    rows: tuple[tuple[str, str, str], ...]
    claims: tuple[tuple[str, str, str], ...]
    controls: str
    images: int
    seconds_per_step: float
    seconds_per_report: float
    sizes: Mapping[str, Any]
    sizes_of: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    critiques: int = 0
    title: str = "Does reasoning help?"
    note: str = "Every row has the same parameters and drew the same number of images."
    measures: tuple[str, ...] = ("held-out prompts", "knowledge")

    def only(self, names: Sequence[str]) -> "Study":
        """The study with some of its rows, all of them for no names.

        Raises:
          ConfigError: a row that does not exist.
        """
        known = [name for name, _, _ in self.rows]
        if unknown := [name for name in names if name not in known]:
            raise ConfigError(f"--only: no row '{unknown[0]}'; there are {', '.join(known)}.")
        return dataclasses.replace(
            self, rows=tuple(r for r in self.rows if r[0] in names or not names)
        )

    def needed(self) -> list[str]:
        """Runs that the rows need, every run after the one it starts from."""
        order: list[str] = []

        def add(run: str) -> None:
            if before := self.runs[run].get("after"):
                add(before)
            if run not in order:
                order.append(run)

        for _, run, _ in self.rows:
            add(run)
        return order

    def evaluated(self) -> list[str]:
        """Runs that are evaluated."""
        return list(dict.fromkeys(run for _, run, _ in self.rows))


def load_study(config: str) -> Study:
    """The study of a config file. Raises ConfigError where it has none, or a wrong one."""
    names = configuration.load_file(config)
    if "study" not in names:
        raise ConfigError(f"--config={config}: the file defines no study().")
    return configuration.build(Study, names["study"](), "study")


def images_per_step(config: ConfigDict) -> float:
    """Supervised images in a batch of a config, measured on its own packs."""
    config = ConfigDict(config)
    config.data.examples = min(config.data.examples, _MEASURED_EXAMPLES)
    pipeline = Run.of(config).pipeline(whole=True)
    batches = [next(pipeline) for _ in range(_MEASURED_BATCHES)]
    pipeline.close()
    weights = "code_weights" if "code_weights" in batches[0] else "latent_weights"
    tokens = sum(int((batch[weights] > 0).sum()) for batch in batches)
    return tokens / config.data.side**2 / _MEASURED_BATCHES


def measured_rates(study: Study, config: str) -> dict[str, float]:
    """Supervised images in a step of every run that draws some, by name."""
    rates = {}
    for run in [run for run in study.needed() if "steps" not in study.runs[run]]:
        loaded = configuration.load(f"{config}:{run}")
        if share := study.runs[run].get("own_critiques"):
            loaded.data.mixture.refine_t2i = share  # their images do not exist yet
        rates[run] = images_per_step(loaded)
    return rates


def images_within(study: Study, rates: Mapping[str, float], seeds: int, minutes: float) -> int:
    """Supervised images of a whole row, such that all runs and reports take so many minutes.

    Args:
      study: its rows are what is run.
      rates: see `measured_rates`.
      seeds: trainings of every run.
      minutes: the budget.

    Raises:
      ConfigError: `minutes` does not even cover what does not grow with the images.
    """
    fixed = seeds * sum(fixed_seconds(study, run) for run in study.needed())
    each = seeds * study.seconds_per_step
    each *= sum(study.runs[run]["share"] / rate for run, rate in rates.items())
    images = int((60 * minutes - fixed) / each)
    if images < max(rates.values()):
        raise ConfigError(
            f"--minutes={minutes:g} is too short: reports, critiques and runs of fixed length "
            f"alone take {fixed / 60:.0f} minutes. Give more, fewer --seeds, or --only some rows."
        )
    return images


def plan_steps(
    study: Study, rates: Mapping[str, float], images: int
) -> dict[str, dict[str, float]]:
    """Steps and images of every run, such that whole rows draw `images`."""
    plan = {}
    for run in study.needed():
        share = study.runs[run].get("share", 0) * images
        steps = study.runs[run].get("steps") or max(round(share / rates[run]), 1)
        plan[run] = {"steps": steps, "images": round(share)}
    return plan


def fixed_seconds(study: Study, run: str) -> float:
    """Expected seconds of a run that do not grow with the number of images."""
    steps = study.runs[run].get("steps", 0)
    critiques = study.critiques if "own_critiques" in study.runs[run] else 0
    report = study.seconds_per_report if run in study.evaluated() else 0
    return report + SECONDS_PER_CRITIQUE * critiques + study.seconds_per_step * steps
