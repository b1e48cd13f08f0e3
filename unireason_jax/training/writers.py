"""Where metrics go: stdout, metrics.jsonl, TensorBoard, a progress bar, and others if asked."""

import json
import sys
import uuid
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from etils import epath
from PIL import Image

from unireason_jax.storage import atomic, lines, paths
from unireason_jax.storage.mirror import Mirror
from unireason_jax.training import google_cloud

HEADLINE = ("reward", "right/first", "right/last", "repair", "damage")
HEADLINE += ("loss", "loss/ce", "loss/flow", "loss/code", "accuracy/text", "grad_norm", "lr")
WARNINGS = ("skipped", "consecutive_skips", "data/quarantined")  # on stdout when not zero


def duration(seconds: float) -> str:
    """1h02m, 3m20s or 12s."""
    whole = int(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{whole % 60:02d}s" if minutes else f"{whole}s"


class Writers:
    """Writes metrics to stdout, metrics.jsonl, TensorBoard and, if asked, to Weights & Biases and
    Google Cloud.

    Only process 0 writes. When a run resumes, jsonl rows after the step it resumes from are
    dropped, so that a file never holds a step twice.

    Args:
      workdir: the run's directory.
      start: the step training starts or resumes from.
      total: the last step, for the time that is left.
      tensorboard: write event files under <workdir>/tensorboard.
      wandb: project name, or "" for none.
      config: resolved config, stored with the run elsewhere; says what Google Cloud is told.
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
        self._reporters = google_cloud.reporters(config or {}, workdir, start)
        if not self.active:
            return
        self._jsonl = epath.Path(workdir) / "metrics.jsonl"
        self._samples = epath.Path(workdir) / "samples"
        _drop_rows_after(self._jsonl, start)
        if tensorboard:
            from tensorboardX import SummaryWriter

            self._mirror = Mirror(paths.of(workdir) / "tensorboard")
            self._events = SummaryWriter(str(self._mirror.local), purge_step=start + 1)
        if wandb:
            self._wandb = _start_wandb(wandb, epath.Path(workdir), dict(config or {}))
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total, initial=start, unit="step", dynamic_ncols=True)

    def advance(self) -> None:
        """A step is done: moves the progress bar; there is one on a terminal only."""
        for reporter in self._reporters:
            reporter.advance()
        if self._bar is not None:
            self._bar.update()

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """One line on stdout, one row in metrics.jsonl, one point per metric elsewhere."""
        if not self.active:
            return
        row = {"step": step, **{k: float(v) for k, v in metrics.items()}}
        lines.append(self._jsonl, json.dumps(row) + "\n")
        if self._events is not None:
            for name, value in metrics.items():
                self._events.add_scalar(name, float(value), step)
            self._events.flush()
            self._mirror.update()
        if self._wandb is not None:
            self._wandb.log({**metrics, "step": step})
        for reporter in self._reporters:
            reporter.write(step, metrics)
        line = self._line(step, metrics)
        print(line, flush=True) if self._bar is None else self._bar.write(line)

    def show(self, step: int, pictures: Mapping[str, Image.Image]) -> None:
        """Pictures by what was asked for: <workdir>/samples/<step>-<n>.png, TensorBoard, W&B."""
        if not self.active:
            return
        for number, (prompt, picture) in enumerate(pictures.items()):
            with atomic.replacing(self._samples / f"{step:07d}-{number}.png") as part:
                picture.save(part, "PNG")
            if self._events is not None:
                pixels = np.asarray(picture.convert("RGB"))
                self._events.add_image(f"samples/{number}", pixels, step, dataformats="HWC")
                self._events.add_text(f"samples/{number}", prompt, step)
        if self._wandb is not None:
            wandb = require_wandb()
            images = [wandb.Image(picture, caption=name) for name, picture in pictures.items()]
            self._wandb.log({"samples": images, "step": step})

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
        for writer in (self._bar, self._events, *self._reporters):
            if writer is not None:
                writer.close()
        if self._events is not None:
            self._mirror.close()
        if self._wandb is not None:
            self._wandb.finish()


def _drop_rows_after(path: epath.Path, step: int) -> None:
    """Leaves the complete rows of a metrics file up to a step; a local file is made."""
    for part in lines.parts(path) or ([path] if paths.is_local(path) else []):
        before = part.read_text() if part.exists() else None
        kept = "".join(line for line in (before or "").splitlines(True) if _is_kept(line, step))
        if kept != before:
            atomic.write_text(part, kept)


def _is_kept(line: str, step: int) -> bool:
    """Whether a line is a whole row of a step up to this one."""
    try:
        return line.endswith("\n") and json.loads(line)["step"] <= step
    except (ValueError, KeyError, TypeError):
        return False  # what a killed process was writing


def check(train: Mapping[str, Any]) -> None:
    """Whether the packages are there that `config.train` asks for. Raises ValueError naming one."""
    if train["wandb"]:
        require_wandb()
    google_cloud.check(train)


def require_wandb() -> Any:
    """The package. Raises ValueError, in one line, when it is not installed."""
    try:
        import wandb
    except ModuleNotFoundError:
        raise ValueError(
            "--config.train.wandb is set but wandb is not installed: pip install "
            "'unireason-jax[wandb]', or set it to ''."
        ) from None
    return wandb


def _start_wandb(project: str, workdir: epath.Path, config: dict[str, Any]) -> Any:
    """A Weights & Biases run, the same one after every restart of the workdir.

    Its name is the workdir's; a member of a sweep or a study is named with the folder it lies in,
    which is its group. What is lost and done again keeps its step: the axis is "step".
    """
    wandb, note = require_wandb(), workdir / "wandb.json"
    if note.exists():
        identity = json.loads(note.read_text())
    else:
        parent, name = workdir.absolute().parent.name, workdir.name
        identity = {"id": uuid.uuid4().hex[:12], "name": f"{parent}/{name}", "group": parent}
        atomic.write_text(note, json.dumps(identity) + "\n")
    options = {"dir": str(workdir)} if paths.is_local(workdir) else {}
    run = wandb.init(project=project, config=config, resume="allow", **options, **identity)
    run.define_metric("*", step_metric="step")
    return run
