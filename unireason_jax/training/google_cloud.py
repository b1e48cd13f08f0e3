"""A run reported to Google Cloud, by Google's own packages (the extra `google`).

`config.train.goodput_job`: when the job and its steps began, to Cloud Logging, from which
ml-goodput-measurement's monitor computes goodput and what it was lost to.
`config.train.mldiagnostics`: a machine learning run of Cluster Director with its config and metrics
(google-cloud-mldiagnostics).
Both find project and credentials as Google's other clients do.
"""

import importlib
from collections.abc import Mapping
from typing import Any

import jax
from etils import epath

PACKAGES = {"goodput_job": "ml_goodput_measurement", "mldiagnostics": "google_cloud_mldiagnostics"}


class NotReported(ValueError):
    """What a run cannot report to Google Cloud, in one line, and why."""


def require(key: str) -> Any:
    """The package that a key of `config.train` needs. NotReported where it is not installed."""
    try:
        return importlib.import_module(PACKAGES[key])
    except ImportError:
        name = PACKAGES[key].replace("_", "-")
        raise NotReported(
            f"--config.train.{key} is set but {name} is not installed: pip install "
            "'unireason-jax[google]', or set it to ''."
        ) from None


def check(train: Mapping[str, Any]) -> None:
    """Whether the packages are there that `config.train` asks for; raises as `require`."""
    for key in PACKAGES:
        if train.get(key):
            require(key)


def _begin(key: str, start: Any) -> Any:
    """What `start` makes; whatever it raises (no project, no credentials) in one line."""
    try:
        return start()
    except Exception as error:
        line = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise NotReported(
            f"--config.train.{key}: Google Cloud cannot be reached: {line[:200]}"
        ) from error


class Goodput:
    """The beginnings of a job and of its steps, told by the first process.

    Args:
      job: the job's name, the same after every restart.
      step: the step that the job begins or goes on with.
    """

    def __init__(self, job: str, step: int):
        goodput, first = require("goodput_job").goodput, jax.process_index() == 0
        self._step = step
        self._recorder = _begin(
            "goodput_job",
            lambda: goodput.GoodputRecorder(job, f"goodput_{job}", logging_enabled=first),
        )
        self._recorder.record_job_start_time()
        self._recorder.record_step_start_time(step)

    def advance(self) -> None:
        """A step is done, and the next one begins."""
        self._step += 1
        self._recorder.record_step_start_time(self._step)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Nothing: what is reported are times."""

    def close(self) -> None:
        """The job ends; waits until all is sent."""
        self._recorder.record_job_end_time()
        self._recorder.flush()


class Diagnostics:
    """A run of ML Diagnostics; every host of it says that it is there, the first tells metrics.

    Args:
      name: the run's name.
      workdir: where its profiles may be kept, if that is in a bucket.
      config: resolved config.
    """

    def __init__(self, name: str, workdir: epath.PathLike, config: Mapping[str, Any]):
        self._package = require("mldiagnostics")
        where = {"gcs_path": str(workdir)} if str(workdir).startswith("gs://") else {}
        _begin(
            "mldiagnostics",
            lambda: self._package.machinelearning_run(name=name, configs=dict(config), **where),
        )

    def advance(self) -> None:
        """Nothing: metrics come by step."""

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """All metrics of a step, by their own names."""
        values = [{"metric_name": k, "value": float(v)} for k, v in metrics.items()]
        self._package.metrics.record_metrics(values, step=step)

    def close(self) -> None:
        """Nothing: its threads end with the process."""


def reporters(
    config: Mapping[str, Any], workdir: epath.PathLike, step: int
) -> list[Goodput | Diagnostics]:
    """Those that a resolved config asks for; runs from before it ask for none.

    Raises:
      NotReported: a package is not installed, or Google Cloud cannot be reached.
    """
    train = config.get("train", {})
    job, run = train.get("goodput_job", ""), train.get("mldiagnostics", "")
    found: list[Goodput | Diagnostics] = [Goodput(job, step)] if job else []
    return found + ([Diagnostics(run, workdir, config)] if run else [])
