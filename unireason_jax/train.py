"""Trains a model from a config, and goes on where it stopped.

    python -m unireason_jax.train --config=configs/tiny.py --workdir=runs/tiny
    ... --config.optim.lr=1e-3      overrides any leaf of the config
    ... --sweep_index=2             applies entry 2 of the config's sweep()
    ... --dry_run                   says what would happen, trains nothing

Where the weights come from, first match wins:
  1. a sound checkpoint in --workdir: the same run goes on, bit for bit on the same mesh;
  2. --config.resume_from: the whole state of another run;
  3. --config.init_from: weights of another run or of converted files, fresh optimizer (with
     --config.lora.rank: they stay as they are, and the run learns adapters beside them);
  4. --config.init_from=scratch: random weights. This has to be said.
On SIGTERM the run saves and exits with status 0; start the same command again to go on. Status 2
says that something has to be mended first, which no restart does.
"""

import contextlib
import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from absl import app, flags, logging
from etils import epath
from ml_collections import ConfigDict, config_flags

from unireason_jax.data.pipeline import Pipeline
from unireason_jax.evals import loss
from unireason_jax.evals.samples import Samples
from unireason_jax.inference import teachers
from unireason_jax.models import functional
from unireason_jax.models.archive import ArchiveError
from unireason_jax.models.flash import RowTooLong
from unireason_jax.pictures import packed_row
from unireason_jax.pods import batches, pod, sharding
from unireason_jax.pods.preemption import StopSignal
from unireason_jax.pods.watchdog import Watchdog
from unireason_jax.run import (
    compile_cache,
    configuration,
    corpus,
    drawing_assets,
    init_from,
    overrides,
    preflight,
    records_match,
    run_summary,
)
from unireason_jax.run.command_line import MENDABLE, Mistake
from unireason_jax.run.configuration import ConfigError
from unireason_jax.run.initial_state import starting_state
from unireason_jax.run.run import Run
from unireason_jax.storage import atomic, lock, paths
from unireason_jax.training import google_cloud, metrics, stragglers, writers
from unireason_jax.training.checkpoint import (
    CheckpointFailed,
    CheckpointMismatch,
    CheckpointMissing,
    Checkpoints,
)
from unireason_jax.training.goodput import Ledger
from unireason_jax.training.optim import merge
from unireason_jax.training.save_schedule import Pace
from unireason_jax.training.state import TrainState
from unireason_jax.training.writers import Writers

CONFIG = config_flags.DEFINE_config_file("config", None, "Config file, e.g. configs/tiny.py.")
WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the run; an existing run goes on.")
START_OVER = flags.DEFINE_bool(
    "start_over", False, "Begin anew where every checkpoint in --workdir is damaged."
)
DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print what would happen and draw a pack.")
SWEEP_INDEX = flags.DEFINE_integer("sweep_index", None, "Entry of the config's sweep().")

_REASONS = 3  # of records that cannot be used, told by a dry run
_MISTAKES = (ConfigError, ArchiveError, RowTooLong, CheckpointMismatch, CheckpointMissing)
_MISTAKES += (google_cloud.NotReported,)


class TrainingDiverged(RuntimeError):
    """Too many updates in a row had to be skipped."""


def main(argv: list[str]) -> None:
    """Joins the pod, settles the config, and trains (or says what it would do)."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}; flags start with --.")
    if CONFIG.value is None or not WORKDIR.value:
        raise app.UsageError("--config=<file> and --workdir=<directory> are needed.")
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # libraries only when something is wrong
    workdir = epath.Path(paths.of(WORKDIR.value))
    joined = sharding.initialize_distributed() > 1
    compile_cache.share(workdir / "compiled" if joined else None)
    try:
        with pod.ending_together():
            attempt(CONFIG.value, workdir)
    except Mistake as mistake:
        print(mistake, file=sys.stderr)
        sys.exit(mistake.status)


def attempt(config: ConfigDict, workdir: epath.Path) -> None:
    """One process's part of the job; what the user can mend becomes one line, not a traceback."""
    with contextlib.ExitStack() as stack:
        _attempt(config, workdir, stack)


def _attempt(config: ConfigDict, workdir: epath.Path, stack: contextlib.ExitStack) -> None:
    """`attempt` within what is held until it ends."""
    try:
        if SWEEP_INDEX.value is not None:
            path = config_flags.get_config_filename(flags.FLAGS["config"])
            workdir /= configuration.apply_sweep(config, path, SWEEP_INDEX.value)
        if not DRY_RUN.value:
            stack.enter_context(pod.holding(workdir, "unireason train", seen=True))
        told = [*init_from.settle(config, workdir), *teachers.settle(config, workdir)]
        missing = corpus.absent(config) if DRY_RUN.value else []
        run = Run.of(config, has_records=not missing).settled()
        records_match.check(run, workdir)
        pipeline = None if missing else run.pipeline(workdir=workdir, dry_run=DRY_RUN.value)
        if DRY_RUN.value:
            rehearse(run, pipeline, workdir, told)
            return
        writers.check(config.train)
    except lock.FolderBusy as error:  # a lost machine's lock passes
        raise SystemExit(f"error: {error}") from error
    except MENDABLE as error:
        raise Mistake(f"error: {error}") from error
    except OSError as error:
        raise SystemExit(f"error: {error}") from error
    try:
        train(run, pipeline, workdir, start_over=START_OVER.value, taken_over=told)
    except _MISTAKES as error:
        raise Mistake(f"error: {error}") from error
    except (OSError, CheckpointFailed) as error:
        raise SystemExit(f"error: {error}") from error


def train(
    run: Run,
    pipeline: Pipeline,
    workdir: epath.Path,
    *,
    start_over: bool = False,
    taken_over: Sequence[str] = (),
) -> TrainState:
    """The whole run, in the order the machine lives it; returns the last state.

    Args:
      run: what is trained.
      pipeline: this process's part of its batches; closed in the end.
      workdir: its directory.
      start_over: begin anew where every checkpoint there is damaged.
      taken_over: what `init_from.settle` told.
    """
    config = run.config
    minutes = config.train.get("save_minutes", 0.0)  # runs from before it have none
    pace = Pace(config.train.save_every, minutes, config.train.log_every)
    workdir.mkdir(parents=True, exist_ok=True)
    with (
        jax.set_mesh(run.mesh),
        StopSignal(pace.at_stake) as stop,
        Watchdog(config.train.hang_seconds, give_up=pod.fail) as watchdog,
        Checkpoints(
            workdir,
            keep=config.train.keep,
            keep_every=config.train.keep_every,
            hashes=config.train.hash_checkpoints,
            start_over=start_over,
        ) as checkpoints,
    ):
        watchdog.note("loading or drawing the weights")
        state, saved, source = starting_state(run, checkpoints)
        start, steps = int(state.step), config.train.steps
        pace.saved(start)
        introduce(run, workdir, [*taken_over, f"{source}; step {start} to {steps}"])
        aside = Aside(run, pipeline, workdir, checkpoints, watchdog, start=start, saved=saved)
        train_step = aside.compile() if start < steps else None
        stopped = False
        for step in range(start, steps):
            # Evaluate with the old weights, save, draw the next batch, step: in this order, so
            # that a checkpoint holds weights and the batch they have not seen yet.
            if step > start and due(step, config.eval.every):
                aside.evaluate(step, state)
            if step > start and pace.due(step):
                aside.save(step, state)
                pace.saved(step)
            aside.meter.wait()  # a signal that comes meanwhile stops the next step
            if stopped := stop.reached(step):
                break
            batch = aside.next_batch(step)
            named = jax.profiler.StepTraceAnnotation("train", step_num=step)
            with named, jax.transfer_guard("disallow"):
                state, scalars = train_step(state, batch)
            aside.note(step + 1, scalars)
        aside.finish(state, stopped)
    if jax.process_index() == 0:
        ended = "stopped by SIGTERM, saved" if stopped else "finished"
        print(f"{ended} at step {int(state.step)}: {workdir}", flush=True)
        if not stopped:
            print(f"next: unireason generate --checkpoint {workdir} --prompt TEXT --out DIR")
    return state


def introduce(run: Run, workdir: epath.Path, lines: Sequence[str]) -> None:
    """Saves what sampling needs, and says what is about to be trained (the first process)."""
    if jax.process_index() == 0:
        run.save(workdir)
        records_match.save(run, workdir)
        *taken_over, source = lines
        for line in (run_summary.run_lines(run), *taken_over):
            print(line)
        print(f"{functional.size(run.model):,} parameters from {source}", flush=True)


class Aside:
    """What a run does beside its steps: it feeds, watches, evaluates, saves and reports.

    Every state that is worked on is an argument. `meter` measures the steps.

    Args:
      run, pipeline, workdir, checkpoints, watchdog: of `train`.
      start: the step that the run begins or goes on with.
      saved: what a checkpoint held besides the state; None at the beginning.
    """

    def __init__(
        self,
        run: Run,
        pipeline: Pipeline,
        workdir: epath.Path,
        checkpoints: Checkpoints,
        watchdog: Watchdog,
        *,
        start: int,
        saved: Mapping[str, Any] | None,
    ):
        config, peak = run.config, metrics.peak_flops()
        self._run, self._pipeline, self._start = run, pipeline, start
        self._checkpoints, self._watchdog = checkpoints, watchdog
        self.meter = metrics.Meter(peak and peak * jax.device_count())
        if saved:
            pipeline.set_state(saved["data"])
            self.meter.restore(saved["meter"])
            pipeline.restore(saved.get("totals"))
        self._writers = Writers(
            workdir,
            start=start,
            total=config.train.steps,
            tensorboard=config.train.tensorboard,
            wandb=config.train.wandb,
            config=configuration.plain(config),
        )
        self._ledger = Ledger(workdir, start)
        port = config.train.get("profiler_port", 0)  # runs from before it have none
        self._profiler = metrics.Profiler(config.train.profile, workdir, port)
        self._evaluator = loss.held_out(run)
        self._samples = Samples(run, workdir) if config.eval.every and config.eval.samples else None

    def compile(self) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
        """The train step as an executable."""
        self._watchdog.pause()  # a large model compiles for long, and says so
        with self.meter.clock("compile"):
            return self._run.compile_step(self._pipeline.batch_spec())

    def evaluate(self, step: int, state: TrainState) -> None:
        """Held-out loss, and drawn samples, of the averaged weights; nothing if switched off."""
        if not self._evaluator:
            return
        self._watchdog.note(f"evaluation at step {step}")
        with self.meter.clock("eval"):
            weights = merge(state.ema, state.params) if state.ema else state.params
            self._writers.write(step, self._evaluator(weights))
            if self._samples:
                self._watchdog.pause()  # the first drawing compiles
                self._writers.show(step, self._samples(weights))

    def save(self, step: int, state: TrainState) -> None:
        """Starts to save a checkpoint."""
        self._watchdog.note(f"checkpoint of step {step}")
        with self.meter.clock("checkpoint"):
            position = {"data": self._pipeline.get_state(), "meter": self.meter.state()}
            position |= {"totals": self._pipeline.totals()}
            self._checkpoints.save(step, state, position)

    def next_batch(self, step: int) -> dict[str, jax.Array]:
        """The global batch of a step that begins now."""
        self._watchdog.note(f"step {step}")
        self._profiler.at(step)
        with self.meter.clock("data"):
            return batches.global_batch(self._run.mesh, next(self._pipeline))

    def note(self, finished: int, scalars: dict[str, jax.Array]) -> None:
        """Takes in a step, given how many are finished; reports when it is time.

        Raises:
          TrainingDiverged: too many updates in a row were skipped.
        """
        run, config = self._run, self._run.config
        counts = global_counts(self._pipeline)
        backward = 0.0 if config.loss.detach_und else 2.0
        flops = metrics.train_flops(run.model, counts, und_backward=backward)
        self.meter.add(scalars, counts, flops)
        self._writers.advance()
        if due(finished, config.train.log_every) or finished == config.train.steps:
            numbers = self.meter.report() | data_numbers(self._pipeline)
            numbers |= self._ledger.add(finished, metrics.phases(numbers))
            numbers |= stragglers.compared(numbers)
            self._writers.write(finished, numbers)
            self._profiler.look(finished)
            refuse_divergence(numbers, finished, run.optimizer.config.max_skips)

    def finish(self, state: TrainState, stopped: bool) -> None:
        """The last evaluation and checkpoint; everything is closed."""
        finished = int(state.step)
        if not stopped and finished > self._start:
            self.evaluate(finished, state)
        if self._checkpoints.saved != finished:
            self.save(finished, state)
        with self.meter.clock("checkpoint"):
            self._checkpoints.wait()
        self._ledger.add(finished, self.meter.clock.split()[1])
        for part in (self._profiler, self._pipeline, self._writers):
            part.close()


def due(step: int, every: int) -> bool:
    """Whether something that happens every so many steps (0: never) happens at this one."""
    return every > 0 and step > 0 and step % every == 0


def global_counts(pipeline: Pipeline) -> dict[str, int]:
    """Tokens and pairs of the global batch, estimated from this process's rows."""
    shares = pipeline.rows // pipeline.local_rows
    return {name: n * shares for name, n in pipeline.counts.items()}


def data_numbers(pipeline: Pipeline) -> dict[str, float]:
    """Fill of the rows, epoch and records quarantined by any process, for the metrics."""
    for news in pod.gather("quarantined records", pipeline.quarantine.news()):
        pipeline.quarantine.know(news)
    wanted = ("fill/", "epoch", "quarantined")
    return {f"data/{k}": v for k, v in pipeline.stats().items() if k.startswith(wanted)}


def refuse_divergence(numbers: dict[str, float], step: int, limit: int) -> None:
    """Raises TrainingDiverged when too many updates in a row were skipped."""
    if numbers["consecutive_skips"] >= limit:
        raise TrainingDiverged(
            f"step {step}: the last {numbers['consecutive_skips']:.0f} updates were skipped (loss "
            f"{numbers['loss']:.4g}, gradient norm {numbers['grad_norm']:.4g}). Lower "
            "--config.optim.lr, look at the data, or raise --config.optim.max_skips; the newest "
            "checkpoint is from before."
        )


def rehearse(run: Run, pipeline: Pipeline | None, workdir: epath.Path, told: Sequence[str]) -> None:
    """The dry run; ends with status 1, a line each, where the run would fail."""
    for line in told:
        print(line)
    wrong = preflight.problems(run, workdir)
    try:
        dry_run(run, pipeline, workdir)
    except (ValueError, OSError) as error:
        wrong = wrong or [str(error)]
    if wrong:
        raise SystemExit("\n".join(f"error: {line}" for line in wrong))
    print("next: the same command without --dry_run")


def dry_run(run: Run, pipeline: Pipeline | None, workdir: epath.Path) -> None:
    """Prints config, parameters, batch and memory, and draws the first pack; trains nothing."""
    print(run_summary.describe(run, pipeline.batch_spec() if pipeline else run.batch_spec()))
    if told := drawing_assets.complaint(run.config, run.codec, workdir):
        print(told)
    if pipeline:
        show_packs(run, pipeline, workdir)


def show_packs(run: Run, pipeline: Pipeline, workdir: epath.Path) -> None:
    """Prints how full the packs are, and draws the first one."""
    print(f"{len(pipeline.plan)} packs in an epoch; fill: {pipeline.fill_told()}")
    first = {name: array[0] for name, array in next(pipeline).items()}
    pipeline.close()
    print(pipeline.quarantine.summary())
    for source, record, reason in pipeline.quarantine.entries()[:_REASONS]:
        print(f"  {record} of {source}: {reason}")
    picture = workdir / "pack.png"
    drawing = packed_row.draw_row(first, run.tokenizer, title="first row of the run")
    with atomic.replacing(picture) as part:
        drawing.save(part)
    print(f"the first row is drawn in {picture}")


if __name__ == "__main__":
    own = (CONFIG, WORKDIR, DRY_RUN, SWEEP_INDEX, START_OVER)
    app.run(main, flags_parser=functools.partial(overrides.parse_flags, about=__doc__, own=own))
