"""Where metrics go: stdout, metrics.jsonl, TensorBoard, a progress bar, Weights & Biases."""

import json
import sys
from collections.abc import Mapping
from typing import Any

import jax
from etils import epath

from unireason_jax.storage import atomic

HEADLINE = ("loss", "loss/ce", "loss/flow", "accuracy/text", "grad_norm", "lr")
WARNINGS = ("skipped", "consecutive_skips", "data/quarantined")  # on stdout when not zero


def duration(seconds: float) -> str:
    """1h02m, 3m20s or 12s."""
    whole = int(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{whole % 60:02d}s" if minutes else f"{whole}s"


class Writers:
    """Writes metrics to stdout, metrics.jsonl, TensorBoard and, if asked, Weights & Biases.

    Only process 0 writes. When a run resumes, jsonl rows after the step it resumes from are
    dropped, so that a file never holds a step twice.

    Args:
      workdir: the run's directory.
      start: the step training starts or resumes from.
      total: the last step, for the time that is left.
      tensorboard: write event files under <workdir>/tensorboard.
      wandb: project name, or "" for none.
      config: resolved config, stored with the run at Weights & Biases.
    """

    def __init__(
        self,
        workdir: epath.PathLike,
        *,
        start: int,
        total: int,
        tensorboard: bool = True,
        wandb: str = "",
        config: Mapping[str, Any] | None = None,
    ):
        self.total, self.active = total, jax.process_index() == 0
        self._bar = self._events = self._wandb = None
        if not self.active:
            return
        self._jsonl = epath.Path(workdir) / "metrics.jsonl"
        _drop_rows_after(self._jsonl, start)
        if tensorboard:
            from tensorboardX import SummaryWriter

            folder = str(epath.Path(workdir) / "tensorboard")
            self._events = SummaryWriter(folder, purge_step=start + 1)
        if wandb:
            self._wandb = _start_wandb(wandb, str(workdir), dict(config or {}))
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total, initial=start, unit="step", dynamic_ncols=True)

    def advance(self) -> None:
        """Moves the progress bar by one step; there is one on a terminal only."""
        if self._bar is not None:
            self._bar.update()

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """One line on stdout, one row in metrics.jsonl, one point per metric elsewhere."""
        if not self.active:
            return
        row = {"step": step, **{k: float(v) for k, v in metrics.items()}}
        atomic.append(self._jsonl, json.dumps(row) + "\n")
        if self._events is not None:
            for name, value in metrics.items():
                self._events.add_scalar(name, float(value), step)
            self._events.flush()
        if self._wandb is not None:
            self._wandb.log(dict(metrics), step=step)
        line = self._line(step, metrics)
        print(line, flush=True) if self._bar is None else self._bar.write(line)

    def _line(self, step: int, metrics: Mapping[str, float]) -> str:
        """The stdout line: losses, speed, utilisation, share of waiting, time left."""
        parts = [f"step {step}/{self.total}"]
        shown = [name for name in HEADLINE if name in metrics]
        shown += [name for name in metrics if name.startswith("eval/")]
        shown += [name for name in WARNINGS if metrics.get(name)]
        parts += [f"{name} {metrics[name]:.4g}" for name in shown]
        rate = metrics.get("speed/steps_per_s")
        if rate:
            speed = sum(v for k, v in metrics.items() if k.endswith("_tokens_per_s"))
            parts.append(f"{rate:.3g} steps/s")
            parts.append(f"{speed:.4g} tokens/s")
            if "speed/mfu" in metrics:
                parts.append(f"mfu {metrics['speed/mfu']:.1%}")
            waited = metrics.get("time/data", 0.0) / max(metrics["time/total"], 1e-9)
            parts.append(f"data wait {waited:.0%}")
            if "goodput/productive" in metrics:
                parts.append(f"goodput {metrics['goodput/productive']:.0%}")
            parts.append(f"eta {duration((self.total - step) / rate)}")
        return " | ".join(parts)

    def close(self) -> None:
        """Flushes and closes every writer."""
        for writer in (self._bar, self._events):
            if writer is not None:
                writer.close()
        if self._wandb is not None:
            self._wandb.finish()


def _drop_rows_after(path: epath.Path, step: int) -> None:
    """Leaves the complete rows of a metrics file up to a step; the file is there afterwards."""
    before = path.read_text() if path.exists() else None
    kept = "".join(line for line in (before or "").splitlines(True) if _is_kept(line, step))
    if kept != before:
        atomic.write_text(path, kept)


def _is_kept(line: str, step: int) -> bool:
    """Whether a line is a whole row of a step up to this one."""
    try:
        return line.endswith("\n") and json.loads(line)["step"] <= step
    except (ValueError, KeyError, TypeError):
        return False  # what a killed process was writing


def _start_wandb(project: str, workdir: str, config: dict[str, Any]) -> Any:
    """A Weights & Biases run. Raises ValueError when the package is not installed."""
    try:
        import wandb
    except ModuleNotFoundError:
        raise ValueError(
            "--config.train.wandb is set but wandb is not installed: pip install "
            "'unireason-jax[wandb]', or set it to ''."
        ) from None
    return wandb.init(project=project, dir=workdir, config=config, resume="allow")
